"""Text lists: lines of `path label` or `path id ...`, separated by blanks or tabs (Caffe, ImageNet, mmpretrain).

A line with only 0 and 1, or -1 and 1, is a vector with one value per class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tagger import storage
from tagger.data.labels import text
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, split_of, unique
from tagger.storage.names import IMAGE_SUFFIXES

_SUFFIXES = "|".join(sorted(IMAGE_SUFFIXES))
_LINE = re.compile(rf"(?P<file>\S.*?\.(?:{_SUFFIXES}))\"?(?:[ \t]+(?P<rest>\S.*))?", re.IGNORECASE)
_IDS = re.compile(r"-?\d+(?:\s+-?\d+)*")
_VECTORS = ({"0", "1"}, {"-1", "1"})
_BOX = 4
"""With this many numbers in every line, they are probably coordinates, not class ids."""


def matches(file: LabelFile) -> bool:
    """Return whether all lines are an image and labels; numbers that may be boxes need an explicit --label-format."""
    rests = _rests(file)
    if file.kind != "text" or len(rests) < len(file.lines) or not any(rests):
        return False
    if any(storage.is_image_name(word) for rest in rests for word in rest.split()):
        return False
    rows = [rest.split() for rest in rests]
    may_be_boxes = len({len(row) for row in rows}) == 1 and len(rows[0]) >= _BOX
    is_mixed = any("-1" in row and len(row) > 1 for row in rows)
    return _kind(rests) != "ids" or not (may_be_boxes or is_mixed)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per line; one without a label, or with the id -1 alone, is unlabelled.

    The images of a list named after a split, such as `train.txt`, get that split.
    """
    kind, split = _kind(_rests(file)), split_of(file.uri.rpartition("/")[2].removesuffix(".txt"))
    if kind != "words" and not options.names:
        notes.add("files of class ids without names (add --label-names FILE)", file.uri)
    for line in text.lines(file.uri, file.encoding):
        match = _LINE.fullmatch(line)
        rest = match["rest"] or "" if match else ""
        if match and (kind == "words" or not rest or _IDS.fullmatch(rest)):
            name = match["file"].lstrip('"')
            yield Record(name, _labels(name, rest, kind, options.delimiter, notes), split)
        else:
            notes.add("lines that are not an image and its labels", line[:80])


def _rests(file: LabelFile) -> list[str]:
    """Return the text after the image name in each of the first lines."""
    return [match["rest"] or "" for line in file.lines if (match := _LINE.fullmatch(line.strip()))]


def _kind(rests: Sequence[str]) -> str:
    """Return vectors, ids or words; vectors have the same length and two values, repeated within a line."""
    rows = [rest.split() for rest in rests]
    repeats = any(len(row) > len(set(row)) for row in rows)
    if repeats and len(set(map(len, rows))) == 1 and {word for row in rows for word in row} in _VECTORS:
        return "vectors"
    return "ids" if all(_IDS.fullmatch(rest) for rest in rests if rest) else "words"


def _labels(name: str, rest: str, kind: str, delimiter: str | None, notes: Notes) -> tuple[str, ...] | None:
    """Return the labels of a line: positions, ids, or words, which are one label unless separated by tabs."""
    if kind == "words":
        return unique(map(str.strip, rest.split(delimiter or "\t"))) or None
    if kind == "ids":
        return unique(word for word in rest.split() if word != "-1") or None
    places = tuple(str(at) for at, word in enumerate(rest.split()) if word == "1")
    if not places:
        notes.add("rows of zeros, taken as known to have no label", name)
    return places


FORMAT = Format("text-list", "lines of an image and its label or class ids, separated by blanks", matches, read, "text")
