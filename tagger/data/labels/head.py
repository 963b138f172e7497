"""Read the head of a label file: its kind, columns and first rows."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice

import pyarrow as pa

from tagger import schema, storage
from tagger.data.config import LabelOptions
from tagger.data.labels import class_label, json_stream, tables, text
from tagger.data.labels.columns import file_column
from tagger.data.labels.record import Columns, LabelFile, Notes, dicts
from tagger.errors import TableError, UsageError

ROWS = 1000
"""Number of rows, lines or elements used to detect a format."""
_LINE, _HEAD = 1 << 20, 1 << 22
"""Maximum number of characters read of a line, and of a text."""
_SAMPLE = 200
_LINE_KEYS = ("source-ref", "imageGcsUri")
"""Keys that identify JSON lines even in a file with a single line."""
_LONG = 1000
"""Maximum length of a JSON string in the head, since labelme stores whole images."""


def read_head(uri: str, options: LabelOptions, notes: Notes) -> LabelFile:
    """Read the head of a label file, with the positions of the columns named by the options.

    Raises TableError if it is empty, SourceError if it cannot be read, UsageError if it lacks a named column.
    """
    file = _read_head(uri, notes)
    position = partial(_position, file)
    named = Columns(
        None if options.file_column is None else position("--file-column", options.file_column),
        tuple(position("--label-column", name) for name in options.label_column),
        None if options.split_column is None else position("--split-column", options.split_column),
    )
    return replace(file, named=named)


def _position(file: LabelFile, option: str, name: str) -> int:
    """Return the position of a column by its name, ignoring case if that is unambiguous."""
    found = [at for at, column in enumerate(file.columns) if column == name]
    found = found or [at for at, column in enumerate(file.columns) if column.lower() == name.strip().lower()]
    if len(found) != 1:
        have = f"have {', '.join(file.columns[:30])}" if file.columns else "it has no columns"
        raise UsageError(f"{option} {name}: {len(found) or 'no'} such columns in {file.uri}; {have}")
    return found[0]


def _read_head(uri: str, notes: Notes) -> LabelFile:
    with storage.open_input(uri) as file:
        head = file.read(1 << 12)
    if head[:4] == b"PAR1":
        return _parquet_head(uri)
    encoding = text.encoding_of(uri)
    if not (shown := head.decode(encoding, errors="ignore").strip(text.BLANK)):
        raise TableError(f"{uri}: the label file is empty")
    if encoding == "latin-1":
        notes.add("files read as Latin-1 (save them as UTF-8 if names look wrong)", uri)
    if shown[0] == "<":
        return LabelFile(uri, "xml", encoding, lines=(_root_element(shown),))
    return _json_head(uri, encoding) if shown[0] in "[{" else _text_head(uri, encoding)


def first_words(file: LabelFile) -> str:
    """Describe a file that no format matches: its columns, keys or first line."""
    if file.events:
        keys = dict.fromkeys(key for key, _ in file.events if key) or file.columns
        return f"JSON with the keys {', '.join(keys)}"
    if len(file.columns) > 1:
        return f"columns {', '.join(file.columns[:20])}"
    return f"first line {file.lines[0][:80]!r}" if file.lines else f"a {file.kind} file"


def sample(file: LabelFile) -> str:
    """Return the first row, line or element of a file, truncated to a readable length."""
    if file.rows and file.header:
        shown = ", ".join(f"{name}={cell!r}" for name, cell in zip(file.columns, file.rows[0], strict=True))
    elif file.events:
        shown = "; ".join(f"{key}: {element}" if key else str(element) for key, element in file.events[:3])
    else:
        shown = file.lines[0] if file.lines else file.uri
    return shown if len(shown) <= _SAMPLE else f"{shown[:_SAMPLE]}..."


def _root_element(shown: str) -> str:
    """Return the text after the XML declaration and comments."""
    while shown.startswith(("<?", "<!--")):
        closing = "?>" if shown.startswith("<?") else "-->"
        shown = shown.partition(closing)[2].lstrip()
    return shown[:200]


def _parquet_head(uri: str) -> LabelFile:
    with storage.open_input(uri) as file, schema.named_damage(uri):
        parquet = schema.open_parquet(file)
        names = [field.name for field in parquet.schema_arrow if not _is_content(field.type)]
        rows = tuple(islice(class_label.rows(parquet, names, Notes(), ROWS), ROWS))
    return LabelFile(uri, "parquet", columns=tuple(names), rows=rows)


def _is_content(type: pa.DataType) -> bool:
    """Return whether a column has images or vectors, which are too large for the head."""
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        return bool(pa.types.is_floating(type.value_type))
    return bool(pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_struct(type))


def _json_head(uri: str, encoding: str) -> LabelFile:
    with text.open_text(uri, encoding) as file:
        is_lines = _is_json_line(file.readline(_LINE), file.readline(_LINE))
    events = () if is_lines else tuple(_first_of_each_key(uri, encoding))
    objects = (
        list(islice(tables.json_lines(uri, encoding), ROWS)) if is_lines else dicts([e for k, e in events if not k])
    )
    columns = tuple(dict.fromkeys(name for row in objects for name in row))
    rows = tuple(tuple(row.get(name) for name in columns) for row in objects)
    return LabelFile(uri, "jsonl" if is_lines else "json", encoding, columns=columns, rows=rows, events=events)


def _is_json_line(line: str, following: str) -> bool:
    """Return whether the first line is an object of JSON lines, not the start of a JSON document."""
    try:
        value = json.loads(line.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return False
    if not (value and isinstance(value, dict)):
        return False
    names = {*_LINE_KEYS} & value.keys()
    plain = tuple(key for key, cell in value.items() if not isinstance(cell, dict))
    return bool(names) or following.startswith("{") or file_column(plain) is not None


def _first_of_each_key(uri: str, encoding: str) -> Iterator[tuple[str, object]]:
    """Yield the first elements of each key, so that a long `images` does not hide the following keys."""
    seen: Counter[str] = Counter()
    for key, element in islice(json_stream.events(uri, encoding), 50 * ROWS):
        seen[key] += 1
        if seen[key] <= ROWS:
            yield key, element[:_LONG] if isinstance(element, str) else element
        elif not key:
            return


def _text_head(uri: str, encoding: str) -> LabelFile:
    with text.open_text(uri, encoding) as file:
        start = file.read(_HEAD)
    read = list(islice(io.StringIO(start, newline=""), ROWS))
    whole = len(start) < _HEAD and sum(map(len, read)) == len(start)
    lines = [line for line in read if line.strip()]
    if not lines:
        raise TableError(f"{uri}: the label file has no text in its first {ROWS:,} lines")
    named = text.named_delimiter(lines[0])
    lines = lines[1:] if named and len(lines) > 1 else lines
    delimiter = named or text.delimiter_of(lines[0])
    rows = list(text.csv_rows(lines, delimiter, uri, whole=False))
    rows = rows if whole else rows[: max(1, len(rows) - 1)]  # the last row may continue on the next line
    first = [cell.strip() for cell in rows[0]] if rows else []
    header = not any(storage.is_image_name(cell) for cell in first)
    if header:
        columns, rows = tuple(first), rows[1:]
    else:  # two columns without names: the file, and its label
        columns = tuple("path" if storage.is_image_name(cell) else "label" for cell in first) if len(first) == 2 else ()
    bare = tuple(line.rstrip("\r\n") for line in lines)
    padded = tuple(tables.padded(row, len(columns)) for row in rows)
    return LabelFile(uri, "text", encoding, bare, columns, padded, delimiter, header)
