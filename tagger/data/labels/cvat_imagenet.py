"""CVAT's ImageNet text: `<subset>.txt` with `1.jpg 0` or `"a b".jpg 0 3` next to `synsets.txt`, one class per line.

Its other shape, a folder per label, is class folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tagger import storage
from tagger.data.labels import text
from tagger.data.labels.names import by_position
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, names_of, split_of

SYNSETS = "synsets.txt"
_LINE = re.compile(r'(?:"(?P<quoted>[^"]+)"(?P<rest>\S*)|(?P<plain>\S+))(?P<ids>(?:\s+\d+)*)\s*')


def matches(file: LabelFile) -> bool:
    """Return whether lines are a name and numbers, next to a synsets.txt; synsets.txt itself represents all subsets."""
    if file.kind != "text" or not storage.exists(storage.join(file.folder, SYNSETS)):
        return False
    if file.uri.endswith(f"/{SYNSETS}"):
        return bool(_subsets(file.folder))
    return all(_LINE.fullmatch(line) for line in file.lines)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per line; a line without ids is unlabelled."""
    names = options.names or by_position(text.lines(storage.join(file.folder, SYNSETS)))
    notes.add_classes(names.values())
    own = [file.uri.rpartition("/")[2]]
    for subset in _subsets(file.folder) if own == [SYNSETS] else own:
        split = split_of(subset.removesuffix(".txt"))
        for line in text.lines(storage.join(file.folder, subset)):
            if match := _LINE.fullmatch(line):
                name = match["plain"] or match["quoted"] + match["rest"]
                yield Record(name, names_of(match["ids"].split(), names, notes) or None, split)
            else:
                notes.add("lines that are not a file and class ids", line[:80])


def _subsets(folder: str) -> list[str]:
    return [name for name in storage.names_in(folder) or [] if name.endswith(".txt") and name != SYNSETS]


FORMAT = Format("cvat-imagenet", "SUBSET.txt with `1.jpg 0` next to synsets.txt", matches, read, "text")
