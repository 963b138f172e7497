"""Calls that predict images with an iteration, published or not: quick tests, and suggested tags to confirm."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from tagger.checkpoint.info import Json
from tagger.inference.pipeline import Row
from tagger.schema import TAGGED
from tagger.serving import customvision
from tagger.serving.body import image_in, url_in
from tagger.serving.customvision import Target
from tagger.serving.errors import Refused, of_row
from tagger.serving.projects.calls import Answer, Call, checked_choice, checked_ids, checked_number, handles, token_page
from tagger.serving.projects.image_calls import MAX_BATCH, view_of
from tagger.serving.projects.iteration_calls import target_of, trained
from tagger.serving.projects.project import COMPLETED, IMAGES, ITERATIONS, Project

MOST = 2000
"""Maximum number of untagged images, newest first, that a query predicts."""
LISTED = 4 * MOST
"""Maximum number of suggestions in memory."""
TOP = 10
"""Maximum number of predictions per image that a query lists."""
_TOKEN = ("tagIds", "threshold", "session", "sortBy")
_ORDERS = ("UncertaintyDescending", "UncertaintyAscending")


@handles("POST", "projects/{project}/quicktest/image")
def quick_test_image(call: Call) -> Answer:
    """Predict an image."""
    return _quick_test(call, image_in(call.body, call.content_type))


@handles("POST", "projects/{project}/quicktest/url")
def quick_test_image_url(call: Call) -> Answer:
    """Predict an image from a URL."""
    return _quick_test(call, call.fetch(url_in(call.body, call.content_type)))


@handles("POST", "projects/{project}/tagsandregions/suggestions")
def suggest_tags_and_regions(call: Call) -> Answer:
    """Suggest tags for images, with the uncertainty of each image."""
    project, iteration = call.project, trained(call, call.text("iterationId"))
    images = [project.record(IMAGES, id) for id in call.listed_ids("imageIds", MAX_BATCH)]
    view = view_of(call)
    return [{**view(image), **suggestion} for image, suggestion in _predicted(call, iteration, images)]


@handles("POST", "projects/{project}/images/suggested")
def query_suggested_images(call: Call) -> Answer:
    """List untagged images and the tags suggested for them, most uncertain first, page by page."""
    token, view = call.json(), view_of(call)
    order = checked_choice(token.get("sortby"), _ORDERS, "sortBy", "BadRequestPredictionInvalidQueryParameters")
    found = [(image, suggestion) for image, suggestion, _ in _suggested(call, token)]
    found.sort(key=lambda each: each[1]["predictionUncertainty"], reverse=order == _ORDERS[0])
    answered, page = token_page(token, _TOKEN, found)
    domain = call.project.facts["domainId"]
    return {
        "token": answered,
        "results": [{**view(image), **suggestion, "id": image["id"], "domain": domain} for image, suggestion in page],
    }


@handles("POST", "projects/{project}/images/suggested/count")
def query_suggested_image_count(call: Call) -> Answer:
    """Count the untagged images that each tag is suggested for."""
    token = call.json()
    counts = Counter(tag for _, _, tags in _suggested(call, token) for tag in tags)
    return {tag: counts[tag] for tag in checked_ids(token.get("tagids"), "tagIds", MAX_BATCH) or counts}


def _suggested(call: Call, token: Json) -> Iterator[tuple[Json, Json, list[str]]]:
    """Yield untagged images, their suggestions, and the ids of the suggested tags that the token selects."""
    project, iteration = call.project, trained(call, call.text("iterationId"))
    chosen = checked_ids(token.get("tagids"), "tagIds", MAX_BATCH)
    least = checked_number(token.get("threshold"), "threshold")
    untagged = (image for image in reversed(project.journal.of(IMAGES).values()) if not image["tags"])
    images = list(islice(untagged, MOST))
    suggestions = _suggestions(call, iteration, images)
    for image in images:
        suggestion = suggestions.get(image["id"], {"predictions": []})  # it may have been deleted meanwhile
        sure = [each["tagId"] for each in suggestion["predictions"] if each["probability"] >= least]
        if tags := [tag for tag in sure if not chosen or tag in chosen]:
            yield image, suggestion, tags


def _suggestions(call: Call, iteration: Json, images: Sequence[Json]) -> dict[str, Json]:
    """Return image id -> suggestion; images without one in memory are predicted."""
    found, id = call.state.suggestions, iteration["id"]
    missing = [image for image in images if (id, image["id"]) not in found]
    for image, suggestion in _predicted(call, iteration, missing):
        found[id, image["id"]] = suggestion | {"predictions": suggestion["predictions"][:TOP]}
    chosen = {image["id"]: each for image in images if (each := found.get((id, image["id"])))}
    for oldest in list(found)[:-LISTED]:
        found.pop(oldest, None)
    return chosen


def _predicted(call: Call, iteration: Json, images: Sequence[Json]) -> Iterator[tuple[Json, Json]]:
    """Yield images with their suggestions."""
    batcher, project = call.batcher(iteration), call.project
    target = target_of(iteration, batcher)
    for start in range(0, len(images), MAX_BATCH):
        some = [image for image in images[start : start + MAX_BATCH] if project.image_path(IMAGES, image).exists()]
        futures = [batcher.submit(project.image_path(IMAGES, image).read_bytes()) for image in some]
        for image, future in zip(some, futures, strict=True):
            yield image, _suggestion(project, target, future.result())


def _suggestion(project: Project, target: Target, row: Row) -> Json:
    predictions = customvision.answer(project.id, row, target)["predictions"] if row["status"] in TAGGED else []
    entropy = -sum(each["probability"] * math.log2(max(each["probability"], 1e-12)) for each in predictions)
    found = {"project": project.id, "iteration": target.iteration, "predictions": predictions}
    return {**found, "predictionUncertainty": entropy}


def _quick_test(call: Call, content: bytes) -> Json:
    project = call.project
    iteration = trained(call, call.query.get("iterationid") or _latest(project))
    batcher = call.batcher(iteration)
    row = batcher.submit(content).result()
    if row["status"] not in TAGGED:
        raise of_row(row)
    return customvision.answer(project.id, row, target_of(iteration, batcher))


def _latest(project: Project) -> str:
    done = [id for id, each in project.journal.of(ITERATIONS).items() if each["status"] == COMPLETED]
    if not done:
        raise Refused(404, "NotFoundProjectDefaultIteration", "the project has no trained iteration")
    return done[-1]
