"""COCO JSON: the labels of an image are the distinct categories of its annotations; boxes are ignored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tagger.data.labels import json_stream, text
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.errors import TableError

_KEYS = {"images": {"id", "file_name"}, "annotations": {"image_id", "category_id"}, "categories": {"id", "name"}}


def matches(file: LabelFile) -> bool:
    """Tell by `images` with id and file_name, beside `annotations` or `categories` of the right shape."""
    first: dict[str, Any] = {}
    for key, element in file.events:
        first.setdefault(key, element)
    fits = {key for key, needed in _KEYS.items() if isinstance(first.get(key), dict) and needed <= set(first[key])}
    return "images" in fits and not (set(_KEYS) & set(first)) - fits


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image; one without annotations has none, unless the whole file has no annotation."""
    coco = _load(file, notes)
    names = _used_names(coco, notes)
    shared = _shared(coco.images, "image ids of several files, left unlabelled", notes)
    doubtful = _shared(coco.named, "category ids with several names, their images left unlabelled", notes)
    for image_id, name in coco.images:
        categories = coco.categories_of.get(image_id)
        if image_id in shared or doubtful.intersection(categories or ()):
            yield Record(name, None)
            continue
        if categories is None:
            if coco.categories_of:
                notes.add("images without annotations, taken as known to have no label", name)
            yield Record(name, () if coco.categories_of else None)
            continue
        known = tuple(names[category] for category in categories if category in names)
        for category in (category for category in categories if category not in names):
            notes.add("labels of unknown classes", category)
        yield Record(name, known or None)


@dataclass
class _Coco:
    images: list[tuple[str, str]] = field(default_factory=list)
    """(id, file name): an id or a name may come twice."""
    categories_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    named: list[tuple[str, str]] = field(default_factory=list)
    """(id, name) of the categories: an id may come twice."""
    parents: set[str] = field(default_factory=set)
    """Ids of categories that another one names as its supercategory."""


def _load(file: LabelFile, notes: Notes) -> _Coco:
    coco, categories = _Coco(), []
    with text.open_text(file.uri, file.encoding) as opened:
        for key, element in json_stream.events(opened, file.uri):
            if key not in _KEYS:
                continue
            if not isinstance(element, dict) or not _KEYS[key] <= element.keys():
                notes.add(f"entries of {key} without {' or '.join(sorted(_KEYS[key]))}", str(element)[:80])
            elif key == "images":
                coco.images.append((str(element["id"]), str(element["file_name"])))
            elif key == "annotations":
                image, category = str(element["image_id"]), str(element["category_id"])
                before = coco.categories_of.get(image, ())
                if category not in before:
                    coco.categories_of[image] = (*before, category)
            else:
                categories.append(element)
    if not coco.images:
        raise TableError(f"{file.uri}: no image with id and file_name; is this COCO?")
    coco.named = [(str(category["id"]), str(category["name"])) for category in categories]
    above = {str(category.get("supercategory")) for category in categories}
    coco.parents = {category for category, name in coco.named if name in above}
    return coco


def _used_names(coco: _Coco, notes: Notes) -> dict[str, str]:
    """Return the names by id; Roboflow's category 0, a parent that no annotation uses, is dropped and noted."""
    used = {category for categories in coco.categories_of.values() for category in categories}
    names = dict(coco.named)
    idle = [category for category in names if category not in used]
    for category in idle:
        if category == "0" and category in coco.parents:
            notes.add("parent categories that no annotation uses, dropped", names[category])
        else:
            notes.add("classes without an image", names[category])
    return {category: name for category, name in names.items() if category not in idle}


def _shared(pairs: list[tuple[str, str]], what: str, notes: Notes) -> set[str]:
    """Return the ids that stand for several names, and note each."""
    names: dict[str, str] = {}
    shared = set()
    for key, name in pairs:
        if names.setdefault(key, name) != name:
            shared.add(key)
            notes.add(what, f"{key}: {names[key]} and {name}")
    return shared


FORMAT = Format("coco", "JSON with images, annotations and categories", matches, read, kind="json")
