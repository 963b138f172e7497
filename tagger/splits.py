"""Train, validation and test: decided by content, alike for every label, near-duplicates together.

Images that show the same picture form a unit. Within a stratum (the rarest label of the unit) units are ordered by a
hash of their content and a seed; the last 15% are test, the 15% before them validation. The order of two units never
changes, so added images only move those beside a boundary, and even a label with three images is in every split. A
plain threshold on the hash would move nothing at all, but leave rare labels to chance.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SPLITS = ("train", "val", "test")
SHARES = (0.70, 0.15, 0.15)
_SHOWN = 3


@dataclass(frozen=True)
class Assigned:
    """A split per image, and what there is to say about it."""

    splits: list[str | None]
    duplicates: tuple[tuple[int, ...], ...]
    """Rows of every group of near-duplicates."""
    leaks: tuple[tuple[int, ...], ...]
    """Groups that cross splits which were given; they stay as given."""
    rare: tuple[str, ...]
    """Labels with fewer than three pictures: all of them are in train."""

    def lines(self, names: Sequence[str]) -> list[str]:
        """Say what a user should know; `names` are the images' own."""
        lines = []
        if self.duplicates:
            copies = sum(len(group) - 1 for group in self.duplicates)
            shown = "; ".join(" = ".join(names[row] for row in group[:2]) for group in self.duplicates[:_SHOWN])
            lines.append(f"{copies:,} near-duplicates, kept in one split with their originals ({shown})")
        if self.leaks:
            shown = "; ".join(" = ".join(names[row] for row in group[:2]) for group in self.leaks[:_SHOWN])
            lines.append(
                f"{len(self.leaks):,} pictures are in several of the given splits, so its scores flatter ({shown})"
            )
        if self.rare:
            lines.append(
                f"{len(self.rare):,} labels have fewer than 3 pictures, all in train: {', '.join(self.rare[:10])}"
            )
        return lines


def assign(
    image_ids: Sequence[str],
    labels: Sequence[tuple[str, ...] | None],
    groups: npt.NDArray[np.int64],
    given: Sequence[str | None],
    shares: tuple[float, float, float] = SHARES,
    seed: int = 0,
) -> Assigned:
    """Return a split for every labelled image; unlabelled ones (labels None) get none.

    `groups` (N,) has the same number for near-duplicates. Splits that are given are kept. Where some images have one
    and others not, the others follow their near-duplicates or are assigned as usual. Where every image has one and a
    split is missing altogether, its share is taken out of train.
    """
    splits: list[str | None] = list(given)
    labelled = [row for row, each in enumerate(labels) if each is not None]
    _follow_duplicates(splits, groups, labelled)
    missing = [row for row in labelled if splits[row] is None]
    present = {splits[row] for row in labelled} - {None}
    strata = _strata(labels, labelled)
    rare: set[str] = set()
    if missing:
        rare = _fill(splits, missing, image_ids, groups, strata, shares, seed)
    elif present and len(present) < len(SPLITS):
        val, test = (0.0 if name in present else share for name, share in zip(SPLITS[1:], shares[1:], strict=True))
        pool = [row for row in labelled if splits[row] == "train"]
        for row in pool:
            splits[row] = None
        _fill(splits, pool, image_ids, groups, strata, (1 - val - test, val, test), seed)
    members = _members(groups, labelled)
    leaks = tuple(group for group in members if len({splits[row] for row in group}) > 1)
    return Assigned(splits, tuple(members), leaks, tuple(sorted(rare)))


def _follow_duplicates(splits: list[str | None], groups: npt.NDArray[np.int64], rows: Sequence[int]) -> None:
    """Give images without a split that of a near-duplicate which has one."""
    known = {int(groups[row]): splits[row] for row in rows if splits[row] is not None}
    for row in rows:
        if splits[row] is None:
            splits[row] = known.get(int(groups[row]))


def _strata(labels: Sequence[tuple[str, ...] | None], rows: Sequence[int]) -> dict[int, str]:
    """Return for every image its rarest label; images known to have none are a stratum of their own."""
    counts = Counter(label for row in rows for label in labels[row] or ())
    return {row: min(labels[row] or ("",), key=lambda label: (counts[label], label)) for row in rows}


def _fill(
    splits: list[str | None],
    rows: Sequence[int],
    image_ids: Sequence[str],
    groups: npt.NDArray[np.int64],
    strata: dict[int, str],
    shares: tuple[float, float, float],
    seed: int,
) -> set[str]:
    """Assign these rows, whole groups at a time; return the strata that are too small to be in every split."""
    units: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        units[int(groups[row])].append(row)
    by_stratum: dict[str, list[list[int]]] = defaultdict(list)
    for unit in units.values():
        by_stratum[min(strata[row] for row in unit)].append(unit)
    rare = set()
    for stratum, members in by_stratum.items():
        ordered = sorted(members, key=lambda unit: _place(min(image_ids[row] for row in unit), seed))
        counts = [_count(len(ordered), share) for share in shares[1:]]
        if len(ordered) < 3:
            counts = [0, 0]
            rare.add(stratum or "(no label)")
        train = len(ordered) - sum(counts)
        names = ["train"] * train + ["val"] * counts[0] + ["test"] * counts[1]
        for unit, name in zip(ordered, names, strict=True):
            for row in unit:
                splits[row] = name
    return rare


def _count(units: int, share: float) -> int:
    """Return how many units a share is: at least one of three or more, unless nothing is asked for."""
    return max(1, round(units * share)) if share else 0


def _place(image_id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {image_id}".encode()).hexdigest()


def _members(groups: npt.NDArray[np.int64], rows: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the rows of every group of two or more."""
    found: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        found[int(groups[row])].append(row)
    return [tuple(group) for group in found.values() if len(group) > 1]
