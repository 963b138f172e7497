"""CelebA's `list_attr_celeba.txt`: a count, a line of class names, then lines such as `000001.jpg -1 1 ...`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tagger import storage
from tagger.data.labels import text
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record

_ANSWERS = {"1", "-1", "0"}


def matches(file: LabelFile) -> bool:
    """Return whether a line of names is followed by images with a value for each name."""
    names = _names(file.lines)
    rows = [line for line in file.lines[1:] if line.split() not in ([], names)]
    return file.kind == "text" and bool(rows) and all(_row(line, names) for line in rows)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image; a row without a 1 is known to have none."""
    names = _names(file.lines)
    notes.add_classes(names)
    for line in text.lines(file.uri, file.encoding):
        if row := _row(line, names):
            yield Record(row[0], tuple(name for name, answer in zip(names, row[1:], strict=True) if answer == "1"))
        elif line.split() != names and not line.isdecimal():
            notes.add("lines that are not an image and a value for each class", line[:80])


def _names(lines: Sequence[str]) -> list[str]:
    """Return the class names: the first line that is not a count."""
    return next((line.split() for line in lines[:2] if not line.strip().isdecimal()), [])


def _row(line: str, names: Sequence[str]) -> list[str]:
    """Return the image and its values; empty for another line."""
    row = line.rsplit(maxsplit=len(names))
    fits = len(row) == len(names) + 1 > 2 and storage.is_image_name(row[0]) and {*row[1:]} <= _ANSWERS
    return row if fits else []


FORMAT = Format("celeba", "a line of class names, then an image and -1 or 1 for each", matches, read, "text")
