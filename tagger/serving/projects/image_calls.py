"""Calls about images and their tags."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from fastapi.responses import JSONResponse

from tagger.checkpoint.info import Json
from tagger.serving.body import images_in
from tagger.serving.errors import Refused
from tagger.serving.projects.calls import (
    Answer,
    Call,
    checked_choice,
    checked_ids,
    checked_list,
    checked_text,
    handles,
    paged,
)
from tagger.serving.projects.project import IMAGES, TAGS, Project
from tagger.serving.projects.uploads import OK, Added, Entry, add, with_tags

MAX_BATCH, MAX_BATCH_TAGS, MAX_IDS = 64, 20, 256
FETCHED_TOGETHER = 8


@handles("POST", "projects/{project}/images")
def create_images_from_data(call: Call) -> Answer:
    """Add images: the body, or the parts of a multipart body."""
    tags = tuple(call.listed_ids("tagIds", MAX_BATCH_TAGS))
    contents = images_in(call.body, call.content_type)
    return added(call, [Entry("", content, tags) for content in contents])[1]


@handles("POST", "projects/{project}/images/files")
def create_images_from_files(call: Call) -> Answer:
    """Add base64-encoded images."""
    return added(call, [_from_file(*each) for each in batch(call)])[1]


@handles("POST", "projects/{project}/images/urls")
def create_images_from_urls(call: Call) -> Answer:
    """Add images from URLs."""
    given = batch(call)
    urls = [checked_text(entry.get("url"), "url", 1 << 16) for entry, _ in given]
    with ThreadPoolExecutor(FETCHED_TOGETHER) as pool:
        contents = list(pool.map(lambda url: _fetched(call, url), urls))
    entries = [
        Entry(url, None, tags, content) if isinstance(content, str) else Entry(url, content, tags)
        for url, content, (_, tags) in zip(urls, contents, given, strict=True)
    ]
    return added(call, entries)[1]


@handles("GET", "projects/{project}/images")
@handles("GET", "projects/{project}/images/{status:tagged|untagged}")
def get_images(call: Call) -> Answer:
    """List images, all or those with or without tags."""
    return _views(call, paged(call, _listed(call)))


@handles("GET", "projects/{project}/images/count")
@handles("GET", "projects/{project}/images/{status:tagged|untagged}/count")
def get_image_count(call: Call) -> Answer:
    """Count images, all or those with or without tags."""
    return len(_listed(call))


@handles("GET", "projects/{project}/images/id")
def get_images_by_ids(call: Call) -> Answer:
    """Describe images."""
    return _views(call, [call.project.record(IMAGES, id) for id in call.listed_ids("imageIds", MAX_IDS)])


@handles("DELETE", "projects/{project}/images")
def delete_images(call: Call) -> Answer:
    """Delete images."""
    project, ids = call.project, call.listed_ids("imageIds", MAX_IDS)
    with project.lock:
        chosen = list(project.journal.of(IMAGES)) if call.flag("allImages") else ids
        images = [project.record(IMAGES, id) for id in chosen]
        if images:
            project.write(*((IMAGES, image["id"], None) for image in images))
        for image in images:
            project.image_path(IMAGES, image).unlink(missing_ok=True)
    return None


@handles("POST", "projects/{project}/images/tags")
def create_image_tags(call: Call) -> Answer:
    """Add tags to images."""
    pairs = [
        (*checked_ids([each.get("imageid")], "imageId", 1), *checked_ids([each.get("tagid")], "tagId", 1))
        for each in checked_list(call.json().get("tags"), "tags", MAX_IDS)
    ]
    found: dict[str, list[Json]] = {"created": [], "duplicated": [], "exceeded": []}
    project, changed = call.project, dict[str, Json]()
    with project.lock:
        for image_id, tag in pairs:
            project.record(TAGS, tag)
            image = changed.get(image_id) or project.record(IMAGES, image_id)
            after, problem = with_tags(project, image, [tag])
            where = "exceeded" if problem else "duplicated" if tag in image["tags"] else "created"
            if where == "created":
                changed[image_id] = after
            found[where].append({"imageId": image_id, "tagId": tag})
        if changed:
            project.write(*((IMAGES, id, image) for id, image in changed.items()))
    return dict(found)


@handles("DELETE", "projects/{project}/images/tags")
def delete_image_tags(call: Call) -> Answer:
    """Remove tags from images."""
    project, tags = call.project, set(call.listed_ids("tagIds", MAX_BATCH_TAGS))
    with project.lock:
        images = [project.record(IMAGES, id) for id in call.listed_ids("imageIds", MAX_IDS)]
        having = [image for image in images if tags & image["tags"].keys()]
        without = [
            image | {"tags": {tag: at for tag, at in image["tags"].items() if tag not in tags}} for image in having
        ]
        if without:
            project.write(*((IMAGES, image["id"], image) for image in without))
    return None


def batch(call: Call) -> list[tuple[Json, tuple[str, ...]]]:
    """Return the entries of a batch, each with its tags: its own, else those of the batch."""
    given = call.json()
    shared = checked_ids(given.get("tagids"), "tagIds", MAX_BATCH_TAGS)
    entries = checked_list(given.get("images"), "images", MAX_BATCH)
    return [(entry, (*(checked_ids(entry.get("tagids"), "tagIds", MAX_BATCH_TAGS) or shared),)) for entry in entries]


def _from_file(given: Json, tags: tuple[str, ...]) -> Entry:
    name, contents = given.get("name"), given.get("contents")
    source = name[:1024] if isinstance(name, str) else ""
    try:
        return Entry(source, base64.b64decode(contents, validate=True), tags)  # type: ignore[arg-type]
    except (binascii.Error, TypeError, ValueError):
        return Entry(source, None, tags, "ErrorSource")


def _fetched(call: Call, url: str) -> bytes | str:
    """Return the content of a URL, or the status of an error."""
    try:
        return call.fetch(url)
    except Refused as error:
        return "ErrorImageSize" if error.code == "BadRequestImageSizeBytes" else "ErrorSource"


def added(call: Call, entries: list[Entry]) -> tuple[list[Added], JSONResponse]:
    """Add images; return the outcomes and the response."""
    found = add(call.project, entries, call.state.max_bytes, call.state.max_pixels)
    whole = all(each.status == OK for each in found)
    summary = {"isBatchSuccessful": whole, "images": [_outcome(call, each) for each in found]}
    return found, JSONResponse(summary, 207 if any(each.image is None for each in found) else 200)


def _outcome(call: Call, found: Added) -> Json:
    image = None if found.image is None else view_of(call)(found.image)
    return {"sourceUrl": found.source, "status": found.status, "image": image}


_HAVING = {"All": (True, False), "Tagged": (True,), "Untagged": (False,)}
"""Tagging status -> whether images have tags."""


def _listed(call: Call) -> list[Json]:
    """Return the images that match the call's tagging status and tags, in the order that it asks for."""
    status = call.ids.get("status") or call.query.get("taggingstatus")
    having = _HAVING[checked_choice(status, list(_HAVING), "taggingStatus")]
    tags = set(call.listed_ids("tagIds", MAX_BATCH_TAGS))
    found = [image for image in call.project.journal.of(IMAGES).values() if bool(image["tags"]) in having]
    if tags:
        found = [image for image in found if tags & image["tags"].keys()]
    return found if call.query.get("orderby", "").lower() == "oldest" else found[::-1]


def _views(call: Call, images: Iterable[Json]) -> list[Json]:
    return list(map(view_of(call), images))


def view_of(call: Call) -> Callable[[Json], Json]:
    """Return a function that converts an image record to the format of clients."""
    project: Project = call.project
    tags = project.journal.of(TAGS)

    def view(image: Json) -> Json:
        link = call.link(IMAGES, image["id"])
        named = [
            {"tagId": tag, "tagName": tags[tag]["name"], "created": at}
            for tag, at in image["tags"].items()
            if tag in tags
        ]
        shown = {name: image[name] for name in ("id", "created", "width", "height")}
        links = {"resizedImageUri": link, "thumbnailUri": link, "originalImageUri": link}
        return {**shown, **links, "tags": named, "regions": [], "metadata": {}}

    return view
