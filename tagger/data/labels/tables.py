"""Tables of labels: CSV with any delimiter, JSON lines and Parquet, row by row."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from tagger import storage
from tagger.data.labels import text
from tagger.data.labels.record import LabelFile, Notes, Record, split_of
from tagger.errors import TableError

FILE_COLUMNS = (
    "file_name", "filename", "uri", "url", "image_url", "path", "filepath", "file_path", "image_path", "file", "fname",
    "image_name", "image", "img", "img_path", "picture", "photo", "image_id", "id", "name",
)  # fmt: skip
"""Columns that hold the file, the first found wins."""

_LABEL = re.compile(r"(label|class|category|tag|target)(_?name|_?id|_?\d+)?")
_LABELS = re.compile(r"labels|classes|categories|tags|keywords|targets")
_NO_LABEL = re.compile(r"(unnamed: \d+)?|text|captions?|prompt|description|width|height|size|bytes|bbox|objects")
"""The first is the nameless index that pandas writes."""
_SPLIT = ("split", "subset", "set", "is_valid", "ml_use")
_SAME_SPLIT = {"dev": "val", "eval": "val", "holdout": "test"}
"""In a cell; folders of these names are too often something else."""


def file_column(columns: Sequence[str]) -> int | None:
    """Return the position of the column of files."""
    lower = [name.lower() for name in columns]
    return next((lower.index(name) for name in FILE_COLUMNS if name in lower), None)


def split_column(columns: Sequence[str]) -> int | None:
    """Return the position of the column of splits."""
    return next((at for at, name in enumerate(columns) if name.lower() in _SPLIT), None)


def label_columns(columns: Sequence[str], plural: bool) -> list[int]:
    """Return the positions of columns called like one label, or like several."""
    pattern = _LABELS if plural else _LABEL
    found = [at for at, name in enumerate(columns) if pattern.fullmatch(name.lower())]
    for says_more in (lambda name: name.endswith("name"), lambda name: not name.endswith("id")):
        if better := [at for at in found if says_more(columns[at].lower())]:
            return better  # than ids, which mean the same
    return found


def other_columns(columns: Sequence[str]) -> list[int]:
    """Return the positions of what may be a label: neither file, split, nor what is known to be something else."""
    known = {file_column(columns), split_column(columns)}
    return [at for at, name in enumerate(columns) if at not in known and not _NO_LABEL.fullmatch(name.lower())]


def is_list_type(type: pa.DataType) -> bool:
    """Tell an Arrow list column."""
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type))


def records(file: LabelFile, columns: Sequence[int], delimiter: str | None, notes: Notes) -> Iterator[Record]:
    """Yield a record per row, its labels those of all the given columns together.

    Raises TableError when there is no column of files.
    """
    name_at, split_at = required_file_column(file), split_column(file.columns)
    is_valid = split_at is not None and file.columns[split_at].lower() == "is_valid"
    wanted = [name_at, *columns, *([] if split_at is None else [split_at])]
    for values in rows(file, wanted, notes):
        if not (name := plain_text(values[0])):
            notes.add("rows without a file name", ", ".join(str(value) for value in values[1:]))
            continue
        labels = united(labels_in(value, delimiter) for value in values[1 : len(columns) + 1])
        if delimiter is None and labels and any(sign in labels[0] for sign in "|;"):
            notes.add("labels that look like several in one (if so, say --label-delimiter)", labels[0])
        split = None if split_at is None else split_in(values[-1], is_valid, notes)
        yield Record(name, labels, split)


def required_file_column(file: LabelFile) -> int:
    """Return the position of the column of files; raises TableError when there is none."""
    position = file_column(file.columns)
    if position is None:
        shown = ", ".join(file.columns) or "none"
        raise TableError(f"{file.uri}: no column of files; have {shown}; expected one of {', '.join(FILE_COLUMNS)}")
    return position


def rows(file: LabelFile, columns: Sequence[int], notes: Notes) -> Iterator[tuple[Any, ...]]:
    """Yield the values of some columns of every row, streaming; what a short row lacks is None."""
    if file.kind == "parquet":
        yield from _parquet_rows(file, columns)
    elif file.kind == "jsonl":
        names = [file.columns[at] for at in columns]
        with text.open_text(file.uri, file.encoding) as lines:
            yield from (tuple(row.get(name) for name in names) for row in json_lines(lines, file.uri))
    else:
        with text.open_text(file.uri, file.encoding) as lines:
            yield from _csv_rows(file, columns, text.csv_rows(lines, file.delimiter, file.uri), notes)


def _csv_rows(
    file: LabelFile, columns: Sequence[int], found: Iterator[list[str]], notes: Notes
) -> Iterator[tuple[Any, ...]]:
    width, name_at = len(file.columns), columns[0]
    if file.header:
        next(found, None)
    for row in found:
        if len(row) == width:
            yield tuple(row[at] for at in columns)
            continue
        if any(cell.strip() for cell in row[width:]):
            # an unquoted delimiter inside a cell: which of the cells are labels would be a guess
            notes.add("rows with more cells than the header, left unlabelled", file.delimiter.join(row))
            yield tuple(row[at] if at == name_at else None for at in columns)
            continue
        if len(row) < width:
            notes.add("rows shorter than the header", file.delimiter.join(row))
        cells = padded(row, width)
        yield tuple(cells[at] for at in columns)


def _parquet_rows(file: LabelFile, columns: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    names = [file.columns[at] for at in columns]
    with storage.open_input(file.uri) as opened:
        try:
            for batch in pq.ParquetFile(opened).iter_batches(columns=list(dict.fromkeys(names))):
                yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"{file.uri}: damaged ({error})") from error


def json_lines(lines: TextIO, uri: str) -> Iterator[dict[str, Any]]:
    """Yield the object of every line that holds anything; raises TableError naming a line that is none."""
    for number, line in enumerate(lines, 1):
        if not line.strip("\ufeff \t\r\n"):
            continue
        try:
            row = json.loads(line.lstrip("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise TableError(f"{uri}: line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise TableError(f"{uri}: line {number} is not a JSON object: {line.strip()[:80]}")
        yield row


def padded(row: Sequence[Any], width: int) -> list[Any]:
    """Return a row cut or filled with None to the width of its header."""
    return [*row[:width], *[None] * (width - len(row))]


def labels_in(value: Any, delimiter: str | None = None) -> tuple[str, ...] | None:
    """Return the labels of one cell: text, a number, a list, JSON or Python text of a list, or Label Studio's choices.

    An empty cell is None, an empty list (). Paths of a taxonomy are joined with `/`.
    """
    if isinstance(value, dict):
        value = next((value[key] for key in ("choices", "taxonomy", "label", "labels") if key in value), None)
    if isinstance(value, list | tuple):
        return tuple(dict.fromkeys(label for item in value if (label := _item(item))))
    if not (cell := plain_text(value)):
        return None
    if cell[0] in "[{" and (parsed := _parsed(cell)) is not None:
        return labels_in(parsed)
    if delimiter:
        return tuple(dict.fromkeys(part.strip() for part in cell.split(delimiter) if part.strip()))
    return (cell,)


def united(found: Iterable[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Return the labels of several cells together; None when all are empty."""
    given = [labels for labels in found if labels is not None]
    return tuple(dict.fromkeys(label for labels in given for label in labels)) if given else None


def plain_text(value: Any) -> str:
    """Return a cell as text without spaces around it; whole floats lose their `.0`, missing values are empty."""
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:  # NaN
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _item(item: Any) -> str:
    if isinstance(item, list | tuple):
        return "/".join(str(part) for part in item)
    return item if isinstance(item, str) else plain_text(item)


def _parsed(cell: str) -> Any:
    """Return what a cell that looks like a list holds; None when it only looks like one."""
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(parsed, list | tuple | dict):
            return parsed
    return None


def split_in(value: Any, is_valid: bool, notes: Notes) -> str | None:
    """Return the split that a cell says; in fastai's column `is_valid` true is val."""
    if is_valid:
        return "val" if plain_text(value).lower() in ("true", "1", "1.0") else "train"
    return split_of(_SAME_SPLIT.get(plain_text(value).lower(), value), notes)
