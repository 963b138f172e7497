"""The role of each column of a table: file, split, or labels."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tagger.data.labels.record import LabelFile
from tagger.errors import TableError

FILE_COLUMNS = (
    "file_name", "filename", "uri", "url", "image_url", "path", "filepath", "file_path", "image_path", "file", "fname",
    "image_name", "image", "img", "img_path", "picture", "photo", "image_id", "id", "name",
)  # fmt: skip
"""Columns that hold the file; the first found is used."""

_LABEL = re.compile(r"(label|class|category|tag|target)(_?name|_?id|_?\d+)?")
_LABELS = re.compile(r"labels|classes|categories|tags|keywords|targets")
_NO_LABEL = re.compile(r"(unnamed: \d+)?|text|captions?|prompt|description|width|height|size|bytes|bbox|objects")
"""The first is the nameless index that pandas writes."""
_SPLIT = ("split", "subset", "set", "is_valid", "ml_use")


def file_column(columns: Sequence[str]) -> int | None:
    """Return the position of the column of files."""
    lower = [name.lower() for name in columns]
    return next((lower.index(name) for name in FILE_COLUMNS if name in lower), None)


def required_file_column(file: LabelFile) -> int:
    """Return the position of the column of files; raises TableError when there is none."""
    position = file_column(file.columns)
    if position is None:
        shown = ", ".join(file.columns) or "none"
        raise TableError(f"{file.uri}: no column of files; have {shown}; expected one of {', '.join(FILE_COLUMNS)}")
    return position


def split_column(columns: Sequence[str]) -> int | None:
    """Return the position of the column of splits."""
    return next((at for at, name in enumerate(columns) if name.lower() in _SPLIT), None)


def label_columns(columns: Sequence[str], plural: bool) -> list[int]:
    """Return the positions of columns named like one label, or like several.

    Columns of names are preferred to columns of ids, which mean the same.
    """
    pattern = _LABELS if plural else _LABEL
    found = [at for at, name in enumerate(columns) if pattern.fullmatch(name.lower())]
    for better in (lambda name: name.endswith("name"), lambda name: not name.endswith("id")):
        if preferred := [at for at in found if better(columns[at].lower())]:
            return preferred
    return found


def other_columns(file: LabelFile) -> list[int]:
    """Return the positions of columns that may be labels: not the file, the split, or one known to be neither."""
    known = {file_column(file.columns), split_column(file.columns)}
    return [at for at, name in enumerate(file.columns) if at not in known and not _NO_LABEL.fullmatch(name.lower())]
