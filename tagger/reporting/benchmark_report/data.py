"""What the report of a report of models is made from: plain numbers and arrays, however they were come by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
UInt8Array = npt.NDArray[np.uint8]
Number = float | None
"""None and NaN both mean that it is not known."""


def known(values: Iterable[Number]) -> list[float]:
    """Return the finite ones."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]


@dataclass(frozen=True, eq=False)
class Run:
    """One model trained with one seed, evaluated on the test images."""

    model: str
    """The model's name, as in --models."""
    seed: int = 0
    title: str = ""
    """The model as its field calls it, e.g. CNTK ConvNet_CIFAR10; empty: the model's name."""
    accuracy: Number = None
    """Share of test images that are right, 0 to 1, like everything that is a share."""
    interval: tuple[Number, Number] = (None, None)
    """95% of the accuracy."""
    accuracy_tta: Number = None
    """With test-time augmentation; everything else is without."""
    log_loss: Number = None
    calibration_error: Number = None
    parameters: Number = None
    flops: Number = None
    """Of one image, forward."""
    train_seconds: Number = None
    train_images_per_second: Number = None
    epochs: Number = None
    infer_one_core: Number = None
    """Images/s."""
    infer_all_cores: Number = None
    memory_bytes: Number = None
    """Most memory in use."""
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    """What the budget cut, and what else to know of its numbers."""
    curve: Sequence[Mapping[str, Any]] = ()
    """Per epoch: epoch, train_loss, val_loss, val_score, seconds (of that epoch); any may be missing."""
    scores: Array | None = None
    """Of the test images, (N, K) float32."""


@dataclass(frozen=True, eq=False)
class ModelRuns:
    """The runs of one model."""

    name: str
    runs: Sequence[Run]

    @property
    def title(self) -> str:
        """Return the model as its field calls it."""
        return next((run.title for run in self.runs if run.title), self.name)

    def values(self, name: str) -> list[float]:
        """Return what is known of one figure, a value per run."""
        return known(getattr(run, name) for run in self.runs)

    def mean(self, name: str) -> Number:
        """Return the mean of one figure over the runs that know it."""
        values = self.values(name)
        return sum(values) / len(values) if values else None

    @property
    def spread(self) -> Number:
        """Return the sample standard deviation of the accuracy over seeds."""
        values = self.values("accuracy")
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the mean interval of the accuracy: seeds do not make the test images more."""
        ends = [known(run.interval) for run in self.runs]
        whole = [end for end in ends if len(end) == 2]
        return (
            (sum(low for low, _ in whole) / len(whole), sum(high for _, high in whole) / len(whole)) if whole else None
        )

    @property
    def shown(self) -> Run:
        """Return the run that pictures show: of those with scores the one of middling accuracy, not the luckiest."""
        runs = [run for run in self.runs if run.scores is not None] or list(self.runs)
        ranked = sorted(runs, key=lambda run: (known([run.accuracy]) or [-1.0], run.seed))
        return ranked[(len(ranked) - 1) // 2]


def by_model(runs: Sequence[Run]) -> list[ModelRuns]:
    """Return the models in the order of their first runs."""
    return [
        ModelRuns(name, [run for run in runs if run.model == name]) for name in dict.fromkeys(r.model for r in runs)
    ]


@dataclass(frozen=True)
class Published:
    """An accuracy that somebody else reports."""

    model: str
    """A model's name, or the name of a model that is not in the report."""
    accuracy: Number
    conditions: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Test images (Q, H, W, 3) with their nearest training images (Q, M, H, W, 3), nearest first."""

    queries: UInt8Array
    labels: Array
    """(Q,) indices into label_names, as all labels here."""
    predicted: Array
    """(Q,)"""
    images: UInt8Array
    neighbour_labels: Array
    """(Q, M)"""
    distances: Array
    """(Q, M)"""
    metric: str = ""


@dataclass(frozen=True, eq=False)
class Mistakes:
    """Test images (H, W, 3) uint8 that a model is surest about and wrong; captions have a line each for both labels."""

    images: Sequence[UInt8Array]
    captions: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """Variants of a model side by side, e.g. sigmoid and ReLU."""

    title: str
    rows: Sequence[tuple[str, Number, str]]
    """Variant, test accuracy, remark."""
    model: str = ""
    """The model that it belongs to; of none: it gets a section of its own."""


@dataclass(frozen=True, eq=False)
class BenchmarkReport:
    """Everything that the report says; what is left out leaves no gap."""

    dataset: str
    runs: Sequence[Run]
    """From the simplest model up."""
    label_names: Sequence[str]
    truth: Array | None = None
    """(N,) index of each test image's label."""
    note: str = ""
    """What must stand beside every number, e.g. that the images are a lossy copy."""
    published: Sequence[Published] = ()
    neighbours: Neighbours | None = None
    neighbours_model: str = "knn"
    """The model whose section shows the neighbours and the choice of k."""
    k_curve: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Metric -> k -> accuracy on the validation images."""
    templates: Array | None = None
    """Of the linear model, (K, H, W, 3), any scale."""
    templates_model: str = "linear"
    filters: Mapping[str, Array] = field(default_factory=dict)
    """ModelRuns -> first-layer filters, (n, h, w, 3) or (n, h, w), any scale."""
    mistakes: Mapping[str, Mistakes] = field(default_factory=dict)
    """ModelRuns -> its mistakes."""
    comparisons: Sequence[Comparison] = ()
    command: str = ""
    """Exactly what was typed."""
    checkpoints: str = ""
    """Folder with a checkpoint per model and seed, seen from the report; empty: nobody kept them."""
    machine: str = ""
    data: str = ""
    """Where the images came from and how many there are of each split."""

    @cached_property
    def models(self) -> list[ModelRuns]:
        """Return the models in the order of their first runs."""
        return by_model(self.runs)
