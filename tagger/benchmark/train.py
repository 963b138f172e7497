"""Train one model of a benchmark within its share of the budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from tagger import hardware, models
from tagger.benchmark import data as benchmark_data
from tagger.benchmark.baselines import BASELINES, TRANSFER, Baseline
from tagger.benchmark.budget import Cut, fit_into
from tagger.benchmark.config import BenchmarkConfig
from tagger.benchmark.data import BenchmarkData
from tagger.checkpoint import Built
from tagger.checkpoint.unknown import Statistics
from tagger.data import normalisation
from tagger.data.arrays import LabelledImages
from tagger.data.normalisation import Normalisation
from tagger.data.splits import NAMES
from tagger.errors import UsageError
from tagger.evaluation import metrics, unknown
from tagger.inference.engines import Float32Array
from tagger.models.knn import Knn
from tagger.training import knn, methods, scratch
from tagger.training.config import TrainConfig
from tagger.training.data import Callbacks, TrainingData
from tagger.training.recipe import Recipe
from tagger.training.result import Trained, embed
from tagger.training.resume import State
from tagger.training.scratch import Network
from tagger.training.train import fit_and_evaluate
from tagger.training.trainer import Diverged, Epoch

QUERIES = 1000
"""Number of held-out images on which k is chosen, in a benchmark with a budget."""
_TIMED = 2
"""Number of training steps from which an epoch's time is estimated."""


@dataclass(frozen=True)
class Task:
    """One model to train with one seed."""

    name: str
    data: BenchmarkData
    config: BenchmarkConfig
    seed: int
    seconds: float | None
    """Share of the budget; None: no limit."""
    state: State
    callbacks: Callbacks

    def cut(
        self, epochs: int, images: int, seconds_per_image: Callable[[], float], started: float | None = None
    ) -> Cut:
        """Return the epochs and images that fit the budget; a resumed training keeps its original ones.

        The model's time counts from `started`, by default from the end of this estimate.
        """
        if self.state.exists():
            return Cut(**self.state.load()["identity"]["cut"])
        if self.seconds is None:
            return Cut(epochs, images, epochs, images)
        each = seconds_per_image()
        spent = time.perf_counter() - started if started else 0.0
        return fit_into(max(0.0, self.seconds - spent), epochs, images, each)


@dataclass(frozen=True)
class Model:
    """A trained model of a benchmark."""

    network: Built
    title: str
    scores: Float32Array
    """(N, K) of the test images."""
    seconds: float
    curve: list[Epoch]
    images: int
    """Training images."""
    cut: str = ""
    """Part of the recipe that the budget cut; empty for a training in full."""
    note: str = ""
    accuracy_tta: float | None = None
    facts: dict[str, object] = field(default_factory=dict)
    """Additional entries of the report."""
    trained: Trained | None = None
    """Result of training; only for a model on a backbone."""
    hyperparameters: dict[str, object] = field(default_factory=dict)
    statistics: Statistics | None = None
    """Statistics for detecting unknown images; None for a model on a backbone, as `trained` has them."""


def identity(name: str, data: BenchmarkData, config: BenchmarkConfig, seed: int) -> list[object]:
    """Return everything that determines the model that a training in full produces, except data and seed."""
    if name in TRANSFER:
        return [asdict(benchmark_data.options_for(name, data, config, seed))]
    if name == "knn":
        return [config.seconds is not None]
    baseline = BASELINES[name]
    normalised_by = normalisation.identity(_normalisation(baseline, config))
    device = hardware.device(config.device)
    return [baseline.family, _model_args(baseline, data, config), asdict(baseline.recipe), normalised_by, device]


def train_model(task: Task) -> Model:
    """Train one model; raises UsageError when training diverges."""
    train = train_knn if task.name == "knn" else train_on_backbone if task.name in TRANSFER else train_baseline
    try:
        return train(task)
    except Diverged as error:
        task.state.remove()  # resuming from it would diverge again
        raise UsageError(f"{error}; another --normalisation (scale, standardise, pixel-mean) may help") from error


def train_baseline(task: Task) -> Model:
    """Train a network on pixels; a training that was killed continues after its last saved epoch."""
    started, data, config = time.perf_counter(), task.data, task.config
    baseline, device = BASELINES[task.name], hardware.device(config.device)
    train = data.learning if baseline.holds_out else data.train
    computed = normalisation.compute(_normalisation(baseline, config), train.images)
    model_args = _model_args(baseline, data, config)
    network = Network(f"tagger_{baseline.family}", model_args, len(data.dataset.label_names), computed)
    each = partial(seconds_per_image, network, baseline.recipe, train, task.seed, device)
    cut = task.cut(baseline.recipe.epochs, len(train), each)
    recipe, train = replace(baseline.recipe, epochs=cut.epochs), train.some(cut.images, task.seed)
    validation = data.validation if baseline.holds_out else None
    trainer = scratch.make_trainer(network, train, recipe, task.seed, device, validation)
    net, curve = scratch.train_net(trainer, task.state.with_facts(cut=asdict(cut)), task.callbacks.on_epoch)
    # the curve includes the epochs of earlier, killed runs
    elapsed = max(time.perf_counter() - started, sum(epoch.seconds for epoch in curve))
    tta = scratch.score(net, data.test.images, computed, tta=True) if recipe.augmented else None
    other = config.normalisation not in (None, computed.name)
    notes = [f"{computed.name}: this network cannot subtract a mean image" if other else "", baseline.note]
    built = Built(net, network.architecture, model_args, computed.preprocessing(train.images.shape[1]))
    return Model(
        network=built,
        title=baseline.title,
        scores=_scores(net, data, computed),
        seconds=elapsed,
        curve=curve,
        images=len(train),
        cut=cut.text,
        note=", ".join(filter(None, notes)),
        accuracy_tta=None if tta is None else float((tta.argmax(1) == data.test.labels).mean()),
        hyperparameters=asdict(recipe) | {"normalisation": computed.name},
        statistics=_statistics(built, data, baseline, device),
    )


def _statistics(network: Built, data: BenchmarkData, baseline: Baseline, device: str) -> Statistics | None:
    """Return the statistics for detecting unknown images; None for linear models, whose features are the pixels.

    For a baseline that trains on the validation images, the cut is computed on test images.
    """
    if baseline.family == "linear":
        return None
    splits = {name: np.flatnonzero(data.dataset.split(name)) for name in NAMES}
    if not baseline.holds_out:
        splits["val"] = splits["val"][:0]
    return unknown.fit(splits, lambda rows: embed(network, data.images[rows], device))


def seconds_per_image(network: Network, recipe: Recipe, train: LabelledImages, seed: int, device: str) -> float:
    """Time a few training steps after as many warm-up steps; return seconds per image."""
    some = train.some(_TIMED * recipe.batch_size, seed)
    trainer = scratch.make_trainer(network, some, replace(recipe, patience=None), seed, device)
    trainer.run_epoch()
    return trainer.run_epoch().seconds / len(some)


def _scores(net: nn.Module, data: BenchmarkData, computed: Normalisation) -> Float32Array:
    """Return the scores (N, K) of the test images."""
    scores: Float32Array = torch.from_numpy(scratch.score(net, data.test.images, computed)).softmax(1).numpy()
    return scores


def _model_args(baseline: Baseline, data: BenchmarkData, config: BenchmarkConfig) -> dict[str, object]:
    """Return model_args; the speed-run network has no input size and no offset."""
    if baseline.family == "speedrun":
        return baseline.model_args
    side = data.images.shape[1]
    offset = normalisation.subtracts_image(_normalisation(baseline, config))
    return {"input_size": side, "offset": offset, **baseline.model_args}


def _normalisation(baseline: Baseline, config: BenchmarkConfig) -> str:
    chosen = config.normalisation or baseline.normalisation
    takes_none = baseline.family == "speedrun" and normalisation.subtracts_image(chosen)
    return baseline.normalisation if takes_none else chosen


def train_knn(task: Task) -> Model:
    """Choose k and metric on held-out images, with a budget on fewer of them; then store all training images."""
    started, data = time.perf_counter(), task.data
    train, names = data.train, data.dataset.label_names
    quick = task.config.seconds is not None and len(train) > QUERIES
    queries = data.validation.some(QUERIES, seed=0) if quick else data.validation
    curves = knn.accuracies(
        pixel_rows(queries), pixel_rows(data.learning), len(names), knn.FAST_METRICS if quick else knn.METRICS,
        lambda metric, done, total: task.callbacks.on_progress(f"{metric} distances", done, total),
    )  # fmt: skip
    metric, k = knn.best(curves)
    task.callbacks.say(f"k = {k}, {metric}; validation {curves[metric][k]:.1%}")
    side = data.images.shape[1]
    model_args: dict[str, object] = {
        "examples": len(train), "k": k, "metric": metric, "dtype": "uint8", "input_size": side
    }  # fmt: skip
    net = cast(Knn, models.build("tagger_knn", len(names), model_args))
    net.remember(torch.from_numpy(train.images).permute(0, 3, 1, 2), torch.from_numpy(train.labels))
    computed = Normalisation("none", std=(1 / 255,) * 3)
    seconds = time.perf_counter() - started
    counts = f"{len(queries):,} of {len(data.validation):,}"
    return Model(
        network=Built(net, "tagger_knn", model_args, computed.preprocessing(side)),
        title="k nearest neighbours",
        scores=_scores(net, data, computed),
        seconds=seconds,
        curve=[],
        images=len(train),
        note=f"k and metric (without l1) chosen on {counts} held-out images" if quick else "",
        facts={"k_curve": curves},
        hyperparameters={"k": k, "metric": metric},
    )


def pixel_rows(data: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels (N, D) uint8, in the order of `Knn`, and labels (N,)."""
    return torch.from_numpy(data.images).permute(0, 3, 1, 2).flatten(1), torch.from_numpy(data.labels)


def train_on_backbone(task: Task) -> Model:
    """Train a model on a pretrained backbone, as `tagger train` does; all such models share the features."""
    options = benchmark_data.options_for(task.name, task.data, task.config, task.seed)
    found = task.data.for_backbone(options, task.callbacks)
    started, state, cut = time.perf_counter(), task.state, ""
    if task.name == "finetune":
        images, each = len(found.indices("train")), partial(_step_seconds, found, options)
        planned = task.cut(options.epochs or 1, images, each, started)
        options = replace(options, epochs=planned.epochs, warmup_epochs=min(1.0, planned.epochs / 10))
        state, cut = state.with_facts(cut=asdict(planned)), planned.text
        found = _some(found, planned.images, task.seed)
    trained = fit_and_evaluate(found, options, state, task.callbacks, started)
    fitted, architecture = trained.fitted, found.pretrained.architecture
    titles = {"knn": "k-NN, features of", "probe": "Linear probe", "finetune": "Fine-tuned"}
    no_better = task.name == "finetune" and fitted.method == "probe"
    side = fitted.network.preprocessing.size[0]
    notes = [f"at {side} pixels" if options.image_size else "", "" if found.decoded else "cached features"]
    return Model(
        network=fitted.network,
        title=f"{titles[fitted.method]} {architecture}{' (fine-tuning was no better)' if no_better else ''}",
        scores=trained.scores["test"],
        seconds=trained.seconds + (found.seconds if found.decoded else 0.0),
        curve=fitted.curve if fitted.method == "finetune" else [],
        images=len(found.indices("train")),
        cut=cut,
        note=", ".join(filter(None, notes)),
        trained=trained,
    )


def _step_seconds(found: TrainingData, options: TrainConfig) -> float:
    """Estimate the seconds of fine-tuning per image: a step, plus 30% for augmentation, optimizer and validation."""
    probed, _ = methods.fit_probe(found, options, Callbacks())
    return 1.3 * methods.seconds_per_image(probed.network, options, found.device)


def _some(found: TrainingData, images: int, seed: int) -> TrainingData:
    """Return the data with fewer training images, the same share of each label; validation and test are unchanged."""
    order = np.random.default_rng(seed).permutation(found.indices("train"))
    if images >= len(order):
        return found
    by_label = pd.Series(order).groupby(found.dataset.truth[order].argmax(axis=1))
    rank = by_label.cumcount() / by_label.transform("size")
    left_out = set(order[np.argsort(rank.to_numpy(), kind="stable")[images:]].tolist())
    splits = found.dataset.table["split"].to_pylist()
    chosen = [None if row in left_out else split for row, split in enumerate(splits)]
    return replace(found, dataset=found.dataset.with_splits(chosen))


def evaluate(model: Model, data: BenchmarkData) -> metrics.Evaluation:
    """Return the metrics of a model on the test images."""
    if model.trained is not None:
        return model.trained.evaluations["test"]
    return metrics.evaluate(model.scores, data.test.truth, "multiclass", data.dataset.label_names)
