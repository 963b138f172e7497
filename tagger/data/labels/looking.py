"""Read the head of a label file: its kind, columns and first rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from tagger import storage
from tagger.data.labels import json_stream, tables, text
from tagger.data.labels.columns import file_column
from tagger.data.labels.record import LabelFile, Notes
from tagger.errors import TableError

HEAD = 1000
"""Rows, lines or elements that a format is detected from."""
_LINE = 1 << 20
_SAMPLE = 200


def look(uri: str, notes: Notes) -> LabelFile:
    """Read the head of a label file; raises TableError when it is empty, SourceError when it cannot be read."""
    with storage.open_input(uri) as file:
        head = file.read(1 << 12)
    if head[:4] == b"PAR1":
        return _look_at_parquet(uri)
    encoding = text.encoding_of(uri)
    if not (shown := head.decode(encoding, errors="ignore").strip("\ufeff \t\r\n")):
        raise TableError(f"{uri}: the label file is empty")
    if encoding == "latin-1":
        notes.add("files read as Latin-1 (save them as UTF-8 if names look wrong)", uri)
    if shown[0] == "<":
        return LabelFile(uri, "xml", encoding, lines=(shown.splitlines()[0], _root_element(shown)))
    if shown[0] in "[{":
        return _look_at_json(uri, encoding)
    return _look_at_text(uri, encoding)


def first_words(file: LabelFile) -> str:
    """Describe a file that no format takes: its columns, keys or first line."""
    if file.events:
        keys = dict.fromkeys(key for key, _ in file.events if key)
        element = next((element for key, element in file.events if not key), None)
        return f"JSON with the keys {', '.join(keys or element if isinstance(element, dict) else keys)}"
    if len(file.columns) > 1:
        return f"columns {', '.join(file.columns[:20])}"
    return f"first line {file.lines[0][:80]!r}" if file.lines else f"a {file.kind} file"


def sample(file: LabelFile) -> str:
    """Return the first row, line or element of a file, cut to a readable length."""
    if file.rows and file.header:
        shown = ", ".join(f"{name}={cell!r}" for name, cell in zip(file.columns, file.rows[0], strict=True))
    elif file.events:
        shown = "; ".join(f"{key}: {element}" if key else str(element) for key, element in file.events[:3])
    else:
        shown = (file.lines[-1] if file.kind == "xml" else file.lines[0]) if file.lines else file.uri
    return shown if len(shown) <= _SAMPLE else f"{shown[:_SAMPLE]}..."


def _root_element(shown: str) -> str:
    """Return the text after declaration and comments, as far as the head goes."""
    while shown.startswith(("<?", "<!--")):
        closing = "?>" if shown.startswith("<?") else "-->"
        shown = shown.partition(closing)[2].lstrip()
    return shown[:200]


def _look_at_parquet(uri: str) -> LabelFile:
    with storage.open_input(uri) as file:
        try:
            parquet = pq.ParquetFile(file)
            names = [field.name for field in parquet.schema_arrow if not _is_content(field.type)]
            batch = next(parquet.iter_batches(HEAD, columns=names), None)
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{uri}: not a readable Parquet file ({error})") from error
    rows = zip(*(column.to_pylist() for column in batch.columns), strict=True) if batch else ()
    return LabelFile(uri, "parquet", columns=tuple(names), rows=tuple(rows))


def _is_content(type: pa.DataType) -> bool:
    """Tell columns of images and vectors, which are too large for the head."""
    heavy = pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_struct(type)
    return heavy or (tables.is_list_type(type) and pa.types.is_floating(type.value_type))


def _look_at_json(uri: str, encoding: str) -> LabelFile:
    with text.open_text(uri, encoding) as file:
        if first := _one_line_object(file.readline(_LINE), file.readline(_LINE)):
            file.seek(0)
            found = list(islice(tables.json_lines(file, uri), HEAD))
            columns = tuple(dict.fromkeys(name for row in found for name in row)) or tuple(first)
            rows = tuple(tuple(row.get(name) for name in columns) for row in found)
            return LabelFile(uri, "jsonl", encoding, columns=columns, rows=rows)
    with text.open_text(uri, encoding) as file:
        return LabelFile(uri, "json", encoding, events=tuple(_first_of_each_key(file, uri)))


def _one_line_object(line: str, following: str) -> dict[str, Any]:
    """Return the object that fills the first line of JSON lines; empty when this is one JSON document."""
    try:
        value = json.loads(line.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return {}
    is_row = isinstance(value, dict) and (following.startswith("{") or file_column(tuple(value)) is not None)
    return value if is_row else {}


def _first_of_each_key(file: TextIO, uri: str) -> Iterator[tuple[str, Any]]:
    """Yield the first elements of each key: a long `images` must not hide what comes after it."""
    seen: Counter[str] = Counter()
    for key, element in islice(json_stream.events(file, uri), 50 * HEAD):
        seen[key] += 1
        if seen[key] <= HEAD:
            yield key, element
        elif not key:
            return


def _head_lines(file: TextIO) -> Iterator[str]:
    """Yield the first lines, fewer when they are long."""
    size = 0
    while size < 4 * _LINE and (line := file.readline(_LINE)):
        size += len(line) + 4 * _LINE // HEAD
        yield line


def _look_at_text(uri: str, encoding: str) -> LabelFile:
    with text.open_text(uri, encoding) as file:
        read = list(_head_lines(file))
        whole = not file.read(1)
    lines = [line for line in read if line.strip()]
    delimiter = text.delimiter_of(lines[0])
    rows = list(text.csv_rows(lines, delimiter, uri, whole=False))
    rows = rows if whole else rows[: max(1, len(rows) - 1)]  # the last may go on in the next line
    first = [cell.strip() for cell in rows[0]]
    header = not any(storage.is_image_name(cell) for cell in first)
    if header:
        columns, rows = tuple(first), rows[1:]
    else:  # two columns without names: the file, and its label
        columns = tuple("path" if storage.is_image_name(cell) else "label" for cell in first) if len(first) == 2 else ()
    bare = tuple(line.rstrip("\r\n") for line in lines)
    padded = tuple(tuple(tables.padded(row, len(columns))) for row in rows)
    return LabelFile(uri, "text", encoding, bare, columns, padded, delimiter, header)
