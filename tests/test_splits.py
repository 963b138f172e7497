"""Splits depend on content alone, give every class its share, and keep copies together."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import Image, ImageOps

from tagger import images
from tagger.data import dataset, duplicates, splits
from tagger.errors import UsageError

Labels = list[tuple[str, ...] | None]


def ids(number: int, name: str = "") -> list[str]:
    return [hashlib.sha256(f"{name}{n}".encode()).hexdigest() for n in range(number)]


def alone(number: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """No two images are copies."""
    return np.arange(number)


def classes(number: int, of: int) -> Labels:
    return [(f"class {n % of}",) for n in range(number)]


def shares(split: Sequence[str | None]) -> list[float]:
    counts = Counter(split)
    return [counts[name] / len(split) for name in splits.NAMES]


def test_a_class_of_twenty_is_split_14_3_3() -> None:
    found = splits.assign(ids(1000), classes(1000, 50), alone(1000))
    assert all(counts == {"train": 14, "val": 3, "test": 3} for counts in found.counts.values())
    assert len(found.counts) == 50
    assert found.too_small == ()


@pytest.mark.parametrize("size", [40, 100, 300, 3000])
def test_every_class_gets_its_shares(size: int) -> None:
    found = splits.assign(ids(size * 3), classes(size * 3, 3), alone(size * 3))
    for counts in found.counts.values():
        assert counts["train"] / size == pytest.approx(0.70, abs=0.02 + 0.5 / size)
        assert counts["test"] / size == pytest.approx(0.15, abs=0.02 + 0.5 / size)
        assert counts["val"] / size == pytest.approx(0.15, abs=0.04 + 1 / size)


def test_order_does_not_matter_and_the_seed_does() -> None:
    names, labels, order = ids(500), classes(500, 7), np.random.default_rng(0).permutation(500)
    first = splits.assign(names, labels, alone(500))
    again = splits.assign([names[n] for n in order], [labels[n] for n in order], alone(500))
    assert again.split == tuple(first.split[n] for n in order)
    other = splits.assign(names, labels, alone(500), seed=1)
    assert 0.2 < np.mean([a != b for a, b in zip(first.split, other.split, strict=True)]) < 0.8


@pytest.mark.parametrize(("size", "allowed"), [(20, 0.06), (100, 0.02), (1000, 0.003)])
def test_a_tenth_more_files_moves_almost_none(size: int, allowed: float) -> None:
    moved = []
    for seed in range(10):
        number, more = size * 10, size * 11
        before = splits.assign(ids(number), classes(number, 10), alone(number), seed=seed)
        after = splits.assign(ids(more), classes(more, 10), alone(more), seed=seed)
        moved += [a != b for a, b in zip(before.split, after.split[:number], strict=True)]
    assert np.mean(moved) <= allowed


def test_rare_labels_of_multilabel_images_get_their_shares_too() -> None:
    rng = np.random.default_rng(0)
    odds = np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.02])
    labels: Labels = [tuple(f"label {n}" for n in np.flatnonzero(row < odds)) for row in rng.random((2000, 6))]
    found = splits.assign(ids(2000), labels, alone(2000))
    assert set(found.counts) == {*(f"label {n}" for n in range(6)), splits.NO_LABEL}
    for counts in found.counts.values():
        total = counts.total()
        assert counts["train"] / total == pytest.approx(0.70, abs=0.03 + 1 / total)
        assert counts["test"] / total == pytest.approx(0.15, abs=0.03 + 1 / total)


def test_classes_of_one_or_two_are_for_training_and_named() -> None:
    labels: Labels = [("common",)] * 40 + [("single",), ("pair",), ("pair",)]
    found = splits.assign(ids(43), labels, alone(43))
    assert found.split[40:] == ("train",) * 3
    assert found.too_small == ("pair", "single")
    assert "2 labels are missing in a split" in found.lines([str(n) for n in range(43)])[-1]


def test_unlabelled_rows_have_no_split_and_known_negatives_are_a_class() -> None:
    labels: Labels = [None] * 50 + [()] * 20 + [("cat",)] * 20
    found = splits.assign(ids(90), labels, alone(90))
    assert set(found.split[:50]) == {None}
    assert found.counts == {name: {"train": 14, "val": 3, "test": 3} for name in (splits.NO_LABEL, "cat")}


def test_groups_never_cross_and_leave_the_shares_alone() -> None:
    rng = np.random.default_rng(0)
    labels, groups = classes(2000, 4), rng.integers(0, 900, 2000)
    found = splits.assign(ids(2000), labels, groups)
    assert all(len({found.split[row] for row in np.flatnonzero(groups == group)}) == 1 for group in set(groups))
    assert shares(found.split) == pytest.approx([0.70, 0.15, 0.15], abs=0.04)
    assert found.leaks == ()
    assert sorted(map(len, found.groups), reverse=True) == [len(rows) for rows in found.groups]
    assert "groups of near-duplicates assigned to one split each" in found.lines([str(n) for n in range(2000)])[1]


def test_a_group_that_would_fill_a_split_is_for_training() -> None:
    groups = np.array([0] * 10 + list(range(10, 40)))
    for seed in range(20):
        found = splits.assign(ids(40), [("cat",)] * 40, groups, seed=seed)
        assert set(found.split[:10]) == {"train"}
        assert shares(found.split) == pytest.approx([0.70, 0.15, 0.15], abs=0.051)


@pytest.mark.parametrize(("there", "missing"), [("val", "test"), ("test", "val")])
def test_a_missing_split_is_carved_out_of_train(there: str, missing: str) -> None:
    given = ["train"] * 850 + [there] * 150
    found = splits.assign(ids(1000), classes(1000, 5), alone(1000), given)
    assert found.split[850:] == (there,) * 150
    counts = Counter(found.split[:850])
    assert counts[there] == 0
    assert counts[missing] == pytest.approx(150, abs=0.02 * 850 + 3)


def test_train_alone_gets_both_and_complete_splits_are_left_as_they_are() -> None:
    carved = splits.assign(ids(400), classes(400, 4), alone(400), ["train"] * 400)
    assert carved.split == splits.assign(ids(400), classes(400, 4), alone(400)).split
    given = (["train"] * 50 + ["val"] * 25 + ["test"] * 25) * 4
    assert splits.assign(ids(400), classes(400, 4), alone(400), given).split == tuple(given)
    partly = [*given[:300], *[None] * 100]
    assert splits.assign(ids(400), classes(400, 4), alone(400), partly).split[300:] == ("train",) * 100


def test_a_copy_across_given_splits_is_reported_and_not_moved() -> None:
    given = ["train", "test", None, "test", *["train"] * 20, *["val"] * 4]
    groups = np.array([0, 0, 2, 2, *range(4, 28)])
    found = splits.assign(ids(28), [("cat",)] * 28, groups, given)
    assert found.split == ("train", "test", "test", "test", *["train"] * 20, *["val"] * 4)
    assert found.leaks == ((0, 1),)
    assert "across the given splits, a leak (largest 2 images), for example a = b" in found.lines("abcd" + "x" * 24)[-1]


def test_an_unknown_split_is_refused_and_no_image_has_none() -> None:
    with pytest.raises(UsageError, match="valid"):
        splits.assign(ids(1), [("cat",)], alone(1), ["valid"])
    assert splits.assign([], [], alone(0)).split == ()


def test_copies_of_real_photographs_never_cross_a_split(real_photos: Path) -> None:
    fingerprints, labels = [], []
    for path in sorted(real_photos.glob("*.JPEG")):
        image, _ = images.decode(path.read_bytes())
        for changed in (image, ImageOps.mirror(image), image.resize((120, 90), Image.Resampling.LANCZOS)):
            sink = io.BytesIO()
            changed.save(sink, "JPEG", quality=60)
            image_id = hashlib.sha256(sink.getvalue()).hexdigest()
            thumbnail = duplicates.thumbnail(images.decode(sink.getvalue())[0])
            fingerprints.append(duplicates.Fingerprint(image_id, thumbnail))
            labels.append((path.stem[1:3],))
    groups = duplicates.near_duplicates(fingerprints)
    found = splits.assign([entry.image_id for entry in fingerprints], labels, groups)
    together = [len(set(found.split[row : row + 3])) == 1 for row in range(0, len(labels), 3)]
    assert np.mean(together) == 1
    assert shares(found.split) == pytest.approx([0.70, 0.15, 0.15], abs=0.03)


def test_a_name_with_a_line_break_stays_in_its_line_of_the_report(tmp_path: Path) -> None:
    for name, seed in (("cat/1\n.jpg", 1), ("cat/2.jpg", 1), ("dog/3.jpg", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo(seed).save(tmp_path / name)
    found = dataset.read_dataset(str(tmp_path), multilabel=False)
    _, report = dataset.split(*dataset.scan("photos", found), seed=0)
    assert any("assigned to one split each" in line and line.endswith("cat/2.jpg") for line in report)
