"""Join the records of label files with the listed files: one set of labels per file, or none and a note."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tagger.data.labels.matching import EXACT, Files, same_path
from tagger.data.labels.record import Notes, Record

_MANY = 50
MISSING = "rows that name a file not in the source"
TWINS = "class names that differ only in case or spaces, treated as different"
SEVERAL = "rows whose name matches several files, ignored"


Match = tuple[int, int, Record]
"""(row, closeness, record)"""


class Joined(NamedTuple):
    """The labels and splits of the listed files, and the number of rows of label files that name one of them."""

    labels: pa.ListArray
    """Lists of strings; null: unlabelled."""
    split: pa.StringArray
    matched_rows: int


def join(
    uris: Sequence[str], records: Iterable[tuple[str, Record]], folders: Sequence[str], merges: bool, notes: Notes
) -> Joined:
    """Match (folder of the label file, record) pairs to files and determine the labels of every file.

    Relative names start at that folder, else at one of `folders`. Rows that agree are merged. Rows in conflict leave
    their file unlabelled: other labels for the same file unless `merges`, labels against known none or against the same
    label as a negative always. A name that fits several files is reported, not guessed.
    """
    files, matches = Files(uris), list[Match]()
    for folder, record in records:
        found = files.find(record.file, (folder, *folders))
        if not found.rows:
            notes.add(MISSING, record.file)
        elif len(found.rows) > 1:
            notes.add(SEVERAL, f"{record.file} ({' or '.join(uris[row] for row in found.rows[:2])})")
        else:
            matches.append((found.rows[0], found.closeness, record))
    del files
    matches.sort(key=_row)
    classes = {label for *_, record in matches for label in (*(record.labels or ()), *record.negatives)}
    labels: list[tuple[str, ...] | None] = [None] * len(uris)
    splits: list[str | None] = [None] * len(uris)
    matched = 0
    for row, same in groupby(matches, _row):
        near = _closest(uris[row], list(same), notes)
        labels[row] = _labels_of(uris[row], near, merges, classes, notes)
        splits[row] = _split_of(uris[row], near, notes)
        matched += len(near)
    joined = Joined(pa.array(labels, pa.list_(pa.string())), pa.array(splits, pa.string()), matched)
    _note_classes(joined.labels, notes)
    return joined


def class_counts(labels: pa.ListArray | pa.ChunkedArray) -> Counter[str]:
    """Return the number of images of each class, most frequent first."""
    found = pc.value_counts(pc.list_flatten(labels)).to_pylist()
    return Counter({row["values"]: row["counts"] for row in sorted(found, key=lambda r: (-r["counts"], r["values"]))})


def twins(names: Iterable[str]) -> list[str]:
    """Return `'Bee' / 'bee'` for every group of names that differ only in case or spaces, often by mistake."""
    alike = defaultdict(list)
    for name in names:
        alike["".join(name.casefold().split())].append(name)
    return [" / ".join(map(repr, sorted(group))) for group in alike.values() if len(group) > 1]


def _row(match: Match) -> int:
    return match[0]


def _closest(uri: str, matches: list[Match], notes: Notes) -> list[Record]:
    """Return the records whose names are closest to a file; none if different paths are equally close."""
    best = max(closeness for _, closeness, _ in matches)
    near = [record for _, closeness, record in matches if closeness == best]
    for _, closeness, record in matches:
        if closeness < best:
            notes.add(MISSING, record.file)
    if best == EXACT:
        return near
    name = near[0].file
    if best == 1 and ("/" in name or "\\" in name):
        notes.add("rows matched by file name alone, in another folder", name)
    elif best < name.strip("/").count("/") + 1:
        notes.add("rows matched by the end of their path alone", f"{name} as {uri}")
    if not all(same_path(name, record.file) for record in near):
        for record in near:
            notes.add(SEVERAL, record.file)
        return []
    return near


def _labels_of(
    uri: str, records: list[Record], merges: bool, classes: set[str], notes: Notes
) -> tuple[str, ...] | None:
    """Return the labels of a file; None, and a note, if its records are in conflict."""
    labels: tuple[str, ...] | None = None
    for number, record in enumerate(record for record in records if not record.negatives):
        new = None if record.labels is None else tuple(sorted(set(record.labels)))
        if new is None:
            notes.add("rows without a label", record.file)
        elif merges and labels and new:
            labels = new = tuple(sorted({*labels, *new}))
        if new is not None and labels not in (None, new):
            answers = " against ".join(" + ".join(names) or "none" for names in (labels or (), new))
            _note_conflict(uri, answers, " (--merge-rows takes all their labels)" if labels and new else "", notes)
            return None
        if number:
            notes.add("further rows for the same image, merged", record.file)
        labels = new if labels is None else labels
    negatives = {label for record in records for label in record.negatives}
    if labels is None and negatives >= classes and negatives:
        return ()
    if labels is None and negatives:
        notes.add("images with negatives alone, left unlabelled", uri)
    if both := negatives.intersection(labels or ()):
        _note_conflict(uri, f"{min(both)} against not {min(both)}", "", notes)
        return None
    return labels


def _note_conflict(uri: str, answers: str, offer: str, notes: Notes) -> None:
    notes.add(f"images with rows in conflict, left unlabelled{offer}", f"{uri} ({answers})")


def _split_of(uri: str, records: list[Record], notes: Notes) -> str | None:
    splits = {record.split for record in records if record.split}
    if len(splits) > 1:
        notes.add("images in two splits, assigned to neither", uri)
    return splits.pop() if len(splits) == 1 else None


def _note_classes(labels: pa.ListArray, notes: Notes) -> None:
    """Note classes without images, names that differ only in case or spaces, and text that is probably not labels."""
    classes = class_counts(labels)
    for name in notes.classes:
        if name not in classes:
            notes.add("classes without an image", name)
    for names in twins(classes):
        notes.add(TWINS, names)
    if len(classes) > max(_MANY, (len(labels) - labels.null_count) / 2):
        notes.add("classes, nearly one per image (are these labels?)", min(classes), len(classes))
