"""COCO JSON: the labels of an image are the distinct categories of its annotations; boxes are ignored."""

from __future__ import annotations

from collections.abc import Iterator

from tagger.data.labels import json_stream
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.errors import TableError

_KEYS = {"images": {"id", "file_name"}, "annotations": {"image_id", "category_id"}, "categories": {"id", "name"}}

Pairs = list[tuple[str, str]]
"""(id, name) pairs; ids and names may be repeated."""


def matches(file: LabelFile) -> bool:
    """Return whether there are `images` with id and file_name, and any `annotations` or `categories` are valid."""
    first: dict[str, object] = {}
    for key, element in file.events:
        first.setdefault(key, element)
    fits = {key for key in _KEYS if _is_entry(key, first.get(key))}
    return "images" in fits and not (set(_KEYS) & set(first)) - fits


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image; one without annotations has no label, unless the whole file has no annotations."""
    images, categories_of, names = _load(file, notes)
    shared = _shared(images, "image ids of several files, left unlabelled", notes)
    doubtful = _shared(names, "category ids with several names, their images left unlabelled", notes)
    name_of = dict(names)
    for image_id, name in images:
        categories = categories_of.get(image_id)
        if image_id in shared or doubtful.intersection(categories or ()):
            yield Record(name, None)
        elif categories is None:
            if categories_of:
                notes.add("images without annotations, taken as known to have no label", name)
            yield Record(name, () if categories_of else None)
        else:
            for category in (category for category in categories if category not in name_of):
                notes.add("labels of unknown classes", category)
            yield Record(name, tuple(name_of[category] for category in categories if category in name_of) or None)


def _is_entry(key: str, element: object) -> bool:
    return isinstance(element, dict) and _KEYS[key] <= element.keys()


def _load(file: LabelFile, notes: Notes) -> tuple[Pairs, dict[str, tuple[str, ...]], Pairs]:
    """Return images, the category ids of each annotated image, and categories."""
    images, names, above = Pairs(), Pairs(), set[str]()
    categories_of: dict[str, tuple[str, ...]] = {}
    for key, element in json_stream.events(file.uri, file.encoding):
        if key not in _KEYS:
            continue
        if not isinstance(element, dict) or not _is_entry(key, element):
            notes.add(f"entries of {key} without {' or '.join(sorted(_KEYS[key]))}", str(element)[:80])
        elif key == "images":
            images.append((str(element["id"]), str(element["file_name"])))
        elif key == "annotations":
            image, category = str(element["image_id"]), str(element["category_id"])
            before = categories_of.get(image, ())
            categories_of[image] = before if category in before else (*before, category)
        else:
            names.append((str(element["id"]), str(element["name"])))
            above.add(str(element.get("supercategory")))
    if not images:
        raise TableError(f"{file.uri}: no image with id and file_name; is this COCO?")
    _note_classes(names, {category for found in categories_of.values() for category in found}, above, notes)
    return images, categories_of, names


def _note_classes(names: Pairs, used: set[str], above: set[str], notes: Notes) -> None:
    """Note the classes, without Roboflow's category 0, the parent of the others, if no annotation uses it."""
    for category, name in dict(names).items():
        if category == "0" and name in above and category not in used:
            notes.add("parent categories that no annotation uses, dropped", name)
        else:
            notes.add_classes([name])


def _shared(pairs: Pairs, kind: str, notes: Notes) -> set[str]:
    """Return the ids with several names, and note each."""
    names: dict[str, str] = {}
    shared = set()
    for key, name in pairs:
        if names.setdefault(key, name) != name:
            shared.add(key)
            notes.add(kind, f"{key}: {names[key]} and {name}")
    return shared


FORMAT = Format("coco", "JSON with images, annotations and categories", matches, read, "json")
