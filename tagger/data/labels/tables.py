"""The reader of all tables of labels: CSV with any delimiter, JSON lines, JSON lists and Parquet, row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

from tagger import schema, storage
from tagger.data.labels import class_label, columns, json_stream, text
from tagger.data.labels.cells import plain_text
from tagger.data.labels.record import LabelFile, Notes, Record, split_of
from tagger.errors import TableError

_SAME_SPLIT = {"dev": "val", "eval": "val", "holdout": "test"}
"""Synonyms of splits in a cell; as folder names they are too ambiguous."""

Row = tuple[object, ...]


def records(
    file: LabelFile,
    label_columns: Sequence[int],
    labels_of: Callable[[str, Sequence[object]], tuple[str, ...] | None],
    notes: Notes,
) -> Iterator[Record]:
    """Yield a record per row; `labels_of` is called with the file name and the cells of the label columns.

    Raises TableError without a file column or a label column.
    """
    file_at, split_at = columns.required_file_column(file), columns.split_column(file)
    sure_at = columns.confidence_column(file)
    if not label_columns:
        raise TableError(f"{file.uri}: no label column; have {', '.join(file.columns)}; name one with --label-column")
    names = [file.columns[at] for at in label_columns]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise TableError(f"{file.uri}: two columns are named {twice!r}; rename or remove one")
    if not file.header:
        notes.add("files without a header line, columns inferred from the image names", file.uri)
    is_valid = split_at is not None and file.columns[split_at].lower() == "is_valid"
    chosen = [file_at, *(file_at if at is None else at for at in (split_at, sure_at)), *label_columns]
    for name, split, sure, *cells in rows(file, chosen, notes):
        if not (written := plain_text(name)):
            notes.add("rows without a file name", ", ".join(str(cell) for cell in cells))
            continue
        labels = labels_of(written, cells)
        record = Record(written, labels, None if split_at is None else _split_in(plain_text(split), is_valid, notes))
        yield record if sure_at is None else _weighed(record, plain_text(sure), file.columns[sure_at], notes)


def rows(file: LabelFile, chosen: Sequence[int], notes: Notes) -> Iterator[Row]:
    """Yield the values of some columns of every row, streaming; the missing cells of a short row are None.

    The first column must be the file column.
    """
    names = [file.columns[at] for at in chosen]
    if file.kind == "parquet":
        yield from _parquet_rows(file.uri, names, notes)
    elif file.kind == "text":
        with text.open_text(file.uri, file.encoding) as lines:
            yield from _csv_rows(file, chosen, text.csv_rows(lines, file.delimiter, file.uri), notes)
    else:
        elements = (element for _, element in json_stream.events(file.uri, file.encoding) if isinstance(element, dict))
        objects = json_lines(file.uri, file.encoding) if file.kind == "jsonl" else elements
        yield from (tuple(row.get(name) for name in names) for row in objects)


def _csv_rows(file: LabelFile, chosen: Sequence[int], found: Iterator[list[str]], notes: Notes) -> Iterator[Row]:
    width, name_at = len(file.columns), chosen[0]
    if file.header:
        next(found, None)
    for row in found:
        if any(cell.strip() for cell in row[width:]):
            # an unquoted delimiter inside a cell, so the label cells are ambiguous
            notes.add("rows with more cells than the header, left unlabelled", file.delimiter.join(row))
            yield tuple(row[at] if at == name_at else None for at in chosen)
            continue
        if len(row) < width:
            notes.add("rows shorter than the header", file.delimiter.join(row))
        cells = padded(row, width)
        yield tuple(cells[at] for at in chosen)


def _parquet_rows(uri: str, names: Sequence[str], notes: Notes) -> Iterator[Row]:
    with storage.open_input(uri) as file, schema.named_damage(uri):
        yield from class_label.rows(schema.open_parquet(file), names, notes)


def json_lines(uri: str, encoding: str) -> Iterator[dict[str, object]]:
    """Yield the object of every non-blank line; raises TableError for a line that is not an object."""
    with text.open_text(uri, encoding) as lines:
        for number, line in enumerate(lines, 1):
            if not (content := line.strip(text.BLANK)):
                continue
            try:
                row = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise TableError(f"{uri}: line {number} is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise TableError(f"{uri}: line {number} is not a JSON object: {content[:80]}")
            yield row


def json_images(file: LabelFile, key: str, notes: Notes) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (file name, object) of JSON lines with the file name under `key`; others are noted."""
    for row in json_lines(file.uri, file.encoding):
        if isinstance(name := row.get(key), str):
            yield name, row
        else:
            notes.add(f"lines without {key}", str(row)[:80])


def padded(row: Sequence[str], width: int) -> tuple[str | None, ...]:
    """Truncate a row, or pad it with None, to the width of the header."""
    return (*row[:width], *[None] * (width - len(row)))


def _weighed(record: Record, confidence: str, column: str, notes: Notes) -> Record:
    """Return a record whose labels become negatives if the confidence is 0."""
    try:
        value = float(confidence.rstrip(" %").replace(",", "."))
    except ValueError:
        value = float("nan")
    if value == 0 and record.labels:
        notes.add(f"rows with 0 in {column}, whose labels do not apply", f"{record.file}: {' + '.join(record.labels)}")
        return record._replace(labels=None, negatives=record.labels)
    if value != 1 and record.labels:
        notes.add(f"rows with neither 0 nor 1 in {column}, whose labels were used", f"{record.file}: {confidence}")
    return record


def _split_in(cell: str, is_valid: bool, notes: Notes) -> str | None:
    """Return the split in a cell; true in fastai's column `is_valid` means val."""
    if is_valid:
        return "val" if cell.lower() in ("true", "1", "1.0") else "train"
    return split_of(_SAME_SPLIT.get(cell.lower(), cell), notes)
