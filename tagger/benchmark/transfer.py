"""The rungs that stand on a pretrained backbone: neighbours, probe and fine-tuning, as `tagger train` does them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger import checkpoint, schema, storage
from tagger.benchmark.config import LadderConfig
from tagger.benchmark.data import LadderData, Say
from tagger.checkpoint.info import ModelInfo
from tagger.errors import SourceError, TableError, UsageError
from tagger.evaluation.evaluate import scores_of
from tagger.inference.engines import Float32Array
from tagger.training import Reports, TrainConfig, train
from tagger.training.learning import UNFINISHED

_TITLES = {"knn-features": "k-NN, features of", "probe": "Linear probe", "finetune": "Fine-tuned"}
_METHODS = {"knn-features": "knn", "probe": "probe", "finetune": "finetune"}
_PER_MINUTE = {"knn-features": 10_000, "probe": 10_000, "finetune": 1_500}
"""Training images that two CPU cores see in a minute, of `_SIDE` pixels, test images aside."""
_EPOCHS = 10
"""Of fine-tuning at full budget."""
_LONG = 1000
"""Images from which on progress is said."""
_DATASET = "_dataset.parquet"
_SIDE = 96
"""Pixels within a budget, where the images hold no more than that."""


@dataclass(frozen=True)
class Transferred:
    """A checkpoint that `tagger train` wrote, and its scores (N, K) of the test images."""

    info: ModelInfo
    scores: Float32Array
    title: str
    curve: list[dict[str, Any]]
    """Of what is kept: only fine-tuning has one."""
    seconds: float
    """From listed images to trained weights, of killed calls too."""
    cut: str
    """What the budget cut; empty: trained in full."""
    note: str


def fit_transfer(
    name: str, data: LadderData, config: LadderConfig, seed: int, out: str, command: str, say: Say
) -> Transferred:
    """Train on the files of the ladder, within a budget on some of them; fine-tuning that was killed goes on.

    `command` is what the card says it was made by.
    """
    files = data.files()
    chosen, reports = options(name, data, config, seed), _reports(lambda line: say(f"{name} (seed {seed}): {line}"))
    kept = _some(files.table, _count(name, data, config))
    info = _train(kept, out, chosen, command, reports)
    scores, have = scores_of(info, files.test, config.device)
    if not have.all():
        raise SourceError(f"{files.test[have.argmin()]}: does not decode, and every model is judged on the same images")
    trained, architecture = _trained(out), checkpoint.describe(config.backbone).architecture
    title, curve = f"{_TITLES[name]} {architecture}", trained["curve"]
    if name == "finetune" and trained["method"] == "probe":
        title, curve = f"{_TITLES['probe']} {architecture} (fine-tuning was no better)", []
    order = [info.label_names.index(label) for label in data.train.label_names]
    cut, note = _cut(name, kept, files.table, chosen), _note(chosen, trained)
    return Transferred(info, scores[:, order], title, curve, trained["seconds"], cut, note)


def identity(name: str, data: LadderData, config: LadderConfig, seed: int) -> list[Any]:
    """Return everything but data and seed that decides which checkpoint comes out of `fit_transfer`."""
    return [asdict(options(name, data, config, seed)), config.minutes(name)]


def options(name: str, data: LadderData, config: LadderConfig, seed: int) -> TrainConfig:
    """Return how a rung is trained."""
    within = config.minutes(name) is not None
    small = within and data.side is not None and data.side < _SIDE
    return TrainConfig(
        backbone=config.backbone,
        method=_METHODS[name],
        epochs=2 if within else _EPOCHS,
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


def _train(table: pa.Table, out: str, chosen: TrainConfig, command: str, reports: Reports) -> ModelInfo:
    """Train, going on with what was killed where that was begun in the same way."""
    folder = storage.absolute(out)
    dataset = storage.join(folder, _DATASET)

    def run(resume: bool) -> ModelInfo:
        storage.write_atomic(dataset, schema.serialise(table, "manifest"))
        info = train(dataset, out, chosen, resume, reports, beside=[_DATASET], made_by=command, keep_state=True)
        storage.remove(dataset)
        return info

    if not storage.exists(storage.join(folder, UNFINISHED)):
        return run(resume=False)
    reports.say("goes on after the last epoch that was kept")
    try:
        return run(resume=True)
    except (UsageError, TableError) as error:
        reports.say(f"begins again ({error})")
        storage.remove_folder(folder)
        return run(resume=False)


def _trained(out: str) -> dict[str, Any]:
    """Return what a checkpoint folder says of its training."""
    bundle = json.loads(storage.read_bytes(storage.join(storage.absolute(out), checkpoint.BUNDLE)))
    return dict(bundle["training"])


def _count(name: str, data: LadderData, config: LadderConfig) -> int | None:
    """Return how many training images the budget allows, held-out ones among them; None: all."""
    minutes = config.minutes(name)
    if minutes is None:
        return None
    side = options(name, data, config, 0).image_size or checkpoint.describe(config.backbone).preprocessing.size[0]
    return int(minutes * _PER_MINUTE[name] * (_SIDE / side) ** 2)


def _some(table: pa.Table, count: int | None) -> pa.Table:
    """Return about so many training images, evenly from each class and split, and all test images."""
    splits = np.array(table["split"].to_pylist(), dtype=object)
    learning = np.isin(splits, ("train", "val"))
    if count is None or count >= learning.sum():
        return table
    labels = np.array([row[0] if row else "" for row in table["labels"].to_pylist()])
    chosen = ~learning
    for label, split in product(np.unique(labels), ("train", "val")):
        rows = np.flatnonzero((splits == split) & (labels == label))
        wanted = -(-len(rows) * count // int(learning.sum()))
        chosen[rows[np.arange(wanted) * len(rows) // max(wanted, 1)]] = True
    return table.filter(pa.array(chosen))


def _cut(name: str, kept: pa.Table, everything: pa.Table, chosen: TrainConfig) -> str:
    """Return what the budget left out."""
    count, all_images = (pc.sum(pc.equal(table["split"], "train")).as_py() for table in (kept, everything))
    parts = [f"{chosen.epochs} of {_EPOCHS} epochs"] if name == "finetune" and chosen.epochs < _EPOCHS else []
    parts += [f"{count:,} of {all_images:,} training images"] if count < all_images else []
    return ", ".join(parts)


def _note(chosen: TrainConfig, trained: dict[str, Any]) -> str:
    parts = [f"at {chosen.image_size} pixels"] if chosen.image_size else []
    parts += ["features known from before"] if not trained["images_decoded"] else []
    return ", ".join(parts)
