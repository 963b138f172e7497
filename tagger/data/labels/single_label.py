"""A table with a path column and a label column: CSV, JSON lines or Parquet."""

from __future__ import annotations

from collections.abc import Iterator

from tagger.data.labels import tables
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.errors import TableError


def matches(file: LabelFile) -> bool:
    """Tell by a column of files and one called like a label, or one column besides."""
    return bool(_label_column(file)) and tables.file_column(file.columns) is not None


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; raises TableError naming the columns when there is none of labels."""
    columns = _label_column(file)
    tables.required_file_column(file)
    if not columns:
        raise TableError(f"{file.uri}: no label column; have {', '.join(file.columns)}; call one `label`")
    if not file.header:
        notes.add("files without a header line, columns told by the image names", file.uri)
    yield from tables.records(file, columns, options.delimiter, notes)


def _label_column(file: LabelFile) -> list[int]:
    named = tables.label_columns(file.columns, plural=False)
    others = tables.other_columns(file.columns)
    return named[:1] or (others if len(others) == 1 else [])


FORMAT = Format("single-label", "a table with a path column and a label column", matches, read)
