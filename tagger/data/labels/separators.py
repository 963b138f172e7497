"""The sign that separates several labels in one cell: `haze primary`, `cat|dog`."""

from __future__ import annotations

from collections import defaultdict

from tagger.data.labels.cells import plain_text
from tagger.data.labels.record import LabelFile
from tagger.errors import UsageError

_SIGNS = "|;,"


def separator_of(file: LabelFile, column: int) -> str | None:
    """Return the only sign that explains the first rows of a column that is called labels.

    One of `|`, `;` and `,` alone is plain. A space is, when every word of the cells with several also stands in another
    cell, as in `haze primary`, `clear primary`, `haze`, `clear`; in `hot dog`, `cat` it is not, and UsageError asks.
    """
    cells = {plain_text(row[column]) for row in file.rows if isinstance(row[column], str)}
    cells = {cell for cell in cells if cell and cell[0] not in "[{"}
    signs = [sign for sign in _SIGNS if any(sign in cell for cell in cells)]
    spaced = [cell for cell in cells if " " in cell]
    if len(signs) == 1:
        return signs[0]
    if not signs and not spaced:
        return None
    if not signs and _words_stand_alone(cells, spaced):
        return " "
    raise _unclear(file, signs or [" "], cells)


def _words_stand_alone(cells: set[str], spaced: list[str]) -> bool:
    homes: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        for word in cell.split():
            homes[word].add(cell)
    return all(word.isdecimal() or len(homes[word]) > 1 for cell in spaced for word in cell.split())


def _unclear(file: LabelFile, signs: list[str], cells: set[str]) -> UsageError:
    example = min(cells, key=lambda cell: (-sum(sign in cell for sign in signs), cell))
    return UsageError(
        f"{file.uri}: cannot tell what separates the labels of {example!r}; say --label-delimiter with one of "
        f"{', '.join(repr(sign) for sign in signs)}, or --label-delimiter '' when each cell is one label"
    )
