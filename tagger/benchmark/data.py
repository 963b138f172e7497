"""Images of a benchmark: CIFAR-10, or a user's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tagger import schema
from tagger.benchmark.baselines import TRANSFER
from tagger.benchmark.config import BenchmarkConfig
from tagger.checkpoint.info import fingerprint
from tagger.data import cifar10
from tagger.data.arrays import LabelledImages
from tagger.data.dataset import Dataset, SeveralLabels, truth_of
from tagger.errors import SourceError, UsageError
from tagger.images import Preprocessing
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
    """Training and test images; some training images are for validation."""

    name: str
    note: str
    """Caveat that stands beside every number."""
    train: LabelledImages
    held_out: npt.NDArray[np.bool_]
    """(N,) which of the training images are for validation."""
    test: LabelledImages
    dataset: Dataset
    """The same images, training images first for CIFAR-10, in splits."""
    scanned: TrainingData | None = None
    """Scan of a user's files; None for CIFAR-10, which is in memory."""
    left_out: tuple[str, ...] = ()
    """Images that were left out, and why."""
    _made: dict[str, TrainingData] = field(default_factory=dict)

    @cached_property
    def learning(self) -> LabelledImages:
        """Return the training images without those held out."""
        return _rows(self.train, ~self.held_out)

    @cached_property
    def validation(self) -> LabelledImages:
        """Return the training images that are held out."""
        return _rows(self.train, self.held_out)

    @cached_property
    def data_id(self) -> str:
        """Return a hash of all pixels, labels and names."""
        return fingerprint([self.train.fingerprint(), self.test.fingerprint(), self.held_out.tolist()])

    def describe(self) -> str:
        """Return the number of images as text."""
        counts = f"{len(self.train.labels):,} training images ({int(self.held_out.sum()):,} of them held out for "
        found = f"{self.name}: {counts}validation), {len(self.test.labels):,} test images"
        return "; ".join((found, *self.left_out))

    def for_backbone(self, config: TrainConfig, callbacks: Callbacks) -> TrainingData:
        """Return the same images with the features of a backbone, computed once."""
        if self.scanned is not None:
            return self.scanned
        key = f"{config.backbone} {config.image_size}"
        if key not in self._made:
            arrays = np.concatenate((self.train.images, self.test.images))
            self._made[key] = training_data.from_arrays(self.name, self.dataset, arrays, config, callbacks)
        return self._made[key]


def read(dataset: str, data: str | None, config: BenchmarkConfig, callbacks: Callbacks) -> BenchmarkData:
    """Read CIFAR-10 (`data` says where it is), or a manifest or folder of labelled images.

    Raises SourceError when a class is missing in a split.
    """
    found = _cifar10(data, config.image_size, callbacks.say) if dataset == CIFAR10 else _own(dataset, config, callbacks)
    names = found.train.label_names
    for split, part in (("training", found.learning), ("test", found.test)):
        if missing := sorted(set(range(len(names))) - set(part.labels.tolist())):
            listed = ", ".join(names[index] for index in missing[:5])
            raise SourceError(f"{dataset}: no {split} image of {listed}; add some, or leave the label out")
    return found


def options_for(model: str, data: BenchmarkData, config: BenchmarkConfig, seed: int) -> TrainConfig:
    """Return the training options of a model on a backbone."""
    small = config.seconds is not None and data.scanned is None and data.train.images.shape[1] < BUDGET_SIDE
    return TrainConfig(
        backbone=config.backbone,
        method=TRANSFER[model],  # type: ignore[arg-type]
        epochs=10,
        image_size=BUDGET_SIDE if small else None,
        seed=seed,
        device=config.device,
    )


def _rows(data: LabelledImages, rows: npt.NDArray[Any]) -> LabelledImages:
    return replace(data, images=data.images[rows], labels=data.labels[rows])


def _cifar10(data: str | None, side: int, say: Say) -> BenchmarkData:
    if side != cifar10.SIDE:
        raise UsageError(f"--image-size {side}: CIFAR-10 has images of {cifar10.SIDE} pixels; omit it")
    train, test = cifar10.read(data, say)
    place = np.zeros(len(train.labels), dtype=int)  # of an image among those of its class
    for label in range(len(train.label_names)):
        rows = train.labels == label
        place[rows] = np.arange(rows.sum())
    held_out = place % HELD_OUT == HELD_OUT - 1
    return BenchmarkData(
        name="CIFAR-10",
        note="; ".join(filter(None, (_part(train, test), LOSSY if train.lossy or test.lossy else ""))),
        train=train,
        held_out=held_out,
        test=test,
        dataset=_as_dataset(train, held_out, test),
    )


def _as_dataset(train: LabelledImages, held_out: npt.NDArray[np.bool_], test: LabelledImages) -> Dataset:
    """Return arrays as the rows of a manifest."""
    labels = np.concatenate((train.labels, test.labels)).tolist()
    rows = [
        {
            "uri": f"{CIFAR10}:{index:05d}",
            "labels": [train.label_names[label]],
            "split": "test" if index >= len(held_out) else "val" if held_out[index] else "train",
        }
        for index, label in enumerate(labels)
    ]
    table = pa.Table.from_pylist(rows, schema=schema.MANIFEST)
    return Dataset(table, train.label_names, truth_of(table, train.label_names))


def _part(train: LabelledImages, test: LabelledImages) -> str:
    """Return a note where images of CIFAR-10 are missing."""
    counts = [(len(part.labels), ALL[split], split) for split, part in (("training", train), ("test", test))]
    lacking = [f"{count:,} of {total:,} {split}" for count, total, split in counts if count != total]
    return f"only {' and '.join(lacking)} images, so published numbers do not compare" if lacking else ""


def _own(dataset: str, config: BenchmarkConfig, callbacks: Callbacks) -> BenchmarkData:
    side = config.image_size
    method = "finetune" if "finetune" in config.models else "probe"
    if not set(config.models) & set(TRANSFER):
        method = "scratch"
    options = TrainConfig(image_size=side, method="scratch", device=config.device)
    if method != "scratch":
        options = TrainConfig(backbone=config.backbone, method=method, device=config.device)  # type: ignore[arg-type]
    try:
        found = training_data.read(dataset, options, callbacks, Preprocessing(size=(side, side), crop_pct=1.0), True)
    except SeveralLabels as error:
        raise UsageError(f"{error.args[0].partition(';')[0]}; a benchmark takes one label per image") from error
    if not found.rows("test").any():
        raise SourceError(f"{dataset}: no image is in the test split; label more images")
    assert found.square is not None
    labels = found.dataset.truth.argmax(axis=1).astype(np.int64)
    everything = LabelledImages(found.square, labels, found.dataset.label_names)
    learning = found.rows("train") | found.rows("val")
    return BenchmarkData(
        name=found.name,
        note="",
        train=_rows(everything, learning),
        held_out=found.rows("val")[learning],
        test=_rows(everything, found.rows("test")),
        dataset=found.dataset,
        scanned=found,
        left_out=found.dataset.notes,
    )
