"""A table with several labels in one cell: `train_0,haze primary`; fastai's `fname,labels,is_valid`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tagger.data.labels import tables
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.errors import TableError, UsageError

_SIGNS = "|;,"


def matches(file: LabelFile) -> bool:
    """Tell by a column of files and one called labels, tags, classes or categories."""
    return tables.file_column(file.columns) is not None and bool(tables.label_columns(file.columns, plural=True))


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; raises TableError without a label column, UsageError when the delimiter is not plain."""
    columns = tables.label_columns(file.columns, plural=True) or tables.label_columns(file.columns, plural=False)
    columns = columns or tables.other_columns(file.columns)
    tables.required_file_column(file)
    if not columns:
        raise TableError(f"{file.uri}: no label column; have {', '.join(file.columns)}; call one `labels`")
    yield from tables.records(file, columns[:1], separator(file, columns[0], options), notes)


def separator(file: LabelFile, column: int, options: Options) -> str | None:
    """Return what separates the labels of a cell: as the user said, else the only sign that explains the first rows.

    One of `|`, `;` and `,` alone is plain. A space is, when every word of the cells with several also stands in another
    cell, as in `haze primary`, `clear primary`, `haze`, `clear`; in `hot dog`, `cat` it is not, and UsageError asks.
    """
    if options.delimiter is not None:
        return options.delimiter
    cells = {tables.plain_text(row[column]) for row in file.rows if isinstance(row[column], str)}
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


FORMAT = Format("delimited", "a table with a path column and a labels or tags column, several in a cell", matches, read)
