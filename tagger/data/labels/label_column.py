"""Tables with a column of labels: one or several in a cell, or lists; as CSV, JSON lines or Parquet.

The formats differ only in the columns that they take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tagger.data.labels import tables
from tagger.data.labels.cells import labels_in, united
from tagger.data.labels.columns import file_column, label_columns, other_columns
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.data.labels.separators import separator_of


def _hugging_face(file: LabelFile) -> list[int]:
    """Return all columns named like labels, else the only other one."""
    return _several(file) or _one(file) or _only(file)


def _lists(file: LabelFile) -> list[int]:
    """Return the column of lists that is named like labels, else the only one."""
    found = [at for at in range(len(file.columns)) if any(isinstance(row[at], list) for row in file.rows)]
    named = [at for at in _several(file) if at in found]
    return named[:1] or (found if len(found) == 1 else [])


def _delimited(file: LabelFile) -> list[int]:
    return (_several(file) or _one(file) or other_columns(file))[:1]


def _single(file: LabelFile) -> list[int]:
    return _one(file)[:1] or _only(file)


def _several(file: LabelFile) -> list[int]:
    return label_columns(file.columns, plural=True)


def _open_images(file: LabelFile) -> list[int]:
    lower = [name.lower() for name in file.columns]
    return [lower.index("labelname")] if {"imageid", "labelname", "confidence"} <= set(lower) else []


def _one(file: LabelFile) -> list[int]:
    return label_columns(file.columns, plural=False)


def _only(file: LabelFile) -> list[int]:
    others = other_columns(file)
    return others if len(others) == 1 else []


def _read(
    choose: Callable[[LabelFile], list[int]], file: LabelFile, options: Options, notes: Notes
) -> Iterator[Record]:
    """Yield a record per row; raises UsageError when it is unclear what separates the labels of a cell."""
    columns, separator = choose(file), options.delimiter
    if separator is None and columns:
        separator = separator_of(file, columns[0], choose is _delimited or columns[0] in _several(file), notes)

    def labels_of(name: str, cells: Sequence[Any]) -> tuple[str, ...] | None:
        labels = united(labels_in(cell, separator, notes) for cell in cells)
        if separator is None and labels and any(sign in labels[0] for sign in "|;"):
            notes.add("labels that look like several in one (if so, use --label-delimiter)", labels[0])
        return labels

    yield from tables.records(file, columns, labels_of, notes)


def _is_table(file: LabelFile) -> bool:
    return file_column(file.columns, file.rows) is not None


FORMATS = (
    Format(
        "open-images",
        "ImageID,LabelName,Confidence, a row per label",
        lambda file: bool(_open_images(file)),
        partial(_read, _open_images),
        merges=True,
    ),
    Format(
        "huggingface",
        "file_name and label columns",
        lambda file: "file_name" in file.columns and bool(_hugging_face(file)),
        partial(_read, _hugging_face),
    ),
    Format(
        "parquet-list",
        "Parquet with a list of labels per row",
        lambda file: file.kind == "parquet" and _is_table(file) and bool(_lists(file)),
        partial(_read, _lists),
        kind="parquet",
    ),
    Format(
        "delimited",
        "a path and a labels or tags column, several in a cell",
        lambda file: _is_table(file) and bool(_several(file)),
        partial(_read, _delimited),
    ),
    Format(
        "single-label",
        "a path and a label column",
        lambda file: _is_table(file) and bool(_single(file)),
        partial(_read, _single),
    ),
)
