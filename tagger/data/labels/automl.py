"""Google AutoML Vision CSV: `TRAIN,gs://bucket/a.jpg,label_1,label_2`, no header, rows of any length."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tagger.data.labels import text
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, split_of

_SET = re.compile(r"train(ing)?|valid(ation)?|test|unassigned", re.IGNORECASE)
_CORNERS = 8
"""Cells of the box that ends a row of object detection: x, y of four corners, some left out."""


def matches(file: LabelFile) -> bool:
    """Tell by lines that all begin with a set and go on with a file."""
    rows = [line.split(",") for line in file.lines]
    return bool(rows) and all(len(row) > 1 and bool(_SET.fullmatch(row[0].strip(' "'))) for row in rows)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; the coordinates of detection rows are not labels."""
    with text.open_text(file.uri, file.encoding) as lines:
        for row in text.csv_rows(lines, ",", file.uri):
            cells = [cell.strip() for cell in row]
            if len(cells) < 2 or not cells[1] or not _SET.fullmatch(cells[0]):
                notes.add("rows that do not begin with a set and a file", ",".join(row)[:80])
                continue
            if is_box(cells[3:]):
                notes.add("rows with a box, which was ignored", cells[1])
                cells = cells[:3]
            labels = tuple(dict.fromkeys(cell for cell in cells[2:] if cell))
            split = None if cells[0].lower() == "unassigned" else split_of(cells[0])
            yield Record(cells[1], labels or None, split)


def is_box(cells: list[str]) -> bool:
    """Tell the corners of a box from further labels."""
    return len(cells) == _CORNERS and any(cells) and all(not cell or _is_share(cell) for cell in cells)


def _is_share(cell: str) -> bool:
    return bool(re.fullmatch(r"\d*\.?\d+(e-?\d+)?", cell)) and 0 <= float(cell) <= 1


FORMAT = Format(
    "automl",
    "TRAIN|VALIDATION|TEST|UNASSIGNED,file,label,... without a header",
    matches,
    read,
    kind="text",
    merges=True,
)
