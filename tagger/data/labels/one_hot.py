"""A column per class holding 0 or 1, as in Roboflow's `_classes.csv`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tagger.data.labels import tables
from tagger.data.labels.cells import plain_text
from tagger.data.labels.columns import file_column, label_columns, other_columns
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.errors import TableError

_VALUES = {"1": True, "true": True, "0": False, "false": False}
_UNSURE = ("", "-1")


def matches(file: LabelFile) -> bool:
    """Tell by a column of files and others, none called a label, that hold nothing but 0 and 1.

    Raises TableError for a legend of segmentation masks, which has the same file name.
    """
    if file.columns and file.columns[0].lower() == "pixel value":
        raise TableError(f"{file.uri}: a legend of segmentation masks (columns {', '.join(file.columns)}), not labels")
    columns = other_columns(file)
    called = {*label_columns(file.columns, True), *label_columns(file.columns, False)}
    if file_column(file.columns) is None or not columns or not file.rows:
        return False
    if called & set(columns) and len(columns) < 3:
        return False  # `path,label` with the ids 0 and 1
    return all(_word(row[at]) in _VALUES or _word(row[at]) in _UNSURE for row in file.rows for at in columns)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; a row of zeros is known to have none, a row with a gap is unlabelled."""
    columns = other_columns(file)
    classes = [file.columns[at] for at in columns]
    yield from tables.records(file, columns, partial(_labels, classes, notes), notes)


def _labels(classes: list[str], notes: Notes, name: str, cells: Sequence[Any]) -> tuple[str, ...] | None:
    chosen = [_VALUES.get(_word(cell)) for cell in cells]
    if None in chosen:
        notes.add("rows with a value that is neither 0 nor 1, left unlabelled", name)
        return None
    labels = tuple(dict.fromkeys(label for label, is_set in zip(classes, chosen, strict=True) if is_set))
    if not labels:
        notes.add("rows of zeros, taken as known to have no label", name)
    return labels


def _word(cell: Any) -> str:
    word = plain_text(cell).lower()
    return word[:-2] if word in ("1.0", "0.0", "-1.0") else word


FORMAT = Format("one-hot", "a table with a path column and a 0/1 column per class", matches, read)
