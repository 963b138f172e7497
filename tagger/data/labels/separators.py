"""The sign that separates several labels in one cell: `haze primary`, `cat|dog`, `1 2 3`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tagger.data.labels import tables
from tagger.data.labels.cells import is_list_text, plain_text
from tagger.data.labels.columns import required_file_column
from tagger.data.labels.record import LabelFile, Notes
from tagger.errors import UsageError

_SIGNS = "|;,"
_CELLS = 100_000
"""Distinct cells that the decision is made from: as many as classes and their combinations, not as rows."""
_RARE = 20
"""One cell in so many may hold a label that stands nowhere else."""


def separator_of(file: LabelFile, column: int, named_plural: bool, notes: Notes) -> str | None:
    """Return the sign that separates labels in a column, decided from the whole file; None for one label per cell.

    A sign is the separator when its parts are ids, or when they recur in other cells: `haze primary`, `clear primary`,
    `haze`. In a column named like several labels a sole `|`, `;` or `,` needs no such evidence, and UsageError asks
    when nothing decides (`hot dog`, `cat`). In other columns words with spaces between them stay one label.
    """
    cells = _distinct_cells(file, column)
    signs = [sign for sign in _SIGNS if any(sign in cell for cell in cells)]
    spaced = any(" " in cell for cell in cells)
    found = next((sign for sign in (*_SIGNS, " ") if _are_ids(cells, sign)), None)
    found = found or next((sign for sign in (*signs, " " * named_plural) if sign and _parts_recur(cells, sign)), None)
    if found is None and named_plural and (signs or spaced):
        if len(signs) != 1:
            raise _unclear(file, signs or [" "], cells)
        found = signs[0]
    if found:
        several = sorted(cell for cell in cells if len(_parts(cell, found)) > 1)
        what = f"different cells of {file.columns[column]} separated at {found!r}"
        notes.add(what, ", ".join(several[:1]), len(several))
    return found


def _distinct_cells(file: LabelFile, column: int) -> set[str]:
    """Return the texts of a column that are not lists."""
    cells: set[str] = set()
    for _, value in tables.rows(file, [required_file_column(file), column], Notes()):
        if isinstance(value, str) and (cell := plain_text(value)) and not is_list_text(cell):
            cells.add(cell)
        if len(cells) >= _CELLS:
            break
    return cells


def _parts(cell: str, sign: str) -> list[str]:
    return [part for part in map(str.strip, cell.split(sign)) if part]


def _are_ids(cells: Iterable[str], sign: str) -> bool:
    """Tell a column of numbers with several in some cells."""
    parts = [_parts(cell, sign) for cell in cells]
    return any(len(ids) > 1 for ids in parts) and all(part.isdecimal() for ids in parts for part in ids)


def _parts_recur(cells: Iterable[str], sign: str) -> bool:
    """Tell that nearly all cells with several parts hold only parts that stand in other cells too."""
    parts = [_parts(cell, sign) for cell in cells]
    homes = Counter(part for found in parts for part in set(found))
    several = [found for found in parts if len(found) > 1]
    alone = sum(any(homes[part] == 1 for part in found) for found in several)
    return bool(several) and alone * _RARE <= len(several)


def _unclear(file: LabelFile, signs: list[str], cells: set[str]) -> UsageError:
    example = min(cells, key=lambda cell: (-sum(sign in cell for sign in signs), cell))
    return UsageError(
        f"{file.uri}: cannot tell what separates the labels of {example!r}; use --label-delimiter with one of "
        f"{', '.join(repr(sign) for sign in signs)}, or --label-delimiter '' when each cell is one label"
    )
