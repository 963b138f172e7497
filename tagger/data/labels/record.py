"""Common types of all label formats, and the warnings collected while reading."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tagger import storage
from tagger.errors import UsageError

EXAMPLES = 3
_EXAMPLE = 500  # characters; a label may be a whole text
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "validate": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SPLIT_ENDING = re.compile(r"[-_ ]?(\d{4}|set|images)$")
"""Ending of a split name, as in COCO's `train2017` and Carvana's `train_images`."""


class Record(NamedTuple):
    """The labels and the split of one file, from a label file."""

    file: str
    """Name of the file, as written."""
    labels: tuple[str, ...] | None
    """None = unlabelled, () = known to have none."""
    split: str | None = None
    """train, val, test or None"""
    negatives: tuple[str, ...] = ()
    """Labels that are known not to apply."""
    image_id: str | None = None
    """SHA-256 of the labelled file, whose labels follow it if it is moved."""


@dataclass
class Notes:
    """Warnings: counted by kind, with a few examples each."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    classes: dict[str, None] = field(default_factory=dict)
    """Classes declared in the label files, with or without images."""

    def add(self, kind: str, example: str = "", count: int = 1) -> None:
        """Count a warning of this kind; its first examples are stored."""
        self.counts[kind] += count
        shown = self.examples.setdefault(kind, [])
        example = example if len(example) <= _EXAMPLE else f"{example[:_EXAMPLE]}..."
        if example and len(shown) < EXAMPLES and example not in shown:
            shown.append(example)

    def add_classes(self, names: Iterable[str]) -> None:
        """Add classes that the label files declare."""
        self.classes.update(dict.fromkeys(names))

    def lines(self) -> list[str]:
        """Return one line per kind: `rows that name a file not in the source: 12 (a.jpg, b.jpg, ...)`."""
        return [f"{kind}: {count:,}{self._shown(kind)}" for kind, count in self.counts.items()]

    def rows(self) -> list[dict[str, object]]:
        """Return what, count and examples of each kind."""
        return [{"what": kind, "count": n, "examples": self.examples[kind]} for kind, n in self.counts.items()]

    def _shown(self, kind: str) -> str:
        examples = self.examples[kind]
        more = ", ..." if examples and self.counts[kind] > len(examples) else ""
        return f" ({', '.join(examples)}{more})" if examples else ""


@dataclass(frozen=True)
class Options:
    """The user's options for reading a label file."""

    delimiter: str | None = None
    """Separator of labels within a cell; "": a cell is one label."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Class names by id."""
    tags: Mapping[str, str | None] = field(default_factory=dict)
    """Azure: tag id -> name, None for the negative tag."""
    fields: tuple[str, ...] = ()
    """Fields with the labels: controls of Label Studio, jobs of SageMaker, attributes of VIA."""


class Columns(NamedTuple):
    """Positions of the columns named by the user."""

    file: int | None = None
    labels: tuple[int, ...] = ()
    split: int | None = None


NO_COLUMNS = Columns()


@dataclass(frozen=True)
class LabelFile:
    """The head of a label file, from which its format is detected."""

    uri: str
    kind: str
    """parquet, json, jsonl, xml, text or folder"""
    encoding: str = "utf-8"
    lines: tuple[str, ...] = ()
    """First lines of a text; the root element of XML."""
    columns: tuple[str, ...] = ()
    """Stripped column names of a table; keys of the objects in a JSON list."""
    rows: tuple[tuple[object, ...], ...] = ()
    """First rows of a table, one value per column."""
    delimiter: str = ","
    header: bool = True
    events: tuple[tuple[str, object], ...] = ()
    """First (key, element) pairs of a JSON document."""
    listing: Sequence[str] = ()
    """Uris of the images in a folder."""
    named: Columns = NO_COLUMNS
    """Columns named by the user, which take precedence over detected ones."""

    @property
    def folder(self) -> str:
        """Return the uri of the folder that names are relative to."""
        return self.uri if self.kind == "folder" else storage.public_uri(storage.parent(self.uri))

    @property
    def elements(self) -> list[object]:
        """Return the first elements of a JSON list."""
        return [element for key, element in self.events if not key]


@dataclass(frozen=True)
class Format:
    """A label format: its detector and its reader."""

    name: str
    shape: str
    """Description of its files, for messages."""
    matches: Callable[[LabelFile], bool]
    """Return whether a file has this format, by its content."""
    read: Callable[[LabelFile, Options, Notes], Iterator[Record]]
    kind: str = "table"
    """table, parquet, json, jsonl, xml, text or folder: errors list the formats of a file's kind."""
    merges: bool = False
    """Merge several records of a file; otherwise they are a conflict."""
    has_fields: bool = False
    """Its files may have several fields, of which --label-field selects some."""
    beside: bool = False
    """Its files are the images or next to them; such a format also works if the source is not a folder."""
    corrects: bool = False
    """It corrects a manifest: images that it does not list keep their labels."""


class Fields:
    """The fields with the labels: those of --label-field, else the only one of a file."""

    def __init__(self, uri: str, chosen: Collection[str], notes: Notes) -> None:
        self.uri, self.chosen, self.notes, self.seen = uri, chosen, notes, dict[str, None]()

    def take(self, name: str) -> bool:
        """Return whether a field has labels; raises UsageError for a second field without --label-field."""
        self.seen[name] = None
        if not self.chosen and len(self.seen) > 1:
            one, other = list(self.seen)[:2]
            raise UsageError(f"{self.uri}: answers several questions, {one} and {other}; choose with --label-field")
        if self.chosen and name not in self.chosen:
            self.notes.add("answers to questions other than --label-field, ignored", name)
            return False
        return True


def unique(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct non-empty labels, in order."""
    return tuple(dict.fromkeys(label for label in labels if label))


def dicts(value: object) -> list[dict[str, object]]:
    """Return the objects in a JSON list; none if the value is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def split_of(word: str, notes: Notes | None = None) -> str | None:
    """Return train, val or test for any common spelling; None, and a note, for another word."""
    text = word.strip().lower()
    split = _SPLITS.get(text) or _SPLITS.get(_SPLIT_ENDING.sub("", text))
    if text and not split and notes is not None:
        notes.add("rows with a split other than train, val or test, treated as without a split", text)
    return split


def names_of(ids: Iterable[str], names: Mapping[str, str], notes: Notes) -> tuple[str, ...]:
    """Return the class names of ids, which may have leading zeros; an id without a name is noted and omitted."""
    found = []
    for label_id in ids:
        plain = str(int(label_id)) if label_id.isdecimal() and len(label_id) < 10 else label_id
        name = names.get(label_id) or names.get(plain) or ""
        if not name:
            notes.add("labels of unknown classes", label_id)
        found.append(name)
    return unique(found)
