"""Images of a benchmark: CIFAR-10, or the user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from tagger import schema
from tagger.benchmark.baselines import TRANSFER
from tagger.benchmark.config import BenchmarkConfig
from tagger.checkpoint.info import fingerprint
from tagger.data import cifar10
from tagger.data.arrays import LabelledImages
from tagger.data.dataset import BoolArray, Dataset, SeveralLabels
from tagger.errors import SourceError, UsageError
from tagger.images import UInt8Array
from tagger.training import data as training_data
from tagger.training.config import TrainConfig
from tagger.training.data import Callbacks, TrainingData

CIFAR10 = "cifar10"
HELD_OUT = 10
"""One in this many training images of CIFAR-10 is held out for validation."""
ALL = {"training": 50_000, "test": 10_000}
"""Number of images in each part of CIFAR-10."""
LOSSY = "the images are a JPEG copy, on which strong networks are a few points less accurate than on the original"
BUDGET_SIDE = 96
"""Input size of backbones in a benchmark with a budget, if the images are smaller."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class BenchmarkData:
    """Images with one label each, divided into splits."""

    name: str
    note: str
    """Caveat shown with the results."""
    images: UInt8Array
    """(N, H, W, 3), at the input size of models on pixels."""
    dataset: Dataset
    scanned: TrainingData | None = None
    """The user's files as scanned for training; None for CIFAR-10, which is in memory."""
    _on_backbones: dict[str, TrainingData] = field(default_factory=dict)

    @cached_property
    def train(self) -> LabelledImages:
        """Return the training images, including those held out for validation."""
        return self._rows(~self.dataset.split("test"))

    @cached_property
    def learning(self) -> LabelledImages:
        """Return the training images, excluding those held out for validation."""
        return self._rows(self.dataset.split("train"))

    @cached_property
    def validation(self) -> LabelledImages:
        """Return the training images held out for validation."""
        return self._rows(self.dataset.split("val"))

    @cached_property
    def test(self) -> LabelledImages:
        """Return the test images."""
        return self._rows(self.dataset.split("test"))

    @cached_property
    def data_id(self) -> str:
        """Return a hash of all pixels, labels and names."""
        held_out, names = self.dataset.split("val")[~self.dataset.split("test")], self.dataset.label_names
        return fingerprint([self.train.fingerprint(names), self.test.fingerprint(names), held_out.tolist()])

    def describe(self) -> str:
        """Return the number of images, and which were excluded, as text."""
        train, held_out, test = (len(part) for part in (self.train, self.validation, self.test))
        counts = f"{train:,} training images ({held_out:,} of them held out for validation), {test:,} test images"
        return "; ".join((f"{self.name}: {counts}", *self.dataset.notes))

    def for_backbone(self, config: TrainConfig, callbacks: Callbacks) -> TrainingData:
        """Return the same images as training data for a backbone; its features are computed once."""
        if self.scanned is not None:
            return self.scanned
        key = f"{config.backbone} {config.image_size}"
        if key not in self._on_backbones:
            made = training_data.from_arrays(self.name, self.dataset, self.images, config, callbacks)
            self._on_backbones[key] = made
        return self._on_backbones[key]

    def _rows(self, rows: BoolArray) -> LabelledImages:
        return LabelledImages(self.images[rows], self.dataset.truth[rows])


def read(dataset: str, data: str | None, config: BenchmarkConfig, callbacks: Callbacks) -> BenchmarkData:
    """Read CIFAR-10 (`data` is its location), or a manifest or folder of labelled images.

    Raises SourceError if a split has no image of a class.
    """
    found = _cifar10(data, config.image_size, callbacks.say) if dataset == CIFAR10 else _own(dataset, config, callbacks)
    names = found.dataset.label_names
    for split, part in (("training", found.learning), ("test", found.test)):
        if missing := sorted(set(range(len(names))) - set(part.labels.tolist())):
            listed = ", ".join(names[index] for index in missing[:5])
            raise SourceError(f"{dataset}: no {split} image of {listed}; add images, or remove the label")
    return found


def options_for(model: str, data: BenchmarkData, config: BenchmarkConfig, seed: int) -> TrainConfig:
    """Return the training options of a model on a backbone."""
    small = config.seconds is not None and data.scanned is None and data.images.shape[1] < BUDGET_SIDE
    return TrainConfig(
        backbone=config.backbone,
        method=TRANSFER[model],  # type: ignore[arg-type]
        epochs=10 if model == "finetune" else None,
        image_size=BUDGET_SIDE if small else None,
        seed=seed,
        device=config.device,
    )


def _cifar10(data: str | None, side: int, say: Say) -> BenchmarkData:
    if side != cifar10.SIDE:
        raise UsageError(f"--image-size {side}: CIFAR-10's images have {cifar10.SIDE} pixels; omit the option")
    train, test = cifar10.read(data, say)
    rank = pd.Series(train.labels).groupby(train.labels).cumcount()  # position among the images of the same class
    splits = [*np.where(rank % HELD_OUT == HELD_OUT - 1, "val", "train").tolist(), *["test"] * len(test)]
    labels = [[cifar10.LABEL_NAMES[label]] for label in (*train.labels, *test.labels)]
    uris = [f"{CIFAR10}:{index:05d}" for index in range(len(labels))]
    table = schema.from_rows(
        [{"uri": uri, "labels": row, "split": split} for uri, row, split in zip(uris, labels, splits, strict=True)],
        "manifest",
    )
    return BenchmarkData(
        name="CIFAR-10",
        note="; ".join(filter(None, (_incomplete(train, test), LOSSY if train.lossy or test.lossy else ""))),
        images=np.concatenate((train.images, test.images)),
        dataset=Dataset(table, cifar10.LABEL_NAMES, np.concatenate((train.truth, test.truth))),
    )


def _incomplete(train: LabelledImages, test: LabelledImages) -> str:
    """Return a note if images of CIFAR-10 are missing; empty otherwise."""
    counts = [(len(part), ALL[split], split) for split, part in (("training", train), ("test", test))]
    lacking = [f"{count:,} of {total:,} {split}" for count, total, split in counts if count != total]
    return f"only {' and '.join(lacking)} images, so not comparable with published numbers" if lacking else ""


def _own(dataset: str, config: BenchmarkConfig, callbacks: Callbacks) -> BenchmarkData:
    side = config.image_size
    options = TrainConfig(image_size=side, method="scratch", device=config.device)
    if set(config.models) & set(TRANSFER):
        method: Literal["finetune", "probe"] = "finetune" if "finetune" in config.models else "probe"
        options = TrainConfig(backbone=config.backbone, method=method, device=config.device)
    try:
        found = training_data.read(dataset, options, callbacks, benchmark_side=side)
    except SeveralLabels as error:
        raise UsageError(f"{error.args[0].partition(';')[0]}; a benchmark takes one label per image") from error
    if not found.rows("test").any():
        raise SourceError(f"{dataset}: no image is in the test split; add labelled images")
    assert found.square is not None
    return BenchmarkData(found.name, "", found.square.arrays, found.dataset, found)
