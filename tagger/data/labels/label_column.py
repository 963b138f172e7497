"""Tables with a label column (one or several labels in a cell, or lists), as CSV, JSON lines or Parquet.

The formats differ only in the columns that they use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

from tagger.data.labels import tables
from tagger.data.labels.cells import is_list_text, labels_in, united
from tagger.data.labels.columns import column_of_files, label_columns, other_columns, required_file_column
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.errors import UsageError

Choose = Callable[[LabelFile], list[int]]

_NO_FINDING = "no finding"
"""Value in chest X-ray datasets, in a column with several findings per cell."""
_SIGNS = "|;,"
_CELLS = 100_000
"""Maximum number of distinct cells used to determine the separator."""
_RARE = 20
"""At most one in this many cells may have a label that occurs in no other cell."""


def _named(file: LabelFile) -> list[int]:
    return [*file.named.labels]


def _several(file: LabelFile) -> list[int]:
    return label_columns(file.columns, plural=True)


def _one(file: LabelFile) -> list[int]:
    return label_columns(file.columns, plural=False)


def _only(file: LabelFile) -> list[int]:
    others = other_columns(file)
    return others if len(others) == 1 else []


def _open_images(file: LabelFile) -> list[int]:
    lower = [name.lower() for name in file.columns]
    return [lower.index("labelname")] if {"imageid", "labelname", "confidence"} <= set(lower) else []


def _hugging_face(file: LabelFile) -> list[int]:
    """Return all columns named like labels, else the only other one."""
    return _several(file) or _one(file) or _only(file)


def _lists(file: LabelFile) -> list[int]:
    """Return the list column that is named like labels, else the only list column."""
    found = [at for at in range(len(file.columns)) if any(isinstance(row[at], list) for row in file.rows)]
    named = [at for at in _several(file) if at in found]
    return named[:1] or (found if len(found) == 1 else [])


def _delimited(file: LabelFile) -> list[int]:
    return (_several(file) or _one(file) or other_columns(file))[:1]


def _single(file: LabelFile) -> list[int]:
    return _one(file)[:1] or _only(file)


def _read(choose: Choose, file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; raises UsageError if the separator of labels within a cell is ambiguous."""
    columns = choose(file) or _named(file)
    plural = columns if choose is _delimited else _several(file)
    separators = [options.delimiter] * len(columns)
    if options.delimiter is None:
        separators = [_separator(file, at, at in plural, notes) for at in columns]

    def labels_of(name: str, cells: Sequence[object]) -> tuple[str, ...] | None:
        found = [labels_in(cell, sign, notes) for cell, sign in zip(cells, separators, strict=True)]
        for labels, sign in zip(found, separators, strict=True):
            if sign is None and labels and any(sign in labels[0] for sign in "|;"):
                notes.add("labels that look like several in one (if so, use --label-delimiter)", labels[0])
        labels = united(found)
        if any(separators) and labels and labels[0].lower() == _NO_FINDING and len(labels) == 1:
            notes.add("cells that say No Finding, taken as known to have no label", name)
            return ()
        return labels

    yield from tables.records(file, columns, labels_of, notes)


def _separator(file: LabelFile, column: int, named_plural: bool, notes: Notes) -> str | None:
    """Return the separator of labels in a column, determined from the whole file; None for one label per cell.

    A sign is the separator when its parts are ids, or when they recur in other cells: `haze primary`, `clear primary`,
    `haze`. In a column named like several labels a sole `|`, `;` or `,` needs no such evidence, and UsageError asks
    when nothing decides (`hot dog`, `cat`). In other columns words with spaces between them stay one label.
    """
    cells = list(islice(_distinct_cells(file, column), _CELLS))
    signs = [sign for sign in _SIGNS if any(sign in cell for cell in cells)]
    found = next((sign for sign in (*_SIGNS, " ") if _are_ids(_parts(cells, sign))), None)
    if not found:
        tried = [*signs, " "] if named_plural else signs
        found = next((sign for sign in tried if _recur(_parts(cells, sign))), None)
    if not found and named_plural and (signs or any(" " in cell for cell in cells)):
        if len(signs) != 1:
            raise _unclear(file, signs or [" "], cells)
        found = signs[0]
    if found:
        several = sorted(cell for cell, parts in zip(cells, _parts(cells, found), strict=True) if len(parts) > 1)
        kind = f"different cells of {file.columns[column]} separated at {found!r}"
        notes.add(kind, ", ".join(several[:1]), len(several))
    return found


def _distinct_cells(file: LabelFile, column: int) -> Iterator[str]:
    """Yield the distinct texts of a column that are not lists."""
    seen: set[str] = set()
    for _, value in tables.rows(file, [required_file_column(file), column], Notes()):
        cell = value.strip() if isinstance(value, str) else ""
        if cell and cell not in seen and not is_list_text(cell):
            seen.add(cell)
            yield cell


def _parts(cells: list[str], sign: str) -> list[list[str]]:
    """Split each cell at a separator; return its labels."""
    return [[part for part in map(str.strip, cell.split(sign)) if part] for cell in cells]


def _are_ids(cells: list[list[str]]) -> bool:
    """Return whether all parts are numbers, and some cells have several."""
    return any(len(ids) > 1 for ids in cells) and all(part.isdecimal() for ids in cells for part in ids)


def _recur(cells: list[list[str]]) -> bool:
    """Return whether in nearly all cells with several parts, every part also occurs in another cell."""
    uses = Counter(part for parts in cells for part in set(parts))
    several = [parts for parts in cells if len(parts) > 1]
    alone = sum(any(uses[part] == 1 for part in parts) for parts in several)
    return bool(several) and alone * _RARE <= len(several)


def _unclear(file: LabelFile, signs: list[str], cells: list[str]) -> UsageError:
    example = min(cells, key=lambda cell: (-sum(sign in cell for sign in signs), cell))
    return UsageError(
        f"{file.uri}: the separator of the labels in {example!r} is ambiguous; use --label-delimiter with one of "
        f"{', '.join(repr(sign) for sign in signs)}, or --label-delimiter '' if each cell is one label"
    )


def _if_named(file: LabelFile) -> list[int]:
    """Return the columns of `_hugging_face` if there is a file column with Hugging Face's name."""
    return _hugging_face(file) if "file_name" in file.columns else []


def _if_parquet(file: LabelFile) -> list[int]:
    return _lists(file) if file.kind == "parquet" else []


def _format(name: str, shape: str, detect: Choose, choose: Choose, kind: str = "table", merges: bool = False) -> Format:
    """Return the format of tables with a file column in which `detect` finds label columns."""

    def matches(file: LabelFile) -> bool:
        return column_of_files(file) is not None and bool(detect(file))

    return Format(name, shape, matches, partial(_read, choose), kind, merges)


FORMATS = (
    _format("named-columns", "--label-column", _named, _named),
    _format("open-images", "ImageID,LabelName,Confidence, a row per label", _open_images, _open_images, merges=True),
    _format("huggingface", "file_name and label columns", _if_named, _hugging_face),
    _format("parquet-list", "Parquet with a list of labels per row", _if_parquet, _lists, "parquet"),
    _format("delimited", "a path and a labels or tags column, several in a cell", _several, _delimited),
    _format("single-label", "a path and a label column", _single, _single),
)
