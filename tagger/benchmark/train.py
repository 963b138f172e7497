"""Train one model of a benchmark within its share of the budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from tagger import hardware
from tagger.benchmark import data as benchmark_data
from tagger.benchmark.baselines import BASELINES, TRANSFER, Baseline
from tagger.benchmark.budget import Cut, fit_into
from tagger.benchmark.config import BenchmarkConfig
from tagger.benchmark.data import BenchmarkData
from tagger.data import normalisation
from tagger.data.arrays import LabelledImages
from tagger.data.normalisation import Normalisation
from tagger.errors import UsageError
from tagger.evaluation import metrics
from tagger.inference.engines import Float32Array
from tagger.models.knn import Knn
from tagger.training import knn, methods, scratch
from tagger.training.data import Callbacks
from tagger.training.recipe import Recipe
from tagger.training.result import Trained
from tagger.training.resume import State
from tagger.training.scratch import Labelled, Network
from tagger.training.train import fit_and_evaluate
from tagger.training.trainer import Diverged, Epoch

QUERIES = 1000
"""Held-out images that k is chosen on within a budget."""
_TIMED = 3
"""Steps that an epoch's time is estimated from."""


@dataclass(frozen=True)
class Model:
    """A trained model of a benchmark."""

    net: nn.Module
    title: str
    scores: Float32Array
    """(N, K) of the test images."""
    seconds: float
    curve: list[Epoch]
    side: int
    """Input size in pixels."""
    images: int
    """Training images."""
    cut: str = ""
    """Part of the recipe that the budget cut; empty for a training in full."""
    note: str = ""
    accuracy_tta: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    """Further entries of the report."""
    trained: Trained | None = None
    """Of a model on a backbone."""
    network: Network | None = None
    """Of a model on pixels."""
    hyperparameters: dict[str, Any] = field(default_factory=dict)


def identity(name: str, data: BenchmarkData, config: BenchmarkConfig, seed: int) -> list[Any]:
    """Return what decides which model comes out of a training in full, apart from data and seed."""
    if name in TRANSFER:
        return [asdict(benchmark_data.options_for(name, data, config, seed))]
    if name == "knn":
        return [config.seconds is not None]
    baseline = BASELINES[name]
    normalised_by = normalisation.identity(_normalisation(baseline, config))
    device = hardware.device(config.device)
    return [baseline.family, _model_args(baseline, data, config), asdict(baseline.recipe), normalised_by, device]


def train_baseline(
    name: str, data: BenchmarkData, config: BenchmarkConfig, seed: int, seconds: float | None, state: State,
    callbacks: Callbacks,
) -> Model:  # fmt: skip
    """Train a network on pixels; one that was killed continues after its last saved epoch."""
    started, baseline, device = time.perf_counter(), BASELINES[name], hardware.device(config.device)
    everything, validation = (data.learning, data.validation) if baseline.holds_out else (data.train, None)
    computed = normalisation.compute(_normalisation(baseline, config), everything.images)
    network = Network(
        f"tagger_{baseline.family}", _model_args(baseline, data, config), len(everything.label_names), computed
    )
    recipe, cut = _within(network, baseline.recipe, everything, seed, device, seconds, state)
    train = everything.some(cut.images, seed)
    state.identity["cut"] = asdict(cut)
    held_out = None if validation is None else _labelled(validation)
    net, curve = scratch.train_net(
        network, _labelled(train), recipe, seed, device, held_out, state=state, on_epoch=callbacks.on_epoch
    )
    elapsed = max(time.perf_counter() - started, sum(epoch.seconds for epoch in curve))  # of killed runs too
    logits = scratch.score(net, data.test.images, computed)
    scores: Float32Array = torch.from_numpy(logits).softmax(1).numpy()
    tta = scratch.score(net, data.test.images, computed, tta=True) if recipe.augmented else None
    other = config.normalisation not in (None, computed.name)
    notes = [f"{computed.name}: it takes no mean image" if other else "", baseline.note]
    return Model(
        net=net,
        title=baseline.title,
        scores=scores,
        seconds=elapsed,
        curve=curve,
        side=everything.images.shape[1],
        images=len(train.labels),
        cut=cut.text,
        note=", ".join(filter(None, notes)),
        accuracy_tta=None if tta is None else float((tta.argmax(1) == data.test.labels).mean()),
        network=network,
        hyperparameters=asdict(recipe) | {"normalisation": computed.name},
    )


def _within(
    network: Network, recipe: Recipe, train: LabelledImages, seed: int, device: str, seconds: float | None, state: State
) -> tuple[Recipe, Cut]:
    """Return the recipe and what the budget leaves of it; a training that was begun keeps what it began with."""
    images = len(train.labels)
    if state.exists():
        cut = Cut(**state.load()["identity"]["cut"])
    elif seconds is None:
        cut = Cut(recipe.epochs, images, recipe.epochs, images)
    else:
        cut = fit_into(seconds, recipe.epochs, images, seconds_per_image(network, recipe, train, seed, device))
    return replace(recipe, epochs=cut.epochs), cut


def seconds_per_image(network: Network, recipe: Recipe, train: LabelledImages, seed: int, device: str) -> float:
    """Time a few training steps, after one to warm up."""
    some = train.some((_TIMED + 1) * recipe.batch_size, seed)
    steps = -(-len(some.labels) // recipe.batch_size)
    trainer = scratch.make_trainer(network, _labelled(some), replace(recipe, patience=None), seed, device)
    times = [time.perf_counter()]
    loader = trainer.loader

    class Timed:
        def __len__(self) -> int:
            return len(loader)

        def epoch(self, number: int) -> Any:
            for batch in loader.epoch(number):
                times.append(time.perf_counter())
                yield batch
            times.append(time.perf_counter())

    trainer.loader = Timed()
    trainer.run_epoch()
    steady = times[2:] if steps > 1 else times[1:]
    return (steady[-1] - steady[0]) / max(1, len(steady) - 1) / recipe.batch_size


def _labelled(data: LabelledImages) -> Labelled:
    targets: Float32Array = np.eye(len(data.label_names), dtype=np.float32)[data.labels]
    return Labelled(data.images, targets)


def _model_args(baseline: Baseline, data: BenchmarkData, config: BenchmarkConfig) -> dict[str, Any]:
    """Return model_args: the speed-run network takes images of any size, and subtracts none."""
    if baseline.family == "speedrun":
        return baseline.model_args
    side = data.train.images.shape[1]
    offset = normalisation.subtracts_image(_normalisation(baseline, config))
    return {"input_size": side, "offset": offset, **baseline.model_args}


def _normalisation(baseline: Baseline, config: BenchmarkConfig) -> str:
    wanted = config.normalisation or baseline.normalisation
    takes_none = baseline.family == "speedrun" and normalisation.subtracts_image(wanted)
    return baseline.normalisation if takes_none else wanted


def train_knn(data: BenchmarkData, config: BenchmarkConfig, callbacks: Callbacks) -> Model:
    """Choose k and metric on held-out images, then store all training images; within a budget, on fewer of them."""
    started = time.perf_counter()
    quick = config.seconds is not None and len(data.train.labels) > QUERIES
    queries = data.validation.some(QUERIES, seed=0) if quick else data.validation
    curves = knn.accuracies(
        pixel_rows(queries), pixel_rows(data.learning), len(data.train.label_names),
        knn.FAST_METRICS if quick else knn.METRICS,
        lambda metric, done, total: callbacks.on_progress(f"{metric} distances", done, total),
    )  # fmt: skip
    metric, k = knn.best(curves)
    callbacks.say(f"k = {k}, {metric}; validation {curves[metric][k]:.1%}")
    side = data.train.images.shape[1]
    model_args = {"examples": len(data.train.labels), "k": k, "metric": metric, "dtype": "uint8", "input_size": side}
    net = Knn(len(data.train.label_names), **model_args)
    net.remember(torch.from_numpy(data.train.images).permute(0, 3, 1, 2), torch.from_numpy(data.train.labels))
    network = Network("tagger_knn", model_args, len(data.train.label_names), Normalisation("none", std=(1 / 255,) * 3))
    seconds = time.perf_counter() - started
    logits = scratch.score(net, data.test.images, network.normalisation)
    counts = f"{len(queries.labels):,} of {len(data.validation.labels):,}"
    return Model(
        net=net,
        title="k nearest neighbours",
        scores=torch.from_numpy(logits).softmax(1).numpy(),
        seconds=seconds,
        curve=[],
        side=side,
        images=len(data.train.labels),
        note=f"k and metric (without l1) chosen on {counts} held-out images" if quick else "",
        facts={"k_curve": curves},
        network=network,
        hyperparameters={"k": k, "metric": metric},
    )


def pixel_rows(data: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels (N, D) uint8, in the order of `Knn`, and labels (N,)."""
    return torch.from_numpy(data.images).permute(0, 3, 1, 2).flatten(1), torch.from_numpy(data.labels)


def train_on_backbone(
    name: str, data: BenchmarkData, config: BenchmarkConfig, seed: int, seconds: float | None, state: State,
    callbacks: Callbacks,
) -> Model:  # fmt: skip
    """Train a model on a pretrained backbone, as `tagger train` does; features are computed once for all of them."""
    options = benchmark_data.options_for(name, data, config, seed)
    found = data.for_backbone(options, callbacks)
    started = time.perf_counter()
    cut = Cut(options.epochs or 1, 1, options.epochs or 1, 1)
    if name == "finetune" and state.exists():
        cut = Cut(**state.load()["identity"]["cut"])
    elif name == "finetune" and seconds is not None:
        probed, _ = methods.fit_probe(found, options, Callbacks())
        per_image = 1.3 * methods.seconds_per_image(
            probed, options, found.device
        )  # augmentation, the optimizer, validation
        left = max(0.0, seconds - (time.perf_counter() - started))
        cut = fit_into(left, options.epochs or 1, int(found.rows("train").sum()), per_image)
    options = replace(options, epochs=cut.epochs, warmup_epochs=min(1.0, cut.epochs / 10))
    state.identity["cut"] = asdict(cut)
    learned = found if cut.images == cut.all_images else _some(found, cut.images, seed)
    trained = fit_and_evaluate(learned, options, state, callbacks, started)
    architecture = found.backbone.architecture if found.backbone else ""
    titles = {"knn-features": f"k-NN, features of {architecture}", "probe": f"Linear probe {architecture}"}
    title = titles.get(name, f"Fine-tuned {architecture}")
    if name == "finetune" and trained.fitted.method == "probe":
        title = f"Linear probe {architecture} (fine-tuning was no better)"
    side = trained.fitted.preprocessing.size[0]
    notes = [f"at {side} pixels" if options.image_size else "", "" if found.decoded else "cached features"]
    return Model(
        net=trained.fitted.net,
        title=title,
        scores=trained.scores["test"],
        seconds=trained.seconds + (found.seconds if found.decoded else 0.0),
        curve=trained.fitted.curve if trained.fitted.method == "finetune" else [],
        side=side,
        images=int(learned.rows("train").sum()),
        cut=cut.text,
        note=", ".join(filter(None, notes)),
        trained=trained,
    )


def _some(found: Any, images: int, seed: int) -> Any:
    """Return the data with fewer training images, evenly from each label; validation and test stay whole."""
    rows = np.flatnonzero(found.rows("train"))
    order = np.random.default_rng(seed).permutation(rows)
    labels = found.dataset.truth[order].argmax(axis=1)
    rank = np.zeros(len(order))
    for label in np.unique(labels):
        mine = labels == label
        rank[mine] = np.arange(mine.sum()) / mine.sum()
    chosen = set(order[np.argsort(rank, kind="stable")[:images]].tolist())
    splits = [
        None if split == "train" and row not in chosen else split
        for row, split in enumerate(found.dataset.table["split"].to_pylist())
    ]
    return replace(found, dataset=found.dataset.with_splits(splits))


Train = Callable[..., Model]


def train_model(
    name: str, data: BenchmarkData, config: BenchmarkConfig, seed: int, seconds: float | None, state: State,
    callbacks: Callbacks,
) -> Model:  # fmt: skip
    """Train one model; raises UsageError when training diverges."""
    if name == "knn":
        return train_knn(data, config, callbacks)
    train: Train = train_on_backbone if name in TRANSFER else train_baseline
    try:
        return train(name, data, config, seed, seconds, state, callbacks)
    except Diverged as error:
        state.remove()  # it would lead there again
        raise UsageError(f"{error}; another --normalisation (scale, standardise, pixel-mean) may help") from error


def evaluate(model: Model, data: BenchmarkData) -> metrics.Evaluation:
    """Return the metrics of a model on the test images."""
    if model.trained is not None:
        return model.trained.evaluations["test"]
    truth: Float32Array = np.eye(len(data.test.label_names), dtype=np.float32)[data.test.labels]
    return metrics.evaluate(model.scores, truth, "multiclass", data.test.label_names, None)
