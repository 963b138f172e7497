"""Training methods: probe, fine-tuning, nearest neighbours, and a network from scratch."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tagger import models
from tagger.checkpoint import Built
from tagger.data import normalisation
from tagger.data.arrays import LabelledImages
from tagger.data.pixels import ArrayPixels
from tagger.errors import UsageError
from tagger.inference.engines import Float32Array
from tagger.training import backbone as backbones
from tagger.training import knn, launch, probe, schedules, scratch
from tagger.training.config import TrainConfig
from tagger.training.data import Callbacks, TrainingData
from tagger.training.distributed import ALONE, Group
from tagger.training.launch import Job
from tagger.training.loaders import AugmentedImages, ImageLoader, Normaliser, batches, workers_for
from tagger.training.recipe import SPEEDRUN, Recipe
from tagger.training.resume import State
from tagger.training.scratch import Network
from tagger.training.shared import SHARED_MEMORY, share_pixels
from tagger.training.trainer import Diverged, Epoch, Trainer, label_weights, logits_of, score_of

log = logging.getLogger(__name__)

EPOCHS, BATCH_SIZE = 18, 32


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network with its logits."""

    network: Built
    method: str
    logits: dict[str, Float32Array]
    """Split (val, and test if there is one) -> logits (N, K), not calibrated."""
    candidates: dict[str, float]
    """Method -> validation score."""
    curve: list[Epoch] = field(default_factory=list)
    chosen: dict[str, object] = field(default_factory=dict)
    """Hyperparameters that were chosen on validation."""
    recipe: dict[str, object] = field(default_factory=dict)
    """Hyperparameters of the training loop."""
    seconds_before: float = 0.0
    """Training time of earlier, killed runs."""


def fit(data: TrainingData, config: TrainConfig, state: State, callbacks: Callbacks) -> TrainedNetwork:
    """Train with the configured method; `auto` fine-tunes if the budget allows, and returns the better network."""
    if config.method == "knn":
        return fit_knn(data, config, callbacks)
    if config.method == "scratch":
        return fit_scratch(data, config, state, callbacks)
    probed, head_fits = fit_probe(data, config, callbacks)
    if config.method == "probe" or (
        config.method == "auto" and not _worthwhile(probed.network, data, config, state, callbacks)
    ):
        return probed
    tuned = fine_tune(data, config, probed if head_fits else None, state, callbacks)
    scores = probed.candidates | tuned.candidates
    found = f"fine-tuning: validation {config.score_name} {tuned.candidates['finetune']:.1%}"
    if tuned.method == "probe":
        callbacks.say(f"{found} at best; the probe is better and is saved")
        return replace(probed, candidates=scores, curve=tuned.curve, seconds_before=tuned.seconds_before)
    callbacks.say(f"{found}, best after epoch {tuned.chosen['best_epoch']}")
    return replace(tuned, candidates=scores)


def fit_probe(data: TrainingData, config: TrainConfig, callbacks: Callbacks) -> tuple[TrainedNetwork, bool]:
    """Fit a linear classifier on frozen features; return it, and whether it could be copied into the network's head."""
    head = probe.fit(data.part("train"), data.part("val"), config)
    features, truth = data.part("val")
    found = score_of(head(features), truth, config.multilabel)
    callbacks.say(f"probe: validation {config.score_name} {found:.1%} ({len(truth):,} images)")
    network = backbones.with_head(data.pretrained, len(data.dataset.label_names), config)
    head_fits = backbones.set_head(network.net, head)
    if not head_fits and config.method != "finetune":
        raise UsageError(f"--backbone {config.backbone}: its head is not one linear layer; use --method finetune")
    fitted = TrainedNetwork(
        network,
        "probe",
        logits={name: head(data.part(name)[0]) for name in data.evaluated},
        candidates={"probe": found},
        chosen={"strength": head.strength},
    )
    return fitted, head_fits


def fine_tune(
    data: TrainingData,
    config: TrainConfig,
    probed: TrainedNetwork | None,
    state: State | None,
    callbacks: Callbacks,
    splits: Sequence[str] | None = None,
) -> TrainedNetwork:
    """Train all layers, starting from a copy of the probe's network; return logits of `splits`, by default of all.

    A random head would distort the pretrained features (LP-FT, Kumar et al. 2022, arXiv 2202.10054).
    """
    network = backbones.with_head(data.pretrained, len(data.dataset.label_names), config)
    net = network.net
    if probed:
        net.load_state_dict(probed.network.net.state_dict())
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    start = probed.candidates["probe"] if probed else None
    make = partial(_fine_tuning, weights, network.model_args, _for_processes(data, config.gpus), config, start)
    fitted = launch.fit(Job(make, data.device, config.gpus, config.gradients, state), callbacks.on_epoch)
    if fitted.diverged:
        callbacks.say(f"{fitted.diverged}; the best weights so far are used")
    net.load_state_dict(fitted.weights)
    net.to(data.device).to(memory_format=torch.channels_last)
    normaliser = Normaliser(data.pretrained.preprocessing, data.device)
    pixels = {name: data.pixels.fitted(data.indices(name)) for name in (data.evaluated if splits is None else splits)}
    logits = {name: logits_of(net, normaliser.batches(part)).numpy() for name, part in pixels.items()}
    net.cpu()
    return TrainedNetwork(
        network,
        "finetune" if fitted.best_epoch or not probed else "probe",
        logits,
        candidates={"finetune": max((epoch.val_score or 0.0 for epoch in fitted.curve), default=0.0)},
        curve=fitted.curve,
        chosen={"best_epoch": fitted.best_epoch},
        recipe=asdict(recipe_of(config)),
        seconds_before=fitted.seconds_before,
    )


def _for_processes(data: TrainingData, gpus: int) -> TrainingData:
    """Return the data that fine-tuning needs, with the images in shared memory if they fit."""
    pixels = share_pixels(data.pixels) if gpus > 1 else data.pixels
    if pixels is None:
        log.warning("%s is too small for the images; every process gets a copy", SHARED_MEMORY)
    return replace(data, pixels=pixels or data.pixels, features=None, square=None)


def _fine_tuning(
    weights: Mapping[str, npt.NDArray[np.generic]],
    model_args: Mapping[str, object],
    data: TrainingData,
    config: TrainConfig,
    start: float | None,
    processes: Group,
) -> Trainer:
    """Return the trainer of a fine-tuning; `start` is the validation score of the initial network, if known."""
    net = backbones.build(data.pretrained.architecture, len(data.dataset.label_names), model_args, config)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    trainer = make_trainer(net, data, config, processes)
    if start is not None:
        trainer.start_from(start)
    return trainer


def make_trainer(net: nn.Module, data: TrainingData, config: TrainConfig, processes: Group = ALONE) -> Trainer:
    """Return the trainer of a fine-tuning."""
    preprocessing, recipe = data.pretrained.preprocessing, recipe_of(config)
    targets = torch.from_numpy(data.truth("train"))
    images = AugmentedImages(data.pixels, data.indices("train"), preprocessing, config)
    normaliser = Normaliser(preprocessing, data.device)
    weights = label_weights(targets, config.multilabel).to(data.device) if config.class_weights else None
    workers = workers_for(data.device, processes.here)
    validation = partial(data.pixels.fitted, data.indices("val"))
    return Trainer(
        net,
        ImageLoader(images, targets, recipe.batch_size, normaliser, workers, processes),
        recipe,
        config.seed,
        data.device,
        batches(validation, torch.from_numpy(data.truth("val")), normaliser),
        config.multilabel,
        weights,
        autocast=data.device != "cpu",  # on a CPU, bf16 does not speed up depthwise networks
        processes=processes,
    )


def recipe_of(config: TrainConfig) -> Recipe:
    """Return the hyperparameters of a fine-tuning; an option sets the hyperparameter of the same name."""
    options: dict[str, Any] = {each.name: getattr(config, each.name, each.default) for each in fields(Recipe)}
    return Recipe(
        **options
        | {
            "epochs": schedules.epochs(config.schedule) or config.epochs or EPOCHS,
            "batch_size": config.batch_size or BATCH_SIZE,
            "lr_floor": 0.01,
            "momentum": str(config.momentum),
            "nesterov": True,
            "decay_all": False,
            "loss": "sigmoid" if config.multilabel else "softmax",
            "label_smoothing": 0.0 if config.multilabel else config.label_smoothing,
            "monitor": "val_score",
        }
    )


def fit_knn(data: TrainingData, config: TrainConfig, callbacks: Callbacks) -> TrainedNetwork:
    """Choose k and the metric on validation; the head of the network votes among the labelled images."""

    def compared(metric: str, done: int, total: int) -> None:
        callbacks.on_progress(f"{metric} distances", done, total)

    found = knn.fit(data.part("train"), data.part("val"), compared)
    callbacks.say(f"knn: k = {found.k}, {found.metric}; validation accuracy {found.accuracy:.1%}")
    network, net = backbones.with_neighbours(data.pretrained, found, len(data.dataset.label_names), config)
    head = net.neighbours.forward_head
    return TrainedNetwork(
        network,
        "knn",
        logits={name: head(torch.from_numpy(data.part(name)[0])).numpy() for name in data.evaluated},
        candidates={"knn": found.accuracy},
        chosen={"k": found.k, "metric": found.metric, "examples": len(found.labels)},
    )


def fit_scratch(data: TrainingData, config: TrainConfig, state: State, callbacks: Callbacks) -> TrainedNetwork:
    """Train the speed-run network from scratch."""
    assert isinstance(data.pixels, ArrayPixels)
    batch_size = config.batch_size or SPEEDRUN.batch_size
    rate = SPEEDRUN.lr * batch_size / SPEEDRUN.batch_size
    recipe = replace(SPEEDRUN, epochs=config.epochs or SPEEDRUN.epochs, batch_size=batch_size, lr=rate)
    part = {
        name: LabelledImages(data.pixels.arrays[data.rows(name)], data.truth(name)) for name in ("train", "val", "test")
    }
    computed = normalisation.compute("standardise", part["train"].images)
    network = Network("tagger_speedrun", {}, len(data.dataset.label_names), computed)
    make = partial(
        scratch.make_trainer, network, part["train"], recipe, config.seed, data.device, part["val"], config.multilabel,
        False,
    )  # fmt: skip
    try:
        fitted = launch.fit(Job(make, data.device, config.gpus, config.gradients, state), callbacks.on_epoch)
    except Diverged as error:
        state.remove()  # resuming would diverge again
        raise UsageError(f"{error}; choose a smaller --batch-size, which lowers the learning rate with it") from error
    net = models.build(network.architecture, network.num_classes, network.model_args).eval()
    net.load_state_dict(fitted.weights)
    return TrainedNetwork(
        Built(net, network.architecture, network.model_args, computed.preprocessing(data.pixels.arrays.shape[1])),
        "scratch",
        logits={name: scratch.score(net, part[name].images, computed) for name in data.evaluated},
        candidates={"scratch": fitted.curve[-1].val_score or 0.0},
        curve=fitted.curve,
        recipe=asdict(recipe),
        seconds_before=fitted.seconds_before,
    )


def _worthwhile(network: Built, data: TrainingData, config: TrainConfig, state: State, callbacks: Callbacks) -> bool:
    """Return whether fine-tuning is expected to end within the budget; always true on a GPU."""
    if data.device == "cuda" or config.gpus > 1 or state.exists():
        return True  # a started fine-tuning is always finished, whatever the load of the machine
    images = recipe_of(config).epochs * len(data.indices("train"))
    minutes = seconds_per_image(network, config) * images / 60
    if minutes > config.budget_minutes:
        callbacks.say(
            f"fine-tuning would take about {minutes:.0f} minutes, over --budget-minutes {config.budget_minutes:g}; "
            "saving the probe (--method finetune ignores the budget)"
        )
    return minutes <= config.budget_minutes


def seconds_per_image(network: Built, config: TrainConfig, device: str = "cpu") -> float:
    """Measure one training step after a warm-up step; return seconds per image."""
    net, normaliser = copy.deepcopy(network.net).to(device).train(), Normaliser(network.preprocessing, device)
    size = min(16, max(2, config.batch_size or BATCH_SIZE))
    batch = torch.zeros(size, *network.preprocessing.size, 3, dtype=torch.uint8)
    for _ in range(2):
        started = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            output = net(normaliser(batch))
        output.float().sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - started) / size
