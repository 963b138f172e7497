"""Join the records of label files to the listed files: one set of labels per file, or none and a note."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from tagger.data.labels.matching import EXACT, Files, same_path
from tagger.data.labels.record import EXAMPLES, Notes, Record

_NOTHING, _CONFLICT, _AMBIGUOUS = -1, -2, -3
_SPLITS = (None, "train", "val", "test")
_CLASHING = 4
"""Place of two different splits in _SPLITS's order."""

_MANY = 50
MISSING = "rows that name a file not in the source"
TWINS = "class names that differ only in case or spaces, kept apart"
SEVERAL = "rows whose name could mean several files, not guessed"


@dataclass
class Labels:
    """The labels and splits of the listed files."""

    labels: pa.Array
    """list<string>, null = unlabelled"""
    split: pa.Array
    classes: Counter[str]
    """Images per class, most first."""
    known_none: int
    unlabelled: int
    splits: Counter[str]
    multi_label: bool
    matched_rows: int
    """Rows of the label files that name a listed file."""
    notes: Notes
    unlabelled_examples: list[str] = field(default_factory=list)


def join(
    uris: Sequence[str], records: Iterable[tuple[str, Record]], folders: Sequence[str], merges: bool, notes: Notes
) -> Labels:
    """Match (folder of the label file, record) pairs to files and settle every file's labels.

    Relative names start at that folder, else at one of `folders`. Rows that agree are merged. Rows in conflict leave
    their file unlabelled: other labels for the same file unless `merges`, labels against known none or against the same
    label as a negative always. A name that fits several files is reported, not guessed.
    """
    board = _Board(uris, merges, notes)
    files = Files(uris)
    for folder, record in records:
        found = files.find(record.file, (folder, *folders))
        if not found.rows:
            notes.add(MISSING, record.file)
        elif len(found.rows) > 1:
            shown = " or ".join(uris[row] for row in found.rows[:2])
            notes.add(SEVERAL, f"{record.file} ({shown})")
        else:
            board.put(found.rows[0], found.closeness, record)
    return board.settle()


def twins(names: Iterable[str]) -> list[str]:
    """Return `'Bee' / 'bee'` for every group of names that differ only in case or spaces: often a slip."""
    alike = defaultdict(list)
    for name in names:
        alike["".join(name.casefold().split())].append(name)
    return [" / ".join(map(repr, sorted(group))) for group in alike.values() if len(group) > 1]


class _Board:
    """The labels of each file so far, as small numbers: memory grows by bytes per file, not by objects."""

    def __init__(self, uris: Sequence[str], merges: bool, notes: Notes) -> None:
        self.uris, self.merges, self.notes = uris, merges, notes
        self.chosen = array("i", [_NOTHING]) * len(uris)
        self.split = bytearray(len(uris))
        self.sets: list[tuple[str, ...] | None] = [None]
        self.place_of: dict[tuple[str, ...] | None, int] = {None: 0}
        self.negatives: dict[int, set[str]] = {}
        self.by_end: dict[int, tuple[int, str]] = {}
        self.matched = 0

    def put(self, row: int, closeness: int, record: Record) -> None:
        """Add a record to its file, unless a closer match came before."""
        if (closeness < EXACT or row in self.by_end) and not self._is_closest(row, closeness, record):
            return
        self.matched += 1
        if record.negatives:
            self.negatives.setdefault(row, set()).update(record.negatives)
        elif record.labels is None:
            self.notes.add("rows without a label", record.file)
        self._put_split(row, record)
        new = self._place(record.labels)
        old = self.chosen[row]
        if old == _NOTHING or (old == 0 and new >= 0):
            if old == 0 and row not in self.negatives:
                self._merged(record)
            self.chosen[row] = new
        elif old >= 0 and not record.negatives:
            self.chosen[row] = self._together(row, old, new, record)

    def _is_closest(self, row: int, closeness: int, record: Record) -> bool:
        """Of several names that end like one file only the closest means it; two equally close mean neither."""
        spoken = self.chosen[row] != _NOTHING
        before, other = self.by_end.get(row, (EXACT, record.file) if spoken else (0, ""))
        if closeness < before:
            self.notes.add(MISSING, record.file)
            return False
        if closeness == before and (closeness == EXACT or same_path(record.file, other)):
            return True
        if before and self.chosen[row] != _AMBIGUOUS:
            self.notes.add(MISSING if closeness > before else SEVERAL, other)
            self.matched -= 1
        if closeness == before:
            self.notes.add(SEVERAL, record.file)
            self.chosen[row] = _AMBIGUOUS
            return False
        self.chosen[row], self.split[row] = _NOTHING, 0
        self.negatives.pop(row, None)
        self.by_end[row] = (closeness, record.file)
        if closeness == 1 and ("/" in record.file or "\\" in record.file):
            self.notes.add("rows matched by file name alone, in another folder", record.file)
        elif closeness < record.file.strip("/").count("/") + 1:
            self.notes.add("rows matched by the end of their path alone", f"{record.file} as {self.uris[row]}")
        return True

    def _place(self, labels: tuple[str, ...] | None) -> int:
        key = None if labels is None else tuple(sorted(set(labels)))
        if key not in self.place_of:
            self.place_of[key] = len(self.sets)
            self.sets.append(key)
        return self.place_of[key]

    def _together(self, row: int, old: int, new: int, record: Record) -> int:
        """Return the place of the labels of two rows for one file."""
        if old == new or new == 0:
            self._merged(record)
            return old
        one, other = self.sets[old] or (), self.sets[new] or ()
        if self.merges and one and other:
            self._merged(record)
            return self._place((*one, *other))
        offer = " (--merge-rows takes all their labels)" if one and other else ""
        self._conflict(row, " against ".join(" + ".join(labels) or "none" for labels in (one, other)), offer)
        return _CONFLICT

    def _conflict(self, row: int, answers: str, offer: str = "") -> None:
        self.notes.add(f"images with rows in conflict, left unlabelled{offer}", f"{self.uris[row]} ({answers})")

    def _settle_negatives(self) -> None:
        """Set a file to known none when every class is among its negatives, and compare negatives with labels."""
        classes = {label for place in set(self.chosen) if place > 0 for label in self.sets[place] or ()}
        classes.update(*self.negatives.values())
        for row, negatives in self.negatives.items():
            place = self.chosen[row]
            if place == 0 and negatives >= classes:
                self.chosen[row] = self._place(())
            elif place == 0:
                self.notes.add("images with negatives alone, left unlabelled", self.uris[row])
            elif place > 0 and (both := negatives & set(self.sets[place] or ())):
                label = min(both)
                self._conflict(row, f"{label} against not {label}")
                self.chosen[row] = _CONFLICT

    def _merged(self, record: Record) -> None:
        self.notes.add("further rows for the same image, merged", record.file)

    def _put_split(self, row: int, record: Record) -> None:
        new, old = _SPLITS.index(record.split), self.split[row]
        if old in (0, new):
            self.split[row] = new
        elif new and old != _CLASHING:
            self.notes.add("images in two splits, put in none", self.uris[row])
            self.split[row] = _CLASHING

    def settle(self) -> Labels:
        """Return the columns and counts."""
        self._settle_negatives()
        sets = [self.sets[place] if place >= 0 else None for place in self.chosen]
        splits = [_SPLITS[place] if place < _CLASHING else None for place in self.split]
        uses = Counter(place for place in self.chosen if place > 0)
        classes: Counter[str] = Counter()
        for place, images in uses.items():
            classes.update(dict.fromkeys(self.sets[place] or (), images))
        self._warn_of_classes(classes, uses.total())
        open_rows = (uri for uri, labels in zip(self.uris, sets, strict=True) if labels is None)
        known_none = uses[self.place_of[()]] if () in self.place_of else 0
        return Labels(
            pa.array(sets, pa.list_(pa.string())),
            pa.array(splits, pa.string()),
            Counter(dict(sorted(classes.items(), key=lambda item: (-item[1], item[0])))),
            known_none,
            len(self.uris) - uses.total(),
            Counter(split for split in splits if split),
            known_none > 0 or any(len(self.sets[place] or ()) > 1 for place in uses),
            self.matched,
            self.notes,
            [uri for uri, _ in zip(open_rows, range(EXAMPLES), strict=False)],
        )

    def _warn_of_classes(self, classes: Counter[str], images: int) -> None:
        """Note names that differ only in case or spaces, and a column that hardly repeats: text rather than labels."""
        for names in twins(classes):
            self.notes.add(TWINS, names)
        if len(classes) > max(_MANY, images / 2):
            self.notes.add("classes, nearly one per image (are these labels?)", min(classes), len(classes))
