"""FiftyOne image classification: `labels.json` next to `data/`; keys are paths in it without extension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tagger.data.labels import json_stream
from tagger.data.labels.cells import plain_text
from tagger.data.labels.names import by_position
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, names_of, unique
from tagger.errors import UsageError


def matches(file: LabelFile) -> bool:
    """Return whether there is an object `labels` with names, ids, objects with a label, lists or null as values."""
    pairs = [element for key, element in file.events if key == "labels"]
    return bool(pairs) and all(isinstance(pair, tuple) and _is_answer(pair[1]) for pair in pairs)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per key; raises UsageError if values are ids without names."""
    events = json_stream.events(file.uri, file.encoding)
    classes = [element for key, element in events if key == "classes"]
    names = options.names or by_position(map(str, classes if classes != [None] else []))
    notes.add_classes(names.values())
    for key, pair in json_stream.events(file.uri, file.encoding):
        if key == "labels" and isinstance(pair, tuple):
            # FiftyOne writes images into data/; elsewhere they are matched by the end of their path
            yield from _records(f"data/{pair[0]}", pair[1], names, file.uri, notes)


def _is_answer(value: object) -> bool:
    return value is None or isinstance(value, str | int | list) or (isinstance(value, dict) and "label" in value)


def _records(name: str, value: object, names: Mapping[str, str], uri: str, notes: Notes) -> Iterator[Record]:
    """Yield the labels of an image, and a second record with labels of confidence 0, which do not apply."""
    given = [item if isinstance(item, dict) else {"label": item} for item in _items(value)]
    if any("bounding_box" in item for item in given):
        notes.add("images with boxes, which were ignored", name)
    denied = [item for item in given if item.get("confidence") == 0]
    labels = _labels([item.get("label") for item in given if item not in denied], names, uri, notes)
    if unsure := [item for item in given if item.get("confidence") not in (None, 0, 1)]:
        notes.add("labels with a confidence between 0 and 1, which were used", f"{name}: {unsure[0]['confidence']}")
    if negatives := _labels([item.get("label") for item in denied], names, uri, notes):
        notes.add("labels of confidence 0, which do not apply", f"{name}: {' + '.join(negatives)}")
        yield Record(name, None, negatives=negatives)
    if labels or not negatives:
        yield Record(name, labels or (() if value == [] else None))


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _labels(items: list[object], names: Mapping[str, str], uri: str, notes: Notes) -> tuple[str, ...]:
    """Return the names of labels given as names or ids; raises UsageError for an id without a name."""
    if not names and any(isinstance(item, int) for item in items):
        raise UsageError(f"{uri}: labels are ids and the file has no classes; add --label-names FILE")
    found = [names_of([str(item)], names, notes) if isinstance(item, int) else (plain_text(item),) for item in items]
    return unique(label for labels in found for label in labels)


FORMAT = Format("fiftyone", "labels.json with labels (and classes) next to data/", matches, read, "json")
