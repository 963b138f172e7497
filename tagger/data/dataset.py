"""Labelled images with their splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tagger import storage
from tagger.checkpoint.info import ModelInfo, fingerprint
from tagger.data import duplicates, manifest, splits
from tagger.data import scan as scans
from tagger.data.labels import source
from tagger.data.labels.joining import TWINS, class_counts, twins
from tagger.data.scan import Arrays, OnProgress, Scan
from tagger.errors import SourceError, UsageError

DATASET = "dataset.parquet"
"""File in a checkpoint folder with its training dataset, so that `tagger evaluate` uses the same test split."""

BoolArray = npt.NDArray[np.bool_]


class SeveralLabels(UsageError):
    """A dataset with several labels per image where one is expected."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images; every array has a row per image."""

    table: pa.Table
    """Rows of the manifest."""
    label_names: tuple[str, ...]
    truth: npt.NDArray[np.float32]
    """(N, K): 1 where the image has the label; a row of zeros is known to have none."""
    notes: tuple[str, ...] = ()
    """Warnings, such as omitted images."""
    image_ids: tuple[str, ...] = ()
    """SHA-256 of every file, after a scan."""

    def __len__(self) -> int:
        return len(self.table)

    @property
    def uris(self) -> list[str]:
        """Return the uris of the images."""
        return [str(uri) for uri in self.table["uri"].to_pylist()]

    @property
    def locations(self) -> list[str]:
        """Return the paths or URLs to read the images from."""
        return manifest.locations(self.table)

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """Return each image's labels."""
        return [tuple(row) for row in self.table["labels"].to_pylist()]

    def split(self, name: str) -> BoolArray:
        """Return which images are in a split."""
        return np.array([split == name for split in self.table["split"].to_pylist()], dtype=bool)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return split -> label -> images."""
        where = {name: self.split(name) for name in splits.NAMES}
        return {
            name: {label: int(self.truth[rows, index].sum()) for index, label in enumerate(self.label_names)}
            for name, rows in where.items()
        }

    def filter(self, rows: BoolArray, why: str) -> Dataset:
        """Return the selected images, with a note about the others."""
        gone = len(self) - int(rows.sum())
        if not gone:
            return self
        shown = [uri for uri, chosen in zip(self.uris, rows, strict=True) if not chosen][:3]
        note = f"left out: {gone:,} of {len(self):,} images, {why} (such as {', '.join(shown)})"
        ids = tuple(compress(self.image_ids, rows))
        table = self.table.filter(pa.array(rows))
        return replace(self, table=table, truth=self.truth[rows], notes=(*self.notes, note), image_ids=ids)

    def with_splits(self, assigned: Sequence[str | None]) -> Dataset:
        """Return the same images in these splits."""
        place = self.table.column_names.index("split")
        return replace(self, table=self.table.set_column(place, "split", pa.array(list(assigned), pa.string())))

    def data_fingerprint(self) -> str:
        """Return a hash of which images have which labels in which split."""
        return fingerprint(self.table.select(["uri", "bytes", "etag", "labels", "split"]).to_pylist())


def read_dataset(dataset: str, multilabel: bool, corrections: str | None = None) -> Dataset:
    """Read a manifest with labels, or a folder whose labels are found as by `tagger ingest`.

    Labels in the file `corrections` replace those of their images. Raises SourceError for fewer than two labels,
    SeveralLabels if images have several but should have one.
    """
    found = source.read_labelled(dataset)
    earlier = found.notes.lines() if corrections else []
    if corrections:
        found = source.corrected(dataset, found, corrections)
    labels = found.table["labels"]
    labelled = found.table.filter(pc.is_valid(labels))
    if not len(found):
        raise SourceError(
            f"{dataset}: no images found; expected a manifest with labels, or a folder of labelled images"
        )
    if not len(labelled):
        raise SourceError(
            f"{dataset}: none of {len(found):,} images has a label; put them into two class folders or more, "
            "label them with `tagger review`, or add the labels of a file with --labels"
        )
    counts = class_counts(labelled["labels"])
    if len(counts) < 2 and not (multilabel and counts):
        only = f"the only label is {next(iter(counts))!r}" if counts else "no image has any label"
        without = counts and pc.any(pc.equal(pc.list_value_length(labels), 0)).as_py()
        hint = "; --multilabel trains it against the images without it" if without else ""
        raise SourceError(f"{dataset}: {only}; training needs two labels{hint}")
    if not multilabel and (several := pc.sum(pc.greater(pc.list_value_length(labelled["labels"]), 1)).as_py()):
        raise SeveralLabels(
            f"{dataset}: more than one label on {several:,} of {len(labelled):,} images; add --multilabel"
        )
    names = tuple(sorted(counts))
    alike = twins(names) if corrections or not found.label_source else []  # otherwise the notes have them
    notes = [*earlier, *found.notes.lines(), *(f"{TWINS}: {group}" for group in alike)]
    if corrections:
        notes.append(f"{found.matched_rows:,} of {len(labelled):,} labels are from {storage.redact(corrections)}")
    if unlabelled := len(found) - len(labelled):
        notes.append(f"not used: {unlabelled:,} of {len(found):,} images, without a label")
    return Dataset(labelled, names, truth_of(labelled, names), tuple(notes))


def truth_of(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return (N, K): 1 where a row's labels have the name. Every label must be among the names."""
    index = {name: place for place, name in enumerate(names)}
    truth = np.zeros((len(table), len(names)), dtype=np.float32)
    for row, labels in enumerate(table["labels"].to_pylist()):
        truth[row, [index[label] for label in labels]] = 1
    return truth


def scan(
    name: str,
    dataset: Dataset,
    backbone: ModelInfo | None = None,
    device: str = "auto",
    arrays: Arrays | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[Dataset, Scan]:
    """Scan the images of a dataset; return those that can be decoded, with their ids, and their scan.

    Raises SourceError, naming `name`, if none can be decoded.
    """
    found = scans.scan(dataset.table, backbone, device, arrays, on_progress)
    if not found.have.any():
        raise SourceError(f"{name}: none of {len(dataset):,} labelled images can be read and decoded")
    images = replace(dataset, image_ids=tuple(found.image_ids))
    return images.filter(found.have, "they cannot be read or decoded"), found.of_decoded()


def split(dataset: Dataset, scan: Scan, seed: int) -> tuple[Dataset, list[str]]:
    """Assign scanned images to splits that no near-duplicates cross; return them and the lines of a report.

    Given splits do not change; other images are assigned by content and seed.
    """
    groups = duplicates.near_duplicates(scan.fingerprints())
    given = dataset.table["split"].to_pylist()
    assigned = splits.assign(dataset.image_ids, dataset.labels, groups, given, seed=seed)
    return dataset.with_splits(assigned.split), assigned.lines(dataset.uris)
