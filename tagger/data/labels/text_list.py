"""Text lists: `path label`, `path id` or `path id id` a line, separated by blanks or tabs: Caffe, ImageNet, mmpretrain.

A line of nothing but 0 and 1, or -1 and 1, is a vector with a place for each class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tagger import storage
from tagger.data.labels import text
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, split_of, unique
from tagger.storage.listing import IMAGE_SUFFIXES

_SUFFIXES = "|".join(sorted(IMAGE_SUFFIXES))
_LINE = re.compile(rf"(?P<file>\S.*?\.(?:{_SUFFIXES}))\"?(?:[ \t]+(?P<rest>\S.*))?", re.IGNORECASE)
_IDS = re.compile(r"-?\d+(?:\s+-?\d+)*")
_VECTORS = ({"0", "1"}, {"-1", "1"})
_BOX = 4
"""As many numbers in every line are rather coordinates than class ids."""


def matches(file: LabelFile) -> bool:
    """Return whether all lines are an image and most of them labels; numbers that may be boxes are left to the user."""
    found = [_LINE.fullmatch(line.strip()) for line in file.lines]
    rests = [match["rest"] or "" for match in found if match]
    if file.kind != "text" or len(rests) < len(file.lines) or not any(rests):
        return False
    if any(storage.is_image_name(word) for rest in rests for word in rest.split()):
        return False
    widths = {len(rest.split()) for rest in rests}
    numbers = all(_IDS.fullmatch(rest) for rest in rests if rest)
    return not (numbers and len(widths) == 1 and min(widths) >= _BOX) or _are_vectors(rests)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per line; one without a label, or with the id -1 alone, is unlabelled.

    A list called after a split, as `train.txt`, gives its images that split.
    """
    rests = [match["rest"] or "" for line in file.lines if (match := _LINE.fullmatch(line.strip()))]
    vectors, ids = _are_vectors(rests), all(_IDS.fullmatch(rest) for rest in rests if rest)
    split = split_of(file.uri.rpartition("/")[2].removesuffix(".txt"))
    if ids and not options.names:
        notes.add("files of class ids without names (add --label-names FILE)", file.uri)
    with text.open_text(file.uri, file.encoding) as lines:
        for line in filter(None, (line.strip(text.BLANK) for line in lines)):
            if not (match := _LINE.fullmatch(line)):
                notes.add("lines that are not an image and its labels", line[:80])
                continue
            name, rest = match["file"].lstrip('"'), match["rest"] or ""
            if vectors:
                yield Record(name, tuple(str(at) for at, word in enumerate(rest.split()) if word == "1"), split)
            else:
                yield Record(name, unique(_labels(rest, ids, options.delimiter)) or None, split)


def _labels(rest: str, ids: bool, delimiter: str | None) -> Sequence[str]:
    """Return the labels at the end of a line: ids, or one label of any words unless tabs or the delimiter separate."""
    if ids:
        return [word for word in rest.split() if word != "-1"]
    return [label.strip() for label in rest.split(delimiter or "\t")]


def _are_vectors(rests: Sequence[str]) -> bool:
    """Return whether all lines are equally long and hold two values, some of them more than once."""
    rows = [rest.split() for rest in rests]
    repeats = any(len(row) > len(set(row)) for row in rows)
    return repeats and len(set(map(len, rows))) == 1 and {word for row in rows for word in row} in _VECTORS


FORMAT = Format("text-list", "an image and its label or class ids a line, between blanks", matches, read, "text")
