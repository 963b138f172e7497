"""Pascal VOC `ImageSets/Main`: `<class>_<split>.txt` with lines `000012 -1`; 1: has the class, 0: difficult."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from tagger import storage
from tagger.data.labels import text
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, split_of

_NAME = re.compile(r"(?P<label>.+)_(?P<split>train|val|trainval|test)\.txt")
_SPLITS = ("train.txt", "val.txt", "trainval.txt", "test.txt")
_LINE = re.compile(r"(?P<stem>\S+)[ \t]+(?P<answer>-1|0|1)")


def matches(file: LabelFile) -> bool:
    """Return whether a file is named after a class and a split and has -1, 0 or 1; or is the list of a whole split."""
    if file.kind != "text":
        return False
    name = file.uri.rpartition("/")[2]
    found = [_LINE.fullmatch(line.strip()) for line in file.lines]
    if parts := _NAME.fullmatch(name):
        is_beside_split = partial(storage.exists, storage.join(file.folder, f"{parts['split']}.txt"))
        return all(found) and (any(match["answer"] == "-1" for match in found if match) or is_beside_split())
    return name in _SPLITS and not any(found) and _has_classes(file.folder, name)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per line: the class as a label or as a negative; a difficult one is neither."""
    if not (name := _NAME.fullmatch(file.uri.rpartition("/")[2])):
        return  # the list of a split has no more information than those of the classes
    label, split = name["label"], split_of(name["split"])
    notes.add_classes([label])
    for line in text.lines(file.uri, file.encoding):
        if not (match := _LINE.fullmatch(line)):
            notes.add("lines that are not a name and -1, 0 or 1", line[:80])
            continue
        if match["answer"] == "0":
            notes.add("difficult objects, neither a label nor its absence", f"{match['stem']}: {label}")
        positive, negative = match["answer"] == "1", match["answer"] == "-1"
        yield Record(match["stem"], (label,) if positive else None, split, (label,) if negative else ())


def _has_classes(folder: str, split: str) -> bool:
    if folder.startswith(("http://", "https://")):
        return False
    return any(name.endswith(f"_{split}") for name in storage.names_in(folder) or ())


FORMAT = Format("voc", "CLASS_train.txt with a name and -1, 0 or 1 a line", matches, read, "text", merges=True)
