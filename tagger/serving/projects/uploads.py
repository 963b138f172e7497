"""Add images to a project: decode them, store them by content, and record them in the journal before responding."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from tagger import images
from tagger.checkpoint.info import Json
from tagger.errors import ImageError, WriteError
from tagger.images.suffixes import suffix_of
from tagger.serving.projects.project import IMAGES, NEGATIVE, TAGS, Project, image_id, now

log = logging.getLogger(__name__)

OK, DUPLICATE = "OK", "OKDuplicate"
MAX_IMAGE_TAGS = 100
_OF_STATUS = {"too_large": "ErrorImageDimensions", "unsupported": "ErrorImageFormat", "corrupt": "ErrorImageFormat"}


@dataclass(frozen=True)
class Entry:
    """One image of a batch."""

    source: str
    """Name or URL."""
    content: bytes | None
    tags: tuple[str, ...] = ()
    error: str = ""
    """Status of an image that could not be read; `content` is None then."""


@dataclass(frozen=True)
class Added:
    """The outcome of one entry; `image` is None for an error."""

    source: str
    status: str
    image: Json | None = None


def add(project: Project, entries: Sequence[Entry], max_bytes: int, max_pixels: int) -> list[Added]:
    """Add images; return an outcome per entry. Raises WriteError when the journal cannot be written."""
    stored = [_stored(project, entry, max_bytes, max_pixels) for entry in entries]
    changed: dict[str, Json] = {}
    with project.lock:
        found = [_recorded(project, *each, changed) for each in zip(entries, stored, strict=True)]
        if changed:
            project.write(*((IMAGES, id, image) for id, image in changed.items()))
    return found


def _recorded(project: Project, entry: Entry, image: Json | str, changed: dict[str, Json]) -> Added:
    """Add an entry's image, or its tags to the known image with the same content; add the result to `changed`."""
    if isinstance(image, str):
        return Added(entry.source, image)
    before = changed.get(image["id"]) or project.journal.get(IMAGES, image["id"])
    after, problem = with_tags(project, before or image, entry.tags)
    if problem:
        return Added(entry.source, problem)
    if after != before:
        changed[image["id"]] = after
    project.write_image(after["file"], entry.content or b"")  # it may have been deleted meanwhile
    return Added(entry.source, DUPLICATE if before else OK, after)


def with_tags(project: Project, image: Json, tags: Sequence[str]) -> tuple[Json, str]:
    """Return the image with more tags, and ""; or the unchanged image, and the status that says what is wrong."""
    known = project.journal.of(TAGS)
    every = dict.fromkeys(chain(image["tags"], tags))
    if any(tag not in known for tag in tags):
        return image, "ErrorInvalidTag"
    if len(every) > 1 and any(known[tag]["type"] == NEGATIVE for tag in every if tag in known):
        return image, "ErrorNegativeAndRegularTagOnSameImage"
    if len(every) > (MAX_IMAGE_TAGS if project.multilabel else 1):
        return image, "ErrorTagLimitExceed"
    at = now()
    return image | {"tags": {tag: image["tags"].get(tag, at) for tag in every}}, ""


def _stored(project: Project, entry: Entry, max_bytes: int, max_pixels: int) -> Json | str:
    """Decode and store one image; return its record without tags, or the status of an error."""
    if entry.content is None or not entry.content:
        return entry.error or "ErrorSource"
    if len(entry.content) > max_bytes:
        return "ErrorImageSize"
    digest = hashlib.sha256(entry.content).hexdigest()
    try:
        _, info = images.decode(entry.content, max_pixels)
        file = f"{digest}.{suffix_of(info.format)}"
        project.write_image(file, entry.content)
    except ImageError as error:
        return _OF_STATUS.get(error.status, "ErrorImageFormat")
    except WriteError as error:
        log.warning("an image cannot be stored: %s", error)
        return "ErrorStorage"
    return {
        "id": image_id(digest), "sha256": digest, "file": file, "width": info.width, "height": info.height,
        "created": now(), "tags": {},
    }  # fmt: skip
