"""labelme: a JSON file per image with its flags, such as `{"flags": {"cat": true}, "imagePath": "a.jpg"}`."""

from __future__ import annotations

from collections.abc import Iterator

from tagger.data.labels import json_stream
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record

_NONE = "images with flags, none of them set, taken as known to have no label"


def matches(file: LabelFile) -> bool:
    """Return whether there is an `imagePath`, and flags, shapes or a version."""
    keys = {key for key, _ in file.events}
    return "imagePath" in keys and bool(keys & {"flags", "shapes", "version"})


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield the image with its set flags as labels; one without flags is unlabelled, whatever its shapes."""
    name, flags, shapes = "", dict[str, bool](), 0
    for key, element in json_stream.events(file.uri, file.encoding):
        if key == "imagePath":
            name = str(element)
        elif key == "flags" and isinstance(element, tuple):
            flags[str(element[0])] = element[1] is True
        shapes += key == "shapes"
    if not name:
        notes.add("files without imagePath", file.uri)
        return
    if shapes:
        notes.add("shapes (boxes, polygons, ...), ignored", name, shapes)
    notes.add_classes(flags)
    labels = tuple(flag for flag, is_set in flags.items() if is_set)
    if flags and not labels:
        notes.add(_NONE, name)
    yield Record(name, labels if flags else None)


FORMAT = Format("labelme", "a JSON file per image with flags and imagePath", matches, read, "json")
