"""The facts of a benchmark report: plain numbers and arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tagger.evaluation.metrics import Array
from tagger.images import UInt8Array
from tagger.reporting.formatting import Number, known, one_line


@dataclass(frozen=True, eq=False)
class Run:
    """One model trained with one seed and evaluated on the test images."""

    model: str
    """Name, as in --models."""
    title: str
    """Name in the literature, e.g. CNTK ConvNet_CIFAR10."""
    accuracy: float
    """Share of test images that are classified correctly, from 0 to 1, like all shares here."""
    interval: tuple[float, float]
    """95% interval of the accuracy."""
    scores: Array
    """Scores of the test images, (N, K) float32."""
    train_seconds: float
    flops: float
    """FLOPs of the forward pass of one image."""
    seed: int = 0
    accuracy_tta: Number = None
    """Accuracy with test-time augmentation; all other numbers are without it."""
    log_loss: Number = None
    calibration_error: Number = None
    parameters: Number = None
    train_images_per_second: Number = None
    epochs: Number = None
    infer_one_core: Number = None
    """Images/s."""
    infer_all_cores: Number = None
    memory_bytes: Number = None
    """Peak memory."""
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    cut: str = ""
    """The part that a time budget cut, "2 of 10 epochs" or "359 of 1,767 training images"; empty: trained in full."""
    note: str = ""
    """Other remarks on the numbers."""
    curve: Sequence[Mapping[str, Number]] = ()
    """Per epoch: epoch, train_loss, val_loss, val_score, seconds (of that epoch); any may be missing."""


@dataclass(frozen=True, eq=False)
class ModelRuns:
    """The runs of one model."""

    name: str
    runs: Sequence[Run]

    @property
    def title(self) -> str:
        """Return the model's name in the literature, on one line."""
        return one_line(self.runs[0].title)

    @property
    def label(self) -> str:
        """Return the title for tables and figures that compare models, with a dagger when the model was cut."""
        return f"{self.title} †" if self.cut else self.title

    @property
    def cut(self) -> str:
        """Return what a time budget cut in any run; empty if all were trained in full."""
        return "; ".join(self.texts("cut"))

    def texts(self, name: str) -> list[str]:
        """Return the distinct values of a text field that are not blank."""
        return texts(self.runs, name)

    @property
    def validated(self) -> bool:
        """Return whether the learning curve has scores of validation images."""
        return bool(known(row.get("val_score") for row in self.shown.curve))

    def mean(self, name: str) -> Number:
        """Return the mean of the known values of a number field."""
        values = known(getattr(run, name) for run in self.runs)
        return sum(values) / len(values) if values else None

    @property
    def accuracy(self) -> float:
        """Return the mean accuracy."""
        return sum(run.accuracy for run in self.runs) / len(self.runs)

    @property
    def train_seconds(self) -> float:
        """Return the mean training time."""
        return sum(run.train_seconds for run in self.runs) / len(self.runs)

    @property
    def spread(self) -> Number:
        """Return the sample standard deviation of the accuracy over seeds."""
        return float(np.std([run.accuracy for run in self.runs], ddof=1)) if len(self.runs) > 1 else None

    @property
    def interval(self) -> tuple[float, float]:
        """Return the mean interval of the accuracy; it is not pooled, since seeds share the test images."""
        low, high = np.mean([run.interval for run in self.runs], axis=0)
        return float(low), float(high)

    @property
    def shown(self) -> Run:
        """Return the run that figures show: the one of median accuracy."""
        ranked = sorted(self.runs, key=lambda run: (run.accuracy, run.seed))
        return ranked[(len(ranked) - 1) // 2]


def texts(runs: Iterable[Run], name: str) -> list[str]:
    """Return the distinct values of a text field that are not blank."""
    return list(dict.fromkeys(line for run in runs if (line := one_line(getattr(run, name)))))


def by_model(runs: Sequence[Run]) -> list[ModelRuns]:
    """Return the models in the order of their first runs."""
    names = dict.fromkeys(run.model for run in runs)
    return [ModelRuns(name, [run for run in runs if run.model == name]) for name in names]


@dataclass(frozen=True)
class Published:
    """An accuracy reported in the literature."""

    model: str
    """Name of a model of the benchmark or of another one."""
    accuracy: Number
    conditions: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Test images (Q, H, W, 3) with their nearest training images (Q, M, H, W, 3), nearest first."""

    queries: UInt8Array
    labels: Array
    """(Q,) indices into label_names, like all labels here."""
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
    """Test images (H, W, 3) uint8 with the most confident wrong tags; a caption has lines for tag and label."""

    images: Sequence[UInt8Array]
    captions: Sequence[str]


@dataclass(frozen=True)
class Comparison:
    """Variants of a model side by side, e.g. sigmoid and ReLU."""

    title: str
    rows: Sequence[tuple[str, Number, str]]
    """Variant, test accuracy, remark."""
    model: str = ""
    """Model whose section shows the comparison; if empty, it gets its own section."""


@dataclass(frozen=True, eq=False)
class BenchmarkReport:
    """All facts of a report; sections without facts are omitted. Mappings are by model name."""

    dataset: str
    runs: Sequence[Run]
    """Runs, simplest model first."""
    label_names: Sequence[str]
    truth: Array
    """(N,) index of each test image's label."""
    note: str = ""
    """Remark on all numbers, e.g. that the images are a lossy copy."""
    published: Sequence[Published] = ()
    neighbours: Mapping[str, Neighbours] = field(default_factory=dict)
    k_curves: Mapping[str, Mapping[str, Mapping[int, float]]] = field(default_factory=dict)
    """Model -> metric -> k -> accuracy on the validation images."""
    templates: Mapping[str, Array] = field(default_factory=dict)
    """Weights per class of a linear model, (K, H, W, 3), any scale."""
    filters: Mapping[str, Array] = field(default_factory=dict)
    """First-layer filters, (n, h, w, 3) or (n, h, w), any scale."""
    mistakes: Mapping[str, Mistakes] = field(default_factory=dict)
    comparisons: Sequence[Comparison] = ()
    command: str = ""
    """Command line that reproduces the report."""
    checkpoints: str = ""
    """Folder with a checkpoint per model and seed, relative to the report; empty: no checkpoints."""
    machine: str = ""
    data: str = ""
    """Source of the images and their number per split."""

    @cached_property
    def models(self) -> list[ModelRuns]:
        """Return the models in the order of their first runs."""
        return by_model(self.runs)

    def texts(self, name: str) -> list[str]:
        """Return the distinct values of a text field of all runs that are not blank."""
        return texts(self.runs, name)

    def known(self, name: str) -> list[float]:
        """Return the known values of a number field of all runs."""
        return known(getattr(run, name) for run in self.runs)
