"""The rungs that stand on a pretrained backbone: neighbours, probe and fine-tuning, as `tagger train` does them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger import checkpoint, ingesting, schema, storage
from tagger.engines import Float32Array
from tagger.errors import TableError, UsageError
from tagger.ladder.config import LadderConfig
from tagger.ladder.data import Files, LadderData, Say
from tagger.model_info import ModelInfo
from tagger.training import Reports, TrainConfig, train
from tagger.training.examples import BoolArray
from tagger.training.judging import scores_of
from tagger.training.learning import UNFINISHED

_TITLES = {"knn-features": "k-NN, features of", "probe": "Linear probe", "finetune": "Fine-tuned"}
_METHODS = {"knn-features": "knn", "probe": "probe", "finetune": "finetune"}
_PER_MINUTE = {"knn-features": 10_000, "probe": 10_000, "finetune": 1_500}
"""Training images that two CPU cores see in a minute, of 96 pixels, test images aside."""
_LONG = 1000
"""Images from which on progress is said."""
_DATASET = "_dataset.parquet"
_SIDE = 96
"""Pixels within a budget, where the images are smaller than the backbone wants them."""


@dataclass(frozen=True)
class Transferred:
    """A checkpoint that `tagger train` wrote, and its scores (N, K) of the test images."""

    info: ModelInfo
    scores: Float32Array
    title: str
    curve: list[dict[str, Any]]
    """Of what is kept: only fine-tuning has one."""
    note: str


def fit_transfer(
    name: str, data: LadderData, config: LadderConfig, seed: int, out: str, command: str, say: Say
) -> Transferred:
    """Train on the files of the ladder, within a budget on some of them; fine-tuning that was killed goes on.

    `command` is what the card says it was made by.
    """
    files = data.files()
    minutes = config.minutes(name)
    count = None if minutes is None else int(_PER_MINUTE[name] * minutes)
    dataset, note = _dataset(files, data, count, storage.join(out, _DATASET))
    chosen = options(name, data, config, seed)
    if chosen.image_size:
        note = f"{note}, at {chosen.image_size} pixels".removeprefix(", ")
    info = _train(dataset, out, chosen, command, _reports(lambda line: say(f"{name} (seed {seed}): {line}")))
    storage.remove(storage.join(storage.absolute(out), _DATASET))
    trained, architecture = _trained(out), checkpoint.describe(config.backbone).architecture
    title, curve = f"{_TITLES[name]} {architecture}", trained["curve"]
    if name == "finetune" and trained["method"] == "probe":
        title, curve = f"{_TITLES['probe']} {architecture} (fine-tuning was no better)", []
    scores, _ = scores_of(info, files.test, config.device)
    order = [info.label_names.index(label) for label in data.train.label_names]
    return Transferred(info, scores[:, order], title, curve, note)


def options(name: str, data: LadderData, config: LadderConfig, seed: int) -> TrainConfig:
    """Return how a rung is trained."""
    within = config.minutes(name) is not None
    small = within and data.train.images.shape[1] < _SIDE
    return TrainConfig(
        backbone=config.backbone,
        method=_METHODS[name],
        epochs=2 if within else 10,
        warmup_epochs=0.2 if within else 1.0,
        image_size=_SIDE if small else None,
        seed=seed,
        device=config.device,
    )


def _reports(say: Say) -> Reports:
    """Say how training goes, a tenth of a long step at a time."""
    tenths: dict[str, int] = {}

    def on_progress(what: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if total >= _LONG and tenth > tenths.get(what, 0):
            tenths[what] = tenth
            say(f"{what}: {done:,} of {total:,}")

    def on_epoch(entry: dict[str, Any]) -> None:
        say(
            f"epoch {entry['epoch']}/{entry['epochs']}: loss {entry['train_loss']:.3f}, held out "
            f"{entry['val_score']:.1%}, {entry['seconds']:.0f} s, at most {entry['left']:.0f} s left"
        )

    return Reports(say, on_progress, on_epoch)


def _train(dataset: str, out: str, chosen: TrainConfig, command: str, reports: Reports) -> ModelInfo:
    """Train, going on with what was killed where that was begun in the same way."""

    def run(resume: bool) -> ModelInfo:
        return train(dataset, out, chosen, resume, reports, beside=[_DATASET], made_by=command)

    if storage.exists(storage.join(storage.absolute(out), UNFINISHED)):
        reports.say("goes on after the last epoch that was kept")
        try:
            return run(resume=True)
        except (UsageError, TableError) as error:
            reports.say(f"begins again ({error})")
            storage.remove(storage.join(storage.absolute(out), UNFINISHED))
    return run(resume=False)


def _trained(out: str) -> dict[str, Any]:
    """Return what a checkpoint folder says of its training."""
    bundle = json.loads(storage.read_bytes(storage.join(storage.absolute(out), checkpoint.BUNDLE)))
    return dict(bundle["training"])


def _dataset(files: Files, data: LadderData, count: int | None, out: str) -> tuple[str, str]:
    """Return what to train on, and what was left out."""
    everything = len(data.train.labels)
    part = count is not None and count < everything
    if not part and files.table is None:
        return files.dataset, ""
    table = ingesting.read_labelled(files.dataset).table if files.table is None else files.table
    kept = _some(table, count) if count is not None and part else table
    storage.write_atomic(storage.absolute(out), schema.serialise(kept, "manifest"))
    return out, f"{int(_learning(kept).sum()):,} of {everything:,} training images" if part else ""


def _some(table: pa.Table, count: int) -> pa.Table:
    """Return about so many training images, evenly from each class, and all the others."""
    labels = np.array([row[0] if row else "" for row in table["labels"].to_pylist()])
    learning = _learning(table)
    chosen = ~learning
    for label in np.unique(labels):
        rows = np.flatnonzero(learning & (labels == label))
        wanted = -(-len(rows) * count // int(learning.sum()))
        chosen[rows[np.arange(wanted) * len(rows) // wanted]] = True
    return table.filter(pa.array(chosen))


def _learning(table: pa.Table) -> BoolArray:
    """Return which images are not for testing."""
    found: BoolArray = pc.is_in(table["split"], pa.array(["train", "val"])).to_numpy(zero_copy_only=False)
    return found
