"""Label Studio JSON_MIN and CSV: one row per annotation, a column named after each control holds the choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tagger.data.labels import json_stream, tables, text
from tagger.data.labels.cells import labels_in, plain_text, united
from tagger.data.labels.columns import file_column, label_columns
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.errors import TableError

_SIGNS = {"annotation_id", "annotator", "lead_time"}
_KNOWN = {*_SIGNS, "id", "created_at", "updated_at", "agreement", "was_cancelled", "skipped", "cancelled", "unique_id"}


def matches(file: LabelFile) -> bool:
    """Tell by the columns that Label Studio adds: annotation_id, annotator, lead_time."""
    names = set(file.columns) if file.kind in ("text", "parquet", "jsonl") else _keys(_heads(file))
    return len(_SIGNS & names) >= 2 or bool({"id", "annotation_id"} <= names)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; raises TableError when it is not plain which columns hold the choices."""
    heads = _heads(file)
    names = tuple(dict.fromkeys(name for row in heads for name in row))
    at = file_column([name for name in names if name not in _KNOWN])
    if at is None:
        raise TableError(f"{file.uri}: no column of images; have {', '.join(names)}")
    image = [name for name in names if name not in _KNOWN][at]
    controls = _controls(heads, image, file.uri)
    for row in _rows(file, notes):
        name = plain_text(row.get(image))
        if not name:
            notes.add("tasks without an image", str(dict(row))[:80])
        elif any(str(row.get(key)).lower() in ("true", "1") for key in ("was_cancelled", "skipped", "cancelled")):
            notes.add("cancelled annotations, skipped", name)
        else:
            yield Record(name, united(labels_in(row.get(key), options.delimiter, notes) for key in controls))


def _controls(heads: list[Mapping[str, Any]], image: str, uri: str) -> list[str]:
    """Return the columns with choices: by their values, else those named like labels, else the only one left."""
    names = [name for name in _keys(heads) if name not in _KNOWN and name != image]
    chosen = [name for name in names if any(_says_choices(row.get(name)) for row in heads)]
    called = [name for name in names if name.lower() in ("choice", "choices", "taxonomy")]
    called += [names[at] for plural in (False, True) for at in label_columns(names, plural)]
    found = chosen or called or names
    if len(found) > 1 and not (chosen or called):
        raise TableError(f"{uri}: cannot tell which column holds the labels among {', '.join(sorted(found))}")
    return sorted(found)


def _says_choices(value: Any) -> bool:
    return isinstance(value, dict | list) or (isinstance(value, str) and value.lstrip().startswith(("[", '{"choices"')))


def _heads(file: LabelFile) -> list[Mapping[str, Any]]:
    if file.kind == "json":
        return [element for key, element in file.events if not key and isinstance(element, dict)]
    return [dict(zip(file.columns, row, strict=True)) for row in file.rows] or [dict.fromkeys(file.columns)]


def _keys(rows: list[Mapping[str, Any]]) -> set[str]:
    return {name for row in rows for name in row}


def _rows(file: LabelFile, notes: Notes) -> Iterator[Mapping[str, Any]]:
    if file.kind == "json":
        with text.open_text(file.uri, file.encoding) as opened:
            yield from (row for _, row in json_stream.events(opened, file.uri) if isinstance(row, dict))
    else:
        for values in tables.rows(file, range(len(file.columns)), notes):
            yield dict(zip(file.columns, values, strict=True))


FORMAT = Format("label-studio-rows", "Label Studio's JSON_MIN or CSV", matches, read, kind="json", merges=True)
