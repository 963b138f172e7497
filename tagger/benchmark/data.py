"""Images of a benchmark: CIFAR-10, or a user's own."""

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
"""One in so many training images of CIFAR-10 is held out for validation."""
ALL = {"training": 50_000, "test": 10_000}
"""Images of CIFAR-10."""
LOSSY = "the images are a JPEG copy, on which strong networks reach a few points less than on the original"
BUDGET_SIDE = 96
"""Input size of backbones within a budget, for images that are smaller."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class BenchmarkData:
    """Images with one label each, in splits."""

    name: str
    note: str
    """Caveat that stands beside every number."""
    images: UInt8Array
    """(N, H, W, 3), fitted to models on pixels."""
    dataset: Dataset
    scanned: TrainingData | None = None
    """Scan of a user's files; None for CIFAR-10, which is in memory."""
    _on_backbones: dict[str, TrainingData] = field(default_factory=dict)

    @cached_property
    def train(self) -> LabelledImages:
        """Return the training images, those held out for validation included."""
        return self._rows(~self.dataset.split("test"))

    @cached_property
    def learning(self) -> LabelledImages:
        """Return the training images without those held out."""
        return self._rows(self.dataset.split("train"))

    @cached_property
    def validation(self) -> LabelledImages:
        """Return the training images that are held out."""
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
        """Return the number of images, and which were left out, as text."""
        train, held_out, test = (len(part) for part in (self.train, self.validation, self.test))
        counts = f"{train:,} training images ({held_out:,} of them held out for validation), {test:,} test images"
        return "; ".join((f"{self.name}: {counts}", *self.dataset.notes))

    def for_backbone(self, config: TrainConfig, callbacks: Callbacks) -> TrainingData:
        """Return the same images with the features of a backbone, computed once."""
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
    """Read CIFAR-10 (`data` says where it is), or a manifest or folder of labelled images.

    Raises SourceError when a class is missing in a split.
    """
    found = _cifar10(data, config.image_size, callbacks.say) if dataset == CIFAR10 else _own(dataset, config, callbacks)
    names = found.dataset.label_names
    for split, part in (("training", found.learning), ("test", found.test)):
        if missing := sorted(set(range(len(names))) - set(part.labels.tolist())):
            listed = ", ".join(names[index] for index in missing[:5])
            raise SourceError(f"{dataset}: no {split} image of {listed}; add some, or leave the label out")
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
        raise UsageError(f"--image-size {side}: CIFAR-10 has images of {cifar10.SIDE} pixels; omit it")
    train, test = cifar10.read(data, say)
    place = pd.Series(train.labels).groupby(train.labels).cumcount()  # among the images of its class
    splits = [*np.where(place % HELD_OUT == HELD_OUT - 1, "val", "train").tolist(), *["test"] * len(test)]
    labels = [[cifar10.LABEL_NAMES[label]] for label in (*train.labels, *test.labels)]
    uris = [f"{CIFAR10}:{index:05d}" for index in range(len(labels))]
    table = schema.from_rows(
        [{"uri": uri, "labels": row, "split": split} for uri, row, split in zip(uris, labels, splits, strict=True)],
        "manifest",
    )
    return BenchmarkData(
        name="CIFAR-10",
        note="; ".join(filter(None, (_part(train, test), LOSSY if train.lossy or test.lossy else ""))),
        images=np.concatenate((train.images, test.images)),
        dataset=Dataset(table, cifar10.LABEL_NAMES, np.concatenate((train.truth, test.truth))),
    )


def _part(train: LabelledImages, test: LabelledImages) -> str:
    """Return a note where images of CIFAR-10 are missing."""
    counts = [(len(part), ALL[split], split) for split, part in (("training", train), ("test", test))]
    lacking = [f"{count:,} of {total:,} {split}" for count, total, split in counts if count != total]
    return f"only {' and '.join(lacking)} images, so published numbers do not compare" if lacking else ""


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
        raise SourceError(f"{dataset}: no image is in the test split; label more images")
    assert found.square is not None
    return BenchmarkData(found.name, "", found.square.arrays, found.dataset, found)
