"""Parquet with a list column of labels, as tagger's own manifest: [] is known none, null is unlabelled."""

from __future__ import annotations

from collections.abc import Iterator

from tagger.data.labels import tables
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.errors import TableError


def matches(file: LabelFile) -> bool:
    """Tell by a Parquet column that holds lists and is called labels or tags, or is the only list."""
    return file.kind == "parquet" and tables.file_column(file.columns) is not None and bool(_list_columns(file))


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; raises TableError when no column holds lists."""
    columns = _list_columns(file)
    if not columns:
        raise TableError(f"{file.uri}: no column of lists; have {', '.join(file.columns)}")
    yield from tables.records(file, columns[:1], None, notes)


def _list_columns(file: LabelFile) -> list[int]:
    lists = [at for at in range(len(file.columns)) if any(isinstance(row[at], list) for row in file.rows)]
    called = [at for at in tables.label_columns(file.columns, plural=True) if at in lists]
    return called or (lists if len(lists) == 1 else [])


FORMAT = Format("parquet-list", "Parquet with a path column and a list of labels per row", matches, read)
