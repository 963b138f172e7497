"""The most recent predictions of a project, which are stored, and the calls that list them or train on them."""

from __future__ import annotations

import logging

from tagger import storage
from tagger.checkpoint.info import Json
from tagger.errors import TaggerError
from tagger.images.suffixes import suffix_of
from tagger.inference.pipeline import Row
from tagger.serving.projects.calls import (
    Answer,
    Call,
    checked_choice,
    checked_ids,
    checked_list,
    checked_number,
    handles,
    token_page,
)
from tagger.serving.projects.image_calls import MAX_BATCH, added, batch
from tagger.serving.projects.project import PREDICTIONS, Project, now
from tagger.serving.projects.uploads import Entry

log = logging.getLogger(__name__)

MAX_TAGS = 2
_ORDERS = ("Newest", "Oldest", "Suggested")


def store(project: Project, found: Json, row: Row, content: bytes, application: str, most: int) -> bool:
    """Store a response and its image, dropping the oldest beyond `most`; return whether it was stored."""
    shown = [
        {name: each[name] for name in ("probability", "tagId", "tagName", "tagType")} for each in found["predictions"]
    ]
    record: Json = {
        "id": found["id"],
        "file": f"{found['id']}.{suffix_of(row['format'] or 'image')}",
        "created": now(),
        "iteration": found["iteration"],
        "application": application[:256],
        "predictions": shown,
    }
    try:
        storage.write_atomic(storage.local_uri(str(project.image_path(PREDICTIONS, record))), content)
        with project.lock:
            oldest = list(project.journal.of(PREDICTIONS).values())[: -most + 1 or None]
            project.write((PREDICTIONS, record["id"], record), *((PREDICTIONS, old["id"], None) for old in oldest))
    except (TaggerError, OSError) as error:
        log.warning("a prediction cannot be stored: %s", error)
        return False
    for old in oldest:
        project.image_path(PREDICTIONS, old).unlink(missing_ok=True)
    return True


@handles("POST", "projects/{project}/predictions/query")
def query_predictions(call: Call) -> Answer:
    """List stored predictions, page by page."""
    project, token = call.project, call.json()
    answered, page = token_page(token, _TOKEN, _chosen(project, token))
    return {"token": answered, "results": [_view(call, project, each) for each in page]}


@handles("DELETE", "projects/{project}/predictions")
def delete_prediction(call: Call) -> Answer:
    """Delete stored predictions."""
    _remove(call.project, call.listed_ids("ids", MAX_BATCH))
    return None


@handles("POST", "projects/{project}/images/predictions")
def create_images_from_predictions(call: Call) -> Answer:
    """Move the images of stored predictions to the images of the project."""
    project, entries, ids = call.project, list[Entry](), list[str]()
    for given, tags in batch(call):
        (id,) = checked_ids([given.get("id")], "id", 1)
        ids.append(id)
        record = project.journal.get(PREDICTIONS, id)
        path = record and project.image_path(PREDICTIONS, record)
        content = path.read_bytes() if path and path.exists() else None
        entries.append(Entry(id, content, tags, "ErrorImageNotFound"))
    outcomes, answer = added(call, entries)
    _remove(project, [id for id, outcome in zip(ids, outcomes, strict=True) if outcome.image])
    return answer


_TOKEN = ("session", "orderBy", "tags", "iterationId", "startTime", "endTime", "application")


def _chosen(project: Project, token: Json) -> list[Json]:
    """Return the predictions that a token selects, in its order."""
    order = checked_choice(token.get("orderby"), _ORDERS, "orderBy", "BadRequestPredictionInvalidQueryParameters")
    tags = checked_list(token["tags"], "tags", MAX_TAGS) if token.get("tags") else []
    same = {name: token.get(key) for name, key in (("iteration", "iterationid"), ("application", "application"))}
    found = [
        each
        for each in project.journal.of(PREDICTIONS).values()
        if all(not value or each[name] == value for name, value in same.items())
        and str(token.get("starttime") or "") <= each["created"] <= str(token.get("endtime") or "~")
        and all(_within(each, tag) for tag in tags)
    ]
    if order == "Suggested":
        return sorted(found, key=lambda each: max(one["probability"] for one in each["predictions"]))
    return found if order == "Oldest" else found[::-1]


def _within(record: Json, tag: Json) -> bool:
    """Return whether a prediction has the tag with a probability between the thresholds."""
    low = checked_number(tag.get("minthreshold"), "minThreshold")
    high = checked_number(tag.get("maxthreshold"), "maxThreshold", 1.0)
    return any(each["tagId"] == tag.get("id") and low <= each["probability"] <= high for each in record["predictions"])


def _view(call: Call, project: Project, record: Json) -> Json:
    link = call.link(PREDICTIONS, record["id"])
    shown = {name: record[name] for name in ("id", "created", "iteration", "predictions")}
    links = {"resizedImageUri": link, "thumbnailUri": link, "originalImageUri": link}
    return {**shown, **links, "project": project.id, "domain": project.facts["domainId"]}


def _remove(project: Project, ids: list[str]) -> None:
    with project.lock:
        gone = [record for id in ids if (record := project.journal.get(PREDICTIONS, id))]
        if gone:
            project.write(*((PREDICTIONS, record["id"], None) for record in gone))
    for record in gone:
        project.image_path(PREDICTIONS, record).unlink(missing_ok=True)
