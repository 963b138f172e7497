"""The role of each column of a table: file, split, or labels. Content decides first, then the name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tagger.data.labels.cells import plain_text
from tagger.data.labels.record import LabelFile
from tagger.errors import TableError

FILE_COLUMNS = (
    "file_name", "filename", "uri", "url", "image_url", "path", "filepath", "file_path", "image_path", "file", "fname",
    "image_name", "image", "img", "img_path", "picture", "photo", "image_id", "imageid", "id", "name",
)  # fmt: skip
"""Possible names of the file column; the first that exists is used."""

_LABEL = re.compile(r"(label|class|category|tag|target)(_?name|_?id|_?\d+)?")
_LABELS = re.compile(r"labels|classes|categories|tags|keywords|targets|attributes|(label|class|category|tag)_?ids")
_NUMBERED = re.compile(r".*\d")
_INDEX = re.compile(r"(unnamed: \d+)?")
"""The unnamed index column that pandas writes."""
_NO_LABEL = re.compile(r"text|captions?|prompt|description|width|height|size|bytes|bbox|objects")
"""Names of columns that are not labels, unless all values are 0 and 1, since a class may have any name."""
_CONFIDENCE = re.compile(
    r"((label|class|category|tag|pred|prediction)_?)?(confidence|conf|certainty|prob|probability|score)s?"
)
_SPLIT = ("split", "is_valid", "ml_use", "subset", "set")
_ALWAYS_SPLIT = _SPLIT[:3]
_FLAGS = frozenset(("0", "1", "-1", "false", "true"))


def flag(cell: object) -> str:
    """Return the cell of a one-hot column as 0, 1, -1, true or false; other cells as their text in lower case."""
    return plain_text(cell).lower().removeprefix("+").removesuffix(".0")


def _holds_flags_or_gaps(rows: Sequence[Sequence[object]], at: int) -> bool:
    return {flag(row[at]) for row in rows} <= {*_FLAGS, ""}


def holds_flags(rows: Sequence[Sequence[object]], at: int) -> bool:
    """Return whether all values of a column are 0, 1, -1, true, false or empty, and not all are empty."""
    words = {flag(row[at]) for row in rows} - {""}
    return bool(words) and words <= _FLAGS


def file_column(columns: Sequence[str], rows: Sequence[Sequence[object]] = ()) -> int | None:
    """Return the position of the file column, by its name; columns of 0 and 1 come last."""
    lower = [name.lower() for name in columns]
    found = [lower.index(name) for name in FILE_COLUMNS if name in lower]
    return min(found, key=lambda at: holds_flags(rows, at), default=None)


def column_of_files(file: LabelFile) -> int | None:
    """Return the position of the file column: the one named by the user, else by name and content."""
    return file_column(file.columns, file.rows) if file.named.file is None else file.named.file


def required_file_column(file: LabelFile) -> int:
    """Return the position of the file column; raises TableError if there is none."""
    position = column_of_files(file)
    if position is None:
        shown = ", ".join(file.columns) or "none"
        raise TableError(f"{file.uri}: no column of files; have {shown}; name it with --file-column")
    return position


def split_column(file: LabelFile) -> int | None:
    """Return the position of the split column; `set` and `subset` with only 0 and 1 are classes."""
    if file.named.split is not None:
        return file.named.split
    lower = [name.lower() for name in file.columns]
    found = [(lower.index(name), name) for name in _SPLIT if name in lower]
    return next((at for at, name in found if name in _ALWAYS_SPLIT or not holds_flags(file.rows, at)), None)


def confidence_column(file: LabelFile) -> int | None:
    """Return the position of the column with the confidence of the labels."""
    return next((at for at, name in enumerate(file.columns) if _CONFIDENCE.fullmatch(name.lower())), None)


def label_columns(columns: Sequence[str], plural: bool) -> list[int]:
    """Return the positions of columns named like one label, or like several.

    Columns of names are preferred to the corresponding columns of ids.
    """
    pattern = _LABELS if plural else _LABEL
    found = [at for at, name in enumerate(columns) if pattern.fullmatch(name.lower())]
    names = [at for at in found if columns[at].lower().endswith("name")]
    return names or [at for at in found if not columns[at].lower().endswith("id")] or found


def other_columns(file: LabelFile) -> list[int]:
    """Return the positions of columns that may be labels: not files, splits, or anything else by their names."""
    return [at for at in _open_columns(file) if not _NO_LABEL.fullmatch(file.columns[at].lower())]


def flag_columns(file: LabelFile) -> list[int]:
    """Return the one-hot columns; none unless all columns that may be labels have only 0 and 1.

    `path,label` with the ids 0 and 1 has none; `path,label_0,label_1` has two. Of the named columns of labels, if any,
    all or none.
    """
    if file.named.labels:
        are_flags = len(file.named.labels) > 1 and all(_holds_flags_or_gaps(file.rows, at) for at in file.named.labels)
        return [*file.named.labels] if are_flags else []
    flags = [at for at in _open_columns(file) if holds_flags(file.rows, at)]
    found = sorted({*flags, *other_columns(file)})
    named = [at for plural in (True, False) for at in label_columns(file.columns, plural) if at in found]
    if len(found) < 3 and any(not _NUMBERED.fullmatch(file.columns[at]) for at in named):
        return []
    return found if flags and all(_holds_flags_or_gaps(file.rows, at) for at in found) else []


def _open_columns(file: LabelFile) -> list[int]:
    """Return the positions of columns other than file, split, confidence and index."""
    known = {column_of_files(file), split_column(file), confidence_column(file)}
    return [at for at, name in enumerate(file.columns) if at not in known and not _INDEX.fullmatch(name.lower())]
