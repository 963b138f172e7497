"""Splits of labelled images into train, val and test.

The content of an image determines its split: the SHA-256 of seed and image id is a number in [0, 1); below 0.70 means
train, below 0.85 val, else test. So order and paths of the files do not matter, and adding a file does not move others.
But with such fixed cuts, a class of 20 images may have from 0 to 7 test images, whereas cuts at exact ranks would move
files whenever one is added. As a compromise, each label's cuts stay fixed while the share of its images below them is
within TOLERANCE, and otherwise move only as far as that limit. Large classes practically never change; small ones get
their shares.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tagger.errors import UsageError

NAMES = ("train", "val", "test")
SHARES = (0.70, 0.15, 0.15)
NO_LABEL = "(no label)"
"""Pseudo-label of images that are known to have no label."""
TOLERANCE = 0.02
"""Tolerated error of the share below a cut, as a share of a label's images."""

_EXAMPLES = 3


@dataclass(frozen=True)
class Splits:
    """The split of every row, and a report."""

    split: tuple[str | None, ...]
    """train, val or test; None for rows without labels"""
    counts: dict[str, Counter[str]]
    """label -> split -> images, by name of the label"""
    groups: tuple[tuple[int, ...], ...]
    """Rows of the groups of labelled near-duplicates, largest first."""
    leaks: tuple[tuple[int, ...], ...]
    """Rows of the groups that span several of the given splits."""
    too_small: tuple[str, ...]
    """Labels without images in a split that other labels have."""

    def lines(self, uris: Sequence[str]) -> list[str]:
        """Return the report; `uris` names the rows."""
        total = Counter(self.split)
        lines = [", ".join(f"{total[name]:,} {name}" for name in NAMES) + f"; {len(self.counts):,} labels"]
        for kind, groups in (
            ("assigned to one split each", self.groups),
            ("across the given splits, a leak", self.leaks),
        ):
            if groups:
                shown = "; ".join(" = ".join(uris[row] for row in rows[:2]) for rows in groups[:_EXAMPLES])
                largest = f"largest {len(groups[0]):,} images"
                lines.append(f"{len(groups):,} groups of near-duplicates {kind} ({largest}), for example {shown}")
        if self.too_small:
            shown = ", ".join(f"{label} ({self.counts[label].total()})" for label in self.too_small[:10])
            lines.append(f"{len(self.too_small):,} labels are missing in a split because they have few images: {shown}")
        return lines


def assign(
    image_ids: Sequence[str],
    labels: Sequence[Sequence[str] | None],
    groups: npt.NDArray[np.int64],
    given: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Splits:
    """Assign each labelled row to a split; groups (N,) of near-duplicates stay together.

    Labels are balanced rarest first, as in iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011): an image goes
    where its rarest label needs it. A label of one or two images is for training, and so is a group larger than the
    smallest share of its label.

    Given splits: val and test, where given, are complete and stay as they are; what is missing is carved out of train,
    that is of the rows given as train and those without a split, in the proportion of SHARES. So train + val gets a
    test split, train + test a val split, train alone both, and with all three given the rows without a split are
    for training. A row without a split follows near-duplicates in a given val or test; a group that spans given splits
    is a leak, reported and not moved. Raises UsageError for other names.
    """
    if unknown := sorted({name for name in given or () if name} - set(NAMES)):
        raise UsageError(f"splits {unknown} are unknown; expected {', '.join(NAMES)}")
    labelled = [row for row, names in enumerate(labels) if names is not None]
    fixed: dict[int, str] = {row: given[row] or "" for row in labelled} if given else {}
    members: defaultdict[int, list[int]] = defaultdict(list)
    for row in labelled:
        members[int(groups[row])].append(row)
    complete = set(fixed.values()) & {"val", "test"}
    open_shares = {name: share for name, share in zip(NAMES, SHARES, strict=True) if name not in complete}
    split: list[str | None] = [None] * len(image_ids)
    units = []
    for rows in members.values():
        held = {fixed.get(row) for row in rows} & {"val", "test"}
        if not held:
            units.append(_unit(rows, image_ids, labels, seed))
        for row in rows if held else ():
            split[row] = fixed.get(row) or min(held, key=("test", "val").index)
    ends = np.cumsum(list(open_shares.values()))
    for unit, place in zip(units, _stratify(units, ends[:-1] / ends[-1]), strict=True):
        for row in unit.rows:
            split[row] = list(open_shares)[place]
    return _report(split, labels, list(members.values()))


@dataclass(frozen=True)
class _Unit:
    """Rows that are assigned to the same split."""

    rows: list[int]
    labels: Counter[str]
    """label -> rows that have it"""
    key: float
    """Hash of its content, in [0, 1)."""


def _unit(rows: list[int], image_ids: Sequence[str], labels: Sequence[Sequence[str] | None], seed: int) -> _Unit:
    digest = hashlib.sha256(f"{seed}:{min(image_ids[row] for row in rows)}".encode()).digest()
    names = Counter(name for row in rows for name in dict.fromkeys(labels[row] or (NO_LABEL,)))
    return _Unit(rows, names, int.from_bytes(digest[:6], "big") / 2**48)


def _stratify(units: list[_Unit], cuts: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the split index of each unit: the number of cuts (ascending, in (0, 1)) below it."""
    having: defaultdict[str, list[int]] = defaultdict(list)
    for number, unit in enumerate(units):
        for label in unit.labels:
            having[label].append(number)
    totals = {label: sum(units[number].labels[label] for number in numbers) for label, numbers in having.items()}
    places = np.full(len(units), -1)
    for label in sorted(having, key=lambda label: (totals[label], label)):
        numbers = np.array(sorted(having[label], key=lambda number: units[number].key))
        weights = np.array([units[number].labels[label] for number in numbers])
        keys = np.array([units[number].key for number in numbers])
        free = places[numbers] < 0
        placed = [weights[~free & (places[numbers] <= place)].sum() for place in range(len(cuts))]
        places[numbers[free]] = _place(keys[free], weights[free], totals[label], placed, cuts)
    return places


def _place(
    keys: npt.NDArray[np.float64],
    weights: npt.NDArray[np.int64],
    total: int,
    placed: Sequence[int],
    cuts: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """Return the split indices of a label's units; `placed` counts its images already assigned below each cut."""
    if total <= 2 or not len(cuts):
        return np.zeros(len(keys), np.int64)
    smallest = np.diff(cuts, prepend=0, append=1).min()
    keys = np.where((weights > 1) & (weights > smallest * total), 0, keys)
    order = np.argsort(keys, kind="stable")
    middles = np.cumsum(weights[order]) - weights[order] / 2
    places, limit = np.zeros(len(keys), np.int64), 0.0
    for cut, done in zip(cuts, placed, strict=True):
        low, high = (np.floor(total * (cut + off) + 0.5) - done for off in (-TOLERANCE, TOLERANCE))
        limit = max(limit, float(np.clip(weights[keys < cut].sum(), low, high)))
        places[order] += middles > limit
    return places


def _report(split: list[str | None], labels: Sequence[Sequence[str] | None], members: list[list[int]]) -> Splits:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, row_labels in zip(split, labels, strict=True):
        if name:
            for label in dict.fromkeys(row_labels or (NO_LABEL,)):
                counts[label][name] += 1
    several = sorted((tuple(rows) for rows in members if len(rows) > 1), key=len, reverse=True)
    leaks = tuple(rows for rows in several if len({split[row] for row in rows}) > 1)
    used = {name for name in split if name}
    too_small = tuple(sorted(label for label, found in counts.items() if len(found) < len(used)))
    return Splits(tuple(split), dict(sorted(counts.items())), tuple(several), leaks, too_small)
