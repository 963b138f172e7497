"""FiftyOne image classification: `labels.json` beside `data/`; keys are paths in it without extension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tagger.data.labels import json_stream, text
from tagger.data.labels.cells import plain_text
from tagger.data.labels.names import by_position
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, named
from tagger.errors import UsageError


def matches(file: LabelFile) -> bool:
    """Tell by an object `labels` whose values are names, ids, lists or null."""
    pairs = [element for key, element in file.events if key == "labels"]
    return bool(pairs) and all(
        isinstance(pair, tuple) and (pair[1] is None or isinstance(pair[1], str | int | list)) for pair in pairs
    )


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per key; raises UsageError when values are ids and nothing names them."""
    names = options.names or by_position(str(element) for key, element in _events(file) if key == "classes")
    for key, pair in _events(file):
        if key == "labels":
            # found beside data/, as FiftyOne writes it; elsewhere by the end of the path
            yield Record(f"data/{pair[0]}", _labels(pair[1], names, file.uri, notes))


def _events(file: LabelFile) -> Iterator[tuple[str, Any]]:
    with text.open_text(file.uri, file.encoding) as opened:
        yield from json_stream.events(opened, file.uri)


def _labels(value: Any, names: Mapping[str, str], uri: str, notes: Notes) -> tuple[str, ...] | None:
    if value is None:
        return None
    labels = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, int):
            labels.append(plain_text(item))
        elif not names:
            raise UsageError(f"{uri}: labels are ids and the file has no classes; add --label-names FILE")
        elif (name := named(str(item), names, notes)) is not None:
            labels.append(name)
    return tuple(dict.fromkeys(labels)) if labels or value == [] else None


FORMAT = Format("fiftyone", "labels.json with labels (and classes) beside data/", matches, read, kind="json")
