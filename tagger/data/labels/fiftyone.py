"""FiftyOne image classification: `labels.json` beside `data/`; keys are paths in it without extension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tagger.data.labels import json_stream
from tagger.data.labels.cells import plain_text
from tagger.data.labels.names import by_position
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, names_of, unique
from tagger.errors import UsageError


def matches(file: LabelFile) -> bool:
    """Return whether there is an object `labels` whose values are names, ids, lists or null."""
    pairs = [element for key, element in file.events if key == "labels"]
    return bool(pairs) and all(
        isinstance(pair, tuple) and (pair[1] is None or isinstance(pair[1], str | int | list)) for pair in pairs
    )


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per key; raises UsageError when values are ids and nothing names them."""
    events = json_stream.events(file.uri, file.encoding)
    names = options.names or by_position(str(element) for key, element in events if key == "classes")
    for key, pair in json_stream.events(file.uri, file.encoding):
        if key == "labels" and isinstance(pair, tuple):
            # found beside data/, as FiftyOne writes it; elsewhere by the end of the path
            yield Record(f"data/{pair[0]}", _labels(pair[1], names, file.uri, notes))


def _labels(value: object, names: Mapping[str, str], uri: str, notes: Notes) -> tuple[str, ...] | None:
    if value is None:
        return None
    labels = list[str]()
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, int) and not names:
            raise UsageError(f"{uri}: labels are ids and the file has no classes; add --label-names FILE")
        labels += names_of([str(item)], names, notes) if isinstance(item, int) else [plain_text(item)]
    return unique(labels) or (() if value == [] else None)


FORMAT = Format("fiftyone", "labels.json with labels (and classes) beside data/", matches, read, "json")
