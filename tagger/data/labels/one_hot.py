"""A column per class with 0 and 1, or -1 and 1: Roboflow's `_classes.csv`, CelebA."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tagger.data.labels import tables
from tagger.data.labels.columns import column_of_files, flag, flag_columns, other_columns, required_file_column
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, unique
from tagger.errors import TableError

_NO = ("0", "false")


def matches(file: LabelFile) -> bool:
    """Return whether a table has a file column and other columns with only 0 and 1, or -1 and 1.

    Raises TableError for a legend of segmentation masks, which has the same file name.
    """
    if file.columns and file.columns[0].lower() == "pixel value":
        raise TableError(f"{file.uri}: a legend of segmentation masks (columns {', '.join(file.columns)}), not labels")
    return column_of_files(file) is not None and bool(flag_columns(file))


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per row; a row of zeros is known to have no label, a row with a gap is unlabelled."""
    columns = flag_columns(file) or other_columns(file)
    classes, meanings = [file.columns[at] for at in columns], _meanings(file, columns, notes)
    notes.add_classes(classes)

    def labels_of(name: str, cells: Sequence[object]) -> tuple[str, ...] | None:
        chosen = [meanings.get(flag(cell)) for cell in cells]
        if None in chosen:
            notes.add("rows with a value that is neither 0 nor 1, left unlabelled", name)
            return None
        if True not in chosen:
            notes.add("rows of zeros, taken as known to have no label", name)
        return unique(label for label, is_set in zip(classes, chosen, strict=True) if is_set)

    yield from tables.records(file, columns, labels_of, notes)


def _meanings(file: LabelFile, columns: Sequence[int], notes: Notes) -> Mapping[str, bool]:
    """Return value -> whether it sets a class, from all values in the file.

    If there are zeros, 0 means no and -1 unsure; a gap means unsure too, or no if there are -1 (in CheXpert a gap is a
    finding that is not mentioned). Without zeros, -1 means no; with only 1 and gaps, a gap means no.
    """
    rows = tables.rows(file, [required_file_column(file), *columns], Notes())
    found = {flag(cell) for _, *cells in rows for cell in cells}
    no: Sequence[str] = next((words for words in (_NO, ("-1",), ("",)) if found & set(words)), ())
    if no == _NO and {"-1", ""} <= found:
        no = (*_NO, "")
        notes.add("files with 0, -1 and blanks, read as no, unsure and no", file.uri)
    return {"1": True, "true": True, **dict.fromkeys(no, False)}


FORMAT = Format("one-hot", "a path and a column of 0/1 or -1/1 per class", matches, read)
