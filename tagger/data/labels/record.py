"""The types that every label format is read into, and the notes taken on the way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tagger import storage

EXAMPLES = 3
_EXAMPLE = 500  # characters; a label may be a whole text
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "validate": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SPLIT_ENDING = re.compile(r"[-_ ]?(\d{4}|set|images)$")
"""As in COCO's `train2017` and Carvana's `train_images`."""


class Record(NamedTuple):
    """The labels and the split of one file, as a label file gives them."""

    file: str
    """As written."""
    labels: tuple[str, ...] | None
    """None = unlabelled, () = known to have none."""
    split: str | None = None
    """train, val, test or None"""
    negatives: tuple[str, ...] = ()
    """Labels that are known not to apply."""


@dataclass
class Notes:
    """Warnings: counted by kind, with a few examples each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, example: str = "", count: int = 1) -> None:
        """Count one more of this kind and keep its first examples."""
        self.counts[what] += count
        shown = self.examples.setdefault(what, [])
        example = example if len(example) <= _EXAMPLE else f"{example[:_EXAMPLE]}..."
        if example and len(shown) < EXAMPLES and example not in shown:
            shown.append(example)

    def lines(self) -> list[str]:
        """Return one line per kind: `rows that name a file not in the source: 12 (a.jpg, b.jpg, ...)`."""
        return [f"{what}: {count:,}{self._shown(what)}" for what, count in self.counts.items()]

    def rows(self) -> list[dict[str, Any]]:
        """Return what, count and examples of each kind."""
        return [{"what": what, "count": n, "examples": self.examples[what]} for what, n in self.counts.items()]

    def _shown(self, what: str) -> str:
        examples = self.examples[what]
        more = ", ..." if examples and self.counts[what] > len(examples) else ""
        return f" ({', '.join(examples)}{more})" if examples else ""


@dataclass(frozen=True)
class Options:
    """The user's options for reading a label file."""

    delimiter: str | None = None
    """Between the labels of one cell; "" = a cell is one label."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Class names by id."""
    tags: Mapping[str, str | None] = field(default_factory=dict)
    """Azure: tag id -> name, None for the negative tag."""
    merge_rows: bool = False
    """Several rows of one file are one set of labels, in every format."""


@dataclass(frozen=True)
class LabelFile:
    """The head of a label file, from which its format is detected."""

    uri: str
    kind: str
    """parquet, json, jsonl, xml, text or folder"""
    encoding: str = "utf-8"
    lines: tuple[str, ...] = ()
    """First lines of a text."""
    columns: tuple[str, ...] = ()
    """Column names of a table, without spaces around them."""
    rows: tuple[tuple[Any, ...], ...] = ()
    """First rows of a table, one value per column."""
    delimiter: str = ","
    header: bool = True
    events: tuple[tuple[str, Any], ...] = ()
    """First (key, element) pairs of a JSON document."""
    listing: Sequence[str] = ()
    """Of a folder: the uris of the images found."""

    @property
    def folder(self) -> str:
        """Return the uri of the folder that relative names start at."""
        return self.uri if self.kind == "folder" else storage.public_uri(storage.parent(self.uri))


@dataclass(frozen=True)
class Format:
    """A label format: its detector and its reader."""

    name: str
    shape: str
    """For messages: what its files look like."""
    matches: Callable[[LabelFile], bool]
    """Tell from the content whether a file is of this format."""
    read: Callable[[LabelFile, Options, Notes], Iterator[Record]]
    kind: str = "table"
    """table, parquet, json, xml, text or folder: files that no format takes are shown the formats of their kind."""
    merges: bool = False
    """Several records of one file are one set of labels; otherwise they are a conflict."""


def listed(value: Any) -> list[Any]:
    """Return a JSON value that should be a list; any other value counts as empty."""
    return value if isinstance(value, list) else []


def split_of(word: Any, notes: Notes | None = None) -> str | None:
    """Return train, val or test for any usual spelling; None, and a note, for another word."""
    text = str(word or "").strip().lower()
    split = _SPLITS.get(text) or _SPLITS.get(_SPLIT_ENDING.sub("", text))
    if text and not split and notes is not None:
        notes.add("rows with a split that is not train, val or test, as good as without one: we split them", text)
    return split


def named(label_id: str, names: Mapping[str, str], notes: Notes) -> str | None:
    """Return the class name of an id, a number also with leading zeros; None, and a note, when there is none."""
    plain = str(int(label_id)) if label_id.isdecimal() and len(label_id) < 10 else label_id
    name = names.get(label_id) or names.get(plain)
    if not name:
        notes.add("labels of unknown classes", label_id)
    return name or None
