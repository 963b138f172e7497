"""Hugging Face imagefolder metadata: `file_name` and one or more label columns, as CSV, JSON lines or Parquet."""

from __future__ import annotations

from collections.abc import Iterator

from tagger.data.labels import delimited, tables
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.errors import TableError


def matches(file: LabelFile) -> bool:
    """Tell by the column `file_name` and something that is called a label, or is the only other column."""
    return file.kind in ("text", "jsonl", "parquet") and "file_name" in file.columns and bool(_label_columns(file))


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; raises TableError naming the columns when none of them holds labels."""
    columns = _label_columns(file)
    if not columns:
        raise TableError(f"{file.uri}: no label column; have {', '.join(file.columns)}; call one `label`")
    if any(at in columns for at in tables.label_columns(file.columns, plural=True)):
        separator = delimited.separator(file, columns[0], options)
    else:
        separator = options.delimiter
    yield from tables.records(file, columns, separator, notes)


def _label_columns(file: LabelFile) -> list[int]:
    several, one = (tables.label_columns(file.columns, plural) for plural in (True, False))
    others = tables.other_columns(file.columns)
    return several or one or (others if len(others) == 1 else [])


FORMAT = Format("huggingface", "metadata.csv, .jsonl or .parquet with file_name and label columns", matches, read)
