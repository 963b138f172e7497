"""Google AutoML Vision CSV: `TRAIN,gs://bucket/a.jpg,label_1,label_2`, no header, rows of any length."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tagger.data.labels import text
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, split_of, unique

_SET = re.compile(r"train(ing)?|valid(ation)?|test|unassigned", re.IGNORECASE)
_CORNERS = 8
"""Cells of the box that ends a row of object detection: x, y of four corners, some left out."""
_NUMBER = re.compile(r"\d*\.?\d+(e-?\d+)?")


def matches(file: LabelFile) -> bool:
    """Return whether all lines start with a set and a file."""
    rows = [line.split(",") for line in file.lines]
    return bool(rows) and all(len(row) > 1 and bool(_SET.fullmatch(row[0].strip(' "'))) for row in rows)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; the coordinates of detection rows are not labels."""
    with text.open_text(file.uri, file.encoding) as lines:
        for row in text.csv_rows(lines, ",", file.uri):
            kind, name, *labels = [cell.strip() for cell in row] if len(row) > 1 else ("", "")
            if not name or not _SET.fullmatch(kind):
                notes.add("rows that do not start with a set and a file", ",".join(row)[:80])
                continue
            if _is_box(labels[1:]):
                notes.add("rows with a box, which was ignored", name)
                labels = labels[:1]
            yield Record(name, unique(labels) or None, None if kind.lower() == "unassigned" else split_of(kind))


def _is_box(cells: list[str]) -> bool:
    """Return whether cells are the corners of a box, as shares of width and height, not further labels."""
    numbers = [cell for cell in cells if cell]
    return (
        len(cells) == _CORNERS
        and bool(numbers)
        and all(_NUMBER.fullmatch(cell) and float(cell) <= 1 for cell in numbers)
    )


FORMAT = Format(
    "automl", "TRAIN|VALIDATION|TEST|UNASSIGNED,file,label,... without a header", matches, read, "text", merges=True
)
