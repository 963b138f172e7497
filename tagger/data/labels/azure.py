"""Azure Custom Vision: saved pages of GetTaggedImages. A negative tag means that an image has no tags.

The pages have no file names, so images are found by `id`. A saved GetTags list, passed as label names or found next to
the pages, has the names of tags whose `tagName` is null, and the negative tag.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, takewhile

from tagger import storage
from tagger.data.labels import json_stream
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, dicts, unique
from tagger.errors import TableError, UsageError

_LINKS = {"originalImageUri", "resizedImageUri", "thumbnailUri"}
_NEGATIVE = ("negative", "_negative_")

Tags = Mapping[str, str | None]
"""Id -> name, None for the negative tag."""


def matches(file: LabelFile) -> bool:
    """Return whether the file has images with an id, tags and links, or pages of them."""
    first = next(_flat(file.elements), None)
    return isinstance(first, dict) and {"id", "tags"} <= first.keys() and bool(_LINKS & first.keys())


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image; raises UsageError if a tag has no name and there is no list of tags."""
    tags = options.tags or _tags_beside(file)
    notes.add_classes(name for name in tags.values() if name)
    for image in _flat(element for key, element in json_stream.events(file.uri, file.encoding) if not key):
        if not isinstance(image, dict) or not image.get("id"):
            notes.add("entries without an id", str(image)[:80])
            continue
        named = [_name(tag, tags, file.uri) for tag in dicts(image.get("tags"))]
        labels = unique(name for name in named if name is not None)
        if None in named and labels:
            notes.add("images with a negative tag and others, which were used", str(image["id"]))
        yield Record(str(image["id"]), labels if named else None)


def tag_list(elements: Iterable[object]) -> Tags:
    """Return the tags of a saved GetTags list; empty if the elements are something else."""
    found: dict[str, str | None] = {}
    for tag in elements:
        if not (isinstance(tag, dict) and {"id", "name"} <= tag.keys() and {"type", "imageCount"} & tag.keys()):
            return {}
        tag_id, name = str(tag["id"]), None if str(tag.get("type", "")).lower() == "negative" else str(tag["name"])
        if found.setdefault(tag_id, name) != name:
            raise TableError(
                f"saved GetTags list: tag {tag_id} has two names, {found[tag_id]!r} and {name!r}; keep one"
            )
    return found


def read_tags(uri: str) -> Tags:
    """Return the tags of a saved GetTags list; empty if the JSON is something else."""
    events = json_stream.events(uri)
    return tag_list(element for _, element in takewhile(lambda event: not event[0], events))


def _name(tag: Mapping[str, object], tags: Tags, uri: str) -> str | None:
    """Return the name of a tag; None for the negative tag."""
    tag_id, name = str(tag.get("tagId")), tag.get("tagName")
    if tag_id in tags:
        return tags[tag_id]
    if not name:
        raise UsageError(f"{uri}: tag {tag_id} has no name; save the response of GetTags and add --label-names FILE")
    return None if str(name).lower() in _NEGATIVE else str(name)


def _flat(elements: Iterable[object]) -> Iterator[object]:
    """Yield images whether pages were saved one by one or as a list of pages."""
    for element in elements:
        yield from element if isinstance(element, list) else [element]


def _tags_beside(file: LabelFile) -> Tags:
    names = [name for name in storage.names_in(file.folder) or [] if name.endswith(".json")]
    for uri in (storage.join(file.folder, name) for name in islice(names, 20)):
        if uri != file.uri:
            with contextlib.suppress(TableError):  # other files in the folder may not be JSON
                if tags := read_tags(uri):
                    return tags
    return {}


FORMAT = Format("azure-custom-vision", "saved pages of GetTaggedImages", matches, read, "json")
