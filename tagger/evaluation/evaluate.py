"""Evaluate a checkpoint on labelled images, with the tagging pipeline."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger import checkpoint, storage
from tagger.checkpoint.info import ModelInfo
from tagger.data import manifest
from tagger.data.dataset import DATASET, BoolArray, truth_of
from tagger.data.labels.source import read_labelled
from tagger.data.splits import NAMES
from tagger.errors import SourceError, UsageError
from tagger.evaluation import metrics
from tagger.evaluation.metrics import Evaluation
from tagger.inference import engines
from tagger.inference.engines import Choice, Float32Array
from tagger.inference.model import Model
from tagger.inference.pipeline import Row, score_rows
from tagger.storage import StrPath


@dataclass(frozen=True)
class Evaluated:
    """The metrics of a checkpoint on one split."""

    model: ModelInfo
    split: str
    evaluation: Evaluation
    notes: tuple[str, ...]
    """Warnings, such as omitted images."""


def evaluate(model: StrPath, dataset: StrPath, split: str = "test", device: str = "auto") -> Evaluated:
    """Score the images of one split (`all`: every labelled image) and compare the tags with their labels.

    Images that the checkpoint was trained on keep the split they had then, whatever their split in the dataset. Raises
    UsageError for an unknown split or labels that the checkpoint does not have, SourceError if no image is left.
    """
    if split not in (*NAMES, "all"):
        raise UsageError(f"--split {split}: expected one of {', '.join(NAMES)}, all")
    model, dataset = os.fspath(model), os.fspath(dataset)
    info = checkpoint.describe(model)
    known = splits_of(model)
    table = with_splits(read_labelled(dataset).table, known)
    table = table.filter(pc.is_valid(table["labels"]))
    if not len(table):
        raise SourceError(f"{dataset}: no image has a label; add labels with `tagger ingest SOURCE --labels FILE`")
    table, notes = _known_labels(table, info, dataset)
    table = table.filter(pc.fill_null(pc.equal(table["split"], split), False)) if split != "all" else table
    if not len(table):
        raise SourceError(f"{dataset}: no labelled image is in the {split} split; choose another --split, or `all`")
    if seen := sum(known.get(uri) in ("train", "val") for uri in table["uri"].to_pylist()):
        notes.append(f"{seen:,} of {len(table):,} images were used in training, so the numbers are optimistic")
    scores, have = scores_of(info, manifest.locations(table), device)
    if failed := int((~have).sum()):
        notes.append(f"{failed:,} images cannot be read or decoded")
    if not have.any():
        raise SourceError(f"{dataset}: none of {len(table):,} images can be decoded")
    truth = truth_of(table, info.label_names)[have]
    thresholds = list(info.thresholds) if info.thresholds else None
    found = metrics.evaluate(scores[have], truth, info.task, info.label_names, thresholds)
    return Evaluated(info, split, found, tuple(notes))


def splits_of(model: str) -> dict[str, str]:
    """Return uri -> split of the images that a checkpoint was trained on; {} if it does not record them."""
    trained_on = storage.join(storage.absolute(model), DATASET)
    if model.startswith(("timm/", "local-dir:")) or not storage.exists(trained_on):
        return {}
    known = manifest.read_source(trained_on).table
    return dict(zip(known["uri"].to_pylist(), known["split"].to_pylist(), strict=True))


def with_splits(table: pa.Table, known: dict[str, str]) -> pa.Table:
    """Restore the training split of images that the checkpoint was trained on, so that none is used for testing."""
    given = zip(table["uri"].to_pylist(), table["split"].to_pylist(), strict=True)
    column = pa.array([known.get(uri, split) for uri, split in given], pa.string())
    return table.set_column(table.column_names.index("split"), "split", column)


def _known_labels(table: pa.Table, info: ModelInfo, dataset: str) -> tuple[pa.Table, list[str]]:
    """Remove images with labels that the checkpoint does not have."""
    names = set(info.label_names)
    labels = table["labels"].to_pylist()
    unknown = sorted({label for row in labels for label in row} - names)
    if not unknown:
        return table, []
    known = [names.issuperset(row) for row in labels]
    if not any(known):
        raise UsageError(
            f"{dataset}: none of its labels ({', '.join(unknown[:5])}) is a label of {info.name} "
            f"({', '.join(info.label_names[:5])}); rename the folders, or the labels in the label file"
        )
    count = len(known) - sum(known)
    left_out = f"left out: {count:,} images, with labels that {info.name} does not have: {', '.join(unknown[:5])}"
    return table.filter(pa.array(known)), [left_out]


def scores_of(info: ModelInfo, uris: list[str], device: str = "auto") -> tuple[Float32Array, BoolArray]:
    """Score images through the tagging pipeline; return scores (N, K), and which images have them (N,)."""
    engine = engines.load(info, checkpoint.build, Choice(device))
    model = Model(info, engine, lambda scores, embeddings: {"scores": scores})
    entries: list[Row] = [{"uri": uri, "bytes": None} for uri in uris]
    rows = list(score_rows(entries, [model]))
    have = np.array([row["status"] == "ok" for row in rows], dtype=bool)
    nothing = np.zeros(len(info.label_names), dtype=np.float32)
    return np.stack([row.get("scores", nothing) for row in rows]), have
