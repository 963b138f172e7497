"""Training data: labelled images in splits, with their features and decoded pixels from one scan."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from tagger import checkpoint, hardware, storage
from tagger.checkpoint.info import ModelInfo, fingerprint
from tagger.data import dataset as datasets
from tagger.data import scan
from tagger.data.dataset import BoolArray, Dataset
from tagger.data.pixels import ArrayPixels, FilePixels, Pixels, Rows
from tagger.data.scan import IN_MEMORY, Arrays, Scan
from tagger.data.splits import NAMES
from tagger.errors import SourceError
from tagger.images import Preprocessing, UInt8Array
from tagger.inference.engines import Float32Array
from tagger.training import loaders
from tagger.training.config import TrainConfig
from tagger.training.distributed import start_server
from tagger.training.probe import Part
from tagger.training.trainer import Epoch

SCRATCH_SIDE = 32


@dataclass(frozen=True)
class Callbacks:
    """Callbacks for progress."""

    say: Callable[[str], None] = lambda line: None
    on_progress: Callable[[str, int, int], None] = lambda step, done, total: None
    on_epoch: Callable[[Epoch], None] = lambda epoch: None


@dataclass(frozen=True)
class TrainingData:
    """Labelled images in splits, with the features of a frozen backbone."""

    name: str
    """Name of the dataset, for the card."""
    dataset: Dataset
    pixels: Pixels
    features: Float32Array | None
    """(N, D); None without a backbone."""
    backbone: ModelInfo | None
    device: str
    decoded: int = 0
    """Number of images that were decoded; the others were cached."""
    notes: tuple[str, ...] = ()
    square: ArrayPixels | None = None
    """For networks trained from scratch."""
    seconds: float = 0.0
    """Time of the scan, embeddings included."""

    @property
    def pretrained(self) -> ModelInfo:
        """Return the backbone; only for methods that have one."""
        assert self.backbone is not None
        return self.backbone

    @property
    def evaluated(self) -> list[str]:
        """Return the splits to evaluate: validation, and test if there is one."""
        return [name for name in ("val", "test") if self.rows(name).any()]

    def rows(self, split: str) -> BoolArray:
        """Return which images are in a split."""
        return self.dataset.split(split)

    def indices(self, split: str) -> Rows:
        """Return the indices of the images in a split."""
        return np.flatnonzero(self.rows(split))

    def truth(self, split: str) -> Float32Array:
        """Return targets (N, K) of a split."""
        return self.dataset.truth[self.rows(split)]

    def part(self, split: str) -> Part:
        """Return features (N, D) and targets (N, K) of a split."""
        assert self.features is not None
        return self.features[self.rows(split)], self.truth(split)


def describe_backbone(config: TrainConfig) -> ModelInfo | None:
    """Return the backbone with this training's preprocessing and a matching id; None for --method scratch."""
    if config.method == "scratch":
        return None
    published = checkpoint.describe(config.backbone)
    preprocessing = config.preprocessing(published.preprocessing)
    if preprocessing == published.preprocessing:
        return published
    model_id = fingerprint([published.model_id, repr(preprocessing)])
    return replace(published, preprocessing=preprocessing, model_id=model_id)


def read(dataset: str, config: TrainConfig, callbacks: Callbacks, benchmark_side: int | None = None) -> TrainingData:
    """Read labels, scan the images once, and split them.

    For a benchmark, images are also fitted to squares of `benchmark_side`, and those known to have no label are left
    out. Raises SourceError or UsageError if there are too few labels or images.
    """
    device = hardware.device(config.device)
    if config.gpus > 1 or (config.method in ("auto", "finetune") and loaders.workers_for(device)):
        start_server()  # it imports while the images are scanned
    found = datasets.read_dataset(dataset, config.multilabel, config.labels)
    started, backbone = time.perf_counter(), describe_backbone(config)
    if benchmark_side:
        found = found.filter(np.asarray(found.truth.any(axis=1)), "they have none of the labels")
    callbacks.say(f"{len(found):,} labelled images, {len(found.label_names):,} labels")
    side = config.image_size or SCRATCH_SIDE if config.method == "scratch" else benchmark_side
    square = Preprocessing(size=(side, side), crop_pct=1.0) if side else None
    arrays = Arrays(training=config.method in ("auto", "finetune"), square=square)
    on_image = partial(callbacks.on_progress, "images")
    images, scanned = datasets.scan(dataset, found, backbone, config.device, arrays, on_image)
    callbacks.say(f"{scanned.decoded:,} images read and decoded, {len(found) - scanned.decoded:,} cached")
    images, report = datasets.split(images, scanned, config.seed)
    small = ArrayPixels(np.stack(list(scanned.arrays["square"].values())), square) if square else None
    pixels = _pixels(images, backbone, scanned, device) if backbone else small
    assert pixels
    data = TrainingData(
        name=storage.public_uri(storage.absolute(dataset)).rstrip("/").rpartition("/")[2],
        dataset=images,
        pixels=pixels,
        features=scanned.features,
        backbone=backbone,
        device=device,
        decoded=scanned.decoded,
        notes=(*images.notes, *report[1:]),
        square=small,
        seconds=time.perf_counter() - started,
    )
    _check_splits(dataset, data, config.multilabel)
    for line in (report[0], *(f"note: {note}" for note in data.notes)):
        callbacks.say(line)
    return data


def _pixels(images: Dataset, backbone: ModelInfo, scanned: Scan, device: str) -> FilePixels:
    """Return the images, including those already decoded, with the array that their split needs."""
    train = images.split("train")
    training = {row: array for row, array in scanned.arrays["training"].items() if train[row]}
    evaluation = {row: array for row, array in scanned.arrays["pixels"].items() if not train[row]}
    limit = IN_MEMORY // (1 + loaders.workers_for(device))  # each process caches what it decodes itself
    return FilePixels(images.locations, backbone.preprocessing, training, evaluation, limit, images.image_ids)


def from_arrays(
    name: str, dataset: Dataset, arrays: UInt8Array, config: TrainConfig, callbacks: Callbacks
) -> TrainingData:
    """Return the data of a training on images (N, H, W, 3) in memory, in the splits of `dataset`."""
    backbone = describe_backbone(config)
    assert backbone is not None
    started, on_image = time.perf_counter(), partial(callbacks.on_progress, "images")
    features, computed = scan.embed(arrays, backbone, config.device, on_image)
    return TrainingData(
        name=name,
        dataset=dataset,
        pixels=ArrayPixels(arrays, backbone.preprocessing),
        features=features,
        backbone=backbone,
        device=hardware.device(config.device),
        decoded=computed,
        notes=dataset.notes,
        seconds=time.perf_counter() - started,
    )


def _check_splits(dataset: str, data: TrainingData, multilabel: bool) -> None:
    counts = {name: len(data.indices(name)) for name in NAMES}
    for name, least in (("train", 2), ("val", 1)):
        if counts[name] < least:
            listed = ", ".join(f"{count} {split}" for split, count in counts.items())
            raise SourceError(
                f"{dataset}: {listed} images; too few in {name}: label more images, or remove the splits of the dataset"
            )
    names = data.dataset.label_names
    here = [names[index] for index in np.flatnonzero(data.truth("train").any(axis=0))]
    if len(here) < (1 if multilabel else 2):
        raise SourceError(
            f"{dataset}: the training images have {len(here)} of {len(names)} labels ({', '.join(here) or 'none'}); "
            "training needs more labels: put images of other labels into train"
        )
