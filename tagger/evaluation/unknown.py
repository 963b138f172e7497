"""Detection of unknown images: the stored features of training images, and the distance cut."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tagger import checkpoint
from tagger.checkpoint.info import ModelInfo
from tagger.checkpoint.unknown import Statistics, unit
from tagger.data import manifest
from tagger.data.labels.source import read_labelled
from tagger.data.splits import NAMES
from tagger.errors import SourceError
from tagger.evaluation import evaluate
from tagger.inference import engines
from tagger.inference.engines import Choice, Float32Array
from tagger.inference.model import Model
from tagger.inference.pipeline import score_rows
from tagger.storage import StrPath

KEPT = 0.95
"""Share of held-out images that are not unknown."""
EXAMPLES, HELD_OUT = 1000, 1000
"""Maximum number of stored training images, and of held-out images compared with them."""
NEIGHBOUR = 5
LEAST = 20
"""Minimum number of held-out images for a cut, since one in twenty may be unknown."""

Rows = npt.NDArray[np.int64]
Embed = Callable[[Rows], Float32Array]
"""Rows of images -> their embeddings (N, D)."""


def fit(splits: Mapping[str, Rows], embed: Embed, seed: int = 0) -> Statistics | None:
    """Return the statistics of training images with the cut that keeps 95% of held-out images.

    `splits` has the rows of train, val and test. The cut is chosen on val, or on test if there is no val. Returns None
    if there are too few images.
    """
    held_out = "val" if len(splits["val"]) else "test"
    if len(splits["train"]) < NEIGHBOUR or len(splits[held_out]) < LEAST:
        return None
    drawn = {name: _drawn(rows, EXAMPLES if name == "train" else HELD_OUT, seed) for name, rows in splits.items()}
    found = of_features(*(embed(drawn[name]) for name in ("train", held_out)))
    facts = {**found.facts, "split": held_out}
    if held_out == "val" and len(drawn["test"]):
        facts["test"] = float(found.unknown(found.distances(embed(drawn["test"]))).mean())
    return replace(found, facts=facts)


def of_features(examples: Float32Array, held_out: Float32Array) -> Statistics:
    """Return the statistics of the features (N, D) of training images, with the cut that keeps 95% of held-out ones."""
    stored = unit(examples).astype(np.float16).astype(np.float32)
    facts = {"split": "val", "images": len(held_out)}
    found = Statistics(stored, min(NEIGHBOUR, len(stored)), cut=np.inf, facts=facts)
    return replace(found, cut=float(np.quantile(found.distances(held_out), KEPT, method="higher")))


def _drawn(rows: Rows, most: int, seed: int) -> Rows:
    """Return a random sample of rows, in order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def calibrate(model: StrPath, dataset: StrPath, device: str = "auto") -> ModelInfo:
    """Add statistics for unknown images to a checkpoint, or replace them; return its new description.

    `dataset` has the images that it was trained on, with splits. Only model_id changes, not weights and scores. Raises
    ModelError for anything but a checkpoint folder, SourceError without splits, or with too few images.
    """
    name, dataset = os.fspath(model), os.fspath(dataset)
    info = checkpoint.describe(name)
    table = evaluate.with_splits(read_labelled(dataset).table, evaluate.splits_of(name))
    engine = engines.load(info, checkpoint.build, Choice(device, precision="fp32"))
    loaded = Model(info, engine, lambda scores, embeddings: {"embedding": embeddings})
    given = np.array(table["split"].to_pylist())
    splits = {name: np.flatnonzero(given == name) for name in NAMES}
    uris = np.array(manifest.locations(table))
    statistics = fit(splits, lambda rows: _embeddings(loaded, uris[rows].tolist()))
    if statistics is None:
        counts = ", ".join(f"{len(rows):,} {name}" for name, rows in splits.items())
        raise SourceError(
            f"{dataset}: {counts} images; expected at least {NEIGHBOUR} in train and {LEAST} in val or test; pass the "
            "manifest or folder that the checkpoint was trained on, with its splits"
        )
    return checkpoint.set_statistics(name, statistics)


def _embeddings(model: Model, uris: list[str]) -> Float32Array:
    """Return the embeddings of the images that can be decoded."""
    rows = score_rows([{"uri": uri, "bytes": None} for uri in uris], [model])
    return np.stack([row["embedding"] for row in rows if row["status"] == "ok"])
