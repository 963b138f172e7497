"""Training methods: probe, fine-tuning, nearest neighbours, and a network from scratch."""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from tagger.data import normalisation
from tagger.data.pixels import ArrayPixels, Subset
from tagger.errors import UsageError
from tagger.images import Preprocessing
from tagger.inference.engines import Float32Array
from tagger.training import backbone as backbones
from tagger.training import knn, probe, resume, schedules, scratch
from tagger.training.config import TrainConfig
from tagger.training.data import Callbacks, TrainingData
from tagger.training.loaders import AugmentedImages, ImageLoader, Normaliser, batches
from tagger.training.recipe import SPEEDRUN, Recipe
from tagger.training.resume import State
from tagger.training.scratch import Labelled, Network
from tagger.training.trainer import Diverged, Epoch, Trainer, label_weights, logits_of, score_of

EPOCHS, BATCH_SIZE = 18, 32


@dataclass(frozen=True)
class Fitted:
    """A trained network."""

    net: nn.Module
    architecture: str
    model_args: dict[str, Any]
    preprocessing: Preprocessing
    method: str
    logits: dict[str, Float32Array]
    """val, and test where there is one: (N, K), not calibrated."""
    candidates: dict[str, float] = field(default_factory=dict)
    """Method -> validation score."""
    curve: list[Epoch] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)
    """Hyperparameters that were chosen on validation."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Hyperparameters of the training loop."""
    seconds_before: float = 0.0
    """Seconds of epochs that earlier, killed runs trained."""


def fit(data: TrainingData, config: TrainConfig, state: State, callbacks: Callbacks) -> Fitted:
    """Train by the configured method; `auto` fine-tunes when that is worthwhile and returns the better network."""
    if config.method == "knn":
        return fit_knn(data, config, callbacks)
    if config.method == "scratch":
        return fit_scratch(data, config, state, callbacks)
    probed, starts_from_probe = fit_probe(data, config, callbacks)
    if config.method == "probe" or (
        config.method == "auto" and not _worthwhile(probed, data, config, state, callbacks)
    ):
        return probed
    tuned = fine_tune(
        data, config, probed.net if starts_from_probe else None, probed.candidates["probe"], state, callbacks
    )
    return _better(probed, tuned, starts_from_probe, config, callbacks)


def fit_probe(data: TrainingData, config: TrainConfig, callbacks: Callbacks) -> tuple[Fitted, bool]:
    """Fit a linear classifier on frozen features; return it, and whether it could be put into the network's head."""
    assert data.backbone is not None
    head = probe.fit(*data.part("train"), *data.part("val"), config)
    features, truth = data.part("val")
    found = score_of(head(features), truth, config.multilabel)
    callbacks.say(f"probe: validation {_score_name(config)} {found:.1%} ({len(truth):,} images)")
    net, model_args = backbones.with_head(data.backbone, len(data.dataset.label_names), config)
    fits = backbones.set_head(net, head)
    if not fits and config.method != "finetune":
        raise UsageError(f"--backbone {config.backbone}: its head is not one linear layer; use --method finetune")
    logits = {name: head(data.part(name)[0]) for name in _evaluated(data)}
    preprocessing = data.backbone.preprocessing
    chosen = {"strength": head.strength}
    fitted = Fitted(
        net, data.backbone.architecture, model_args, preprocessing, "probe", logits, {"probe": found}, chosen=chosen
    )
    return fitted, fits


def fine_tune(
    data: TrainingData,
    config: TrainConfig,
    start: nn.Module | None,
    start_score: float,
    state: State | None,
    callbacks: Callbacks,
    splits: tuple[str, ...] = ("val", "test"),
) -> Fitted:
    """Train all layers, starting from a copy of the probe's network.

    A random head would destroy the features before it had learnt anything (LP-FT, Kumar et al. 2022, arXiv 2202.10054).
    """
    assert data.backbone is not None
    net, model_args = backbones.with_head(data.backbone, len(data.dataset.label_names), config)
    if start is not None:
        net.load_state_dict(start.state_dict())
    trainer = make_trainer(net, data, config)
    if state and state.exists():
        trainer.load_state(state.load()["trainer"])
    elif start is not None:
        trainer.start_from(start_score)
    before = sum(epoch.seconds for epoch in trainer.curve)
    try:
        resume.fit(trainer, state, callbacks.on_epoch)
    except Diverged as error:
        if not trainer.best:
            raise
        callbacks.say(f"{error}; the best weights so far are used")
        trainer.load_best()
    normaliser = Normaliser(data.backbone.preprocessing, data.device)
    logits = {
        name: logits_of(net, (normaliser(chunk) for chunk in torch.from_numpy(pixels).split(64))).numpy()
        for name in splits
        if len(pixels := data.pixels.fitted(np.flatnonzero(data.rows(name))))
    }
    scores = {"finetune": max((epoch.val_score or 0.0 for epoch in trainer.curve), default=0.0)}
    return Fitted(
        net=net.cpu(),
        architecture=data.backbone.architecture,
        model_args=model_args,
        preprocessing=data.backbone.preprocessing,
        method="finetune" if trainer.best_epoch or start is None else "probe",
        logits=logits,
        candidates=scores,
        curve=trainer.curve,
        chosen={"best_epoch": trainer.best_epoch},
        recipe=asdict(trainer.recipe),
        seconds_before=before,
    )


def make_trainer(net: nn.Module, data: TrainingData, config: TrainConfig) -> Trainer:
    """Return the trainer of a fine-tuning."""
    assert data.backbone is not None
    preprocessing, recipe = data.backbone.preprocessing, recipe_of(config)
    train, val = (np.flatnonzero(data.rows(name)) for name in ("train", "val"))
    targets = torch.from_numpy(data.truth("train"))
    images = AugmentedImages(
        Subset(data.pixels, train), preprocessing, config.seed, config.augment, config.crop_scale, config.hflip
    )
    normaliser = Normaliser(preprocessing, data.device)
    weights = label_weights(targets, config.multilabel).to(data.device) if config.class_weights else None
    return Trainer(
        net,
        ImageLoader(images, targets, recipe.batch_size, normaliser),
        recipe,
        config.seed,
        data.device,
        batches(partial(data.pixels.fitted, val), torch.from_numpy(data.truth("val")), normaliser),
        config.multilabel,
        weights,
        autocast=data.device != "cpu",  # a CPU with bf16 trains depthwise networks no faster in it
    )


def recipe_of(config: TrainConfig) -> Recipe:
    """Return the hyperparameters of a fine-tuning."""
    listed = schedules.epochs(config.schedule)
    return Recipe(
        epochs=listed or config.epochs or EPOCHS,
        batch_size=config.batch_size or BATCH_SIZE,
        optimizer=config.optimizer,
        lr=config.lr,
        schedule=config.schedule,
        warmup_epochs=config.warmup_epochs,
        lr_floor=0.01,
        momentum=str(config.momentum),
        nesterov=True,
        weight_decay=config.weight_decay,
        decay_all=False,
        l1=config.l1,
        loss="sigmoid" if config.multilabel else "softmax",
        label_smoothing=0.0 if config.multilabel else config.label_smoothing,
        clip=config.clip,
        accumulate=config.accumulate,
        layer_decay=config.layer_decay,
        freeze_norms=config.freeze_norms,
        ema=config.ema,
        mixup=config.mixup,
        cutmix=config.cutmix,
        patience=config.patience,
        monitor="val_score",
    )


def _better(
    probed: Fitted, tuned: Fitted, starts_from_probe: bool, config: TrainConfig, callbacks: Callbacks
) -> Fitted:
    scores = probed.candidates | tuned.candidates
    found, name = tuned.candidates["finetune"], _score_name(config)
    if starts_from_probe and tuned.method == "probe":
        callbacks.say(f"fine-tuning: validation {name} {found:.1%} at best; the probe is better and is saved")
        return replace(probed, candidates=scores, curve=tuned.curve, seconds_before=tuned.seconds_before)
    callbacks.say(f"fine-tuning: validation {name} {found:.1%}, best after epoch {tuned.chosen['best_epoch']}")
    return replace(tuned, candidates=scores)


def fit_knn(data: TrainingData, config: TrainConfig, callbacks: Callbacks) -> Fitted:
    """Choose k and metric on validation; the network's head is the labelled images."""
    assert data.backbone is not None
    assert data.features is not None

    def compared(metric: str, done: int, total: int) -> None:
        callbacks.on_progress(f"{metric} distances", done, total)

    found = knn.fit(*data.part("train"), *data.part("val"), compared)
    callbacks.say(f"knn: k = {found.k}, {found.metric}; validation accuracy {found.accuracy:.1%}")
    net, model_args = backbones.with_neighbours(data.backbone, found, len(data.dataset.label_names), config)
    logits = {
        name: net.neighbours.forward_head(torch.from_numpy(data.part(name)[0])).numpy() for name in _evaluated(data)
    }
    chosen = {"k": found.k, "metric": found.metric, "examples": len(found.labels)}
    preprocessing = data.backbone.preprocessing
    return Fitted(
        net, "tagger_feature_knn", model_args, preprocessing, "knn", logits, {"knn": found.accuracy}, chosen=chosen
    )


def fit_scratch(data: TrainingData, config: TrainConfig, state: State, callbacks: Callbacks) -> Fitted:
    """Train the speed-run network on the images as they are."""
    assert isinstance(data.pixels, ArrayPixels)
    batch_size = config.batch_size or SPEEDRUN.batch_size
    rate = SPEEDRUN.lr * batch_size / SPEEDRUN.batch_size
    recipe = replace(SPEEDRUN, epochs=config.epochs or SPEEDRUN.epochs, batch_size=batch_size, lr=rate)
    part = {name: Labelled(data.pixels.arrays[data.rows(name)], data.truth(name)) for name in ("train", "val", "test")}
    computed = normalisation.compute("standardise", part["train"].images)
    network = Network("tagger_speedrun", {}, len(data.dataset.label_names), computed)
    before = sum(entry["seconds"] for entry in state.load()["trainer"]["curve"]) if state.exists() else 0.0
    try:
        net, curve = scratch.train_net(
            network, part["train"], recipe, config.seed, data.device, part["val"], config.multilabel, state,
            callbacks.on_epoch,
        )  # fmt: skip
    except Diverged as error:
        state.remove()  # it would lead there again
        raise UsageError(f"{error}; choose a smaller --batch-size, which lowers the learning rate with it") from error
    logits = {name: scratch.score(net, part[name].images, computed) for name in _evaluated(data)}
    preprocessing = computed.preprocessing(data.pixels.arrays.shape[1])
    scores = {"scratch": curve[-1].val_score or 0.0}
    return Fitted(
        net, "tagger_speedrun", {}, preprocessing, "scratch", logits, scores, curve, {}, asdict(recipe), before
    )


def _evaluated(data: TrainingData) -> list[str]:
    """Return the splits that are scored: validation, and test where there is one."""
    return [name for name in ("val", "test") if data.rows(name).any()]


def _worthwhile(fitted: Fitted, data: TrainingData, config: TrainConfig, state: State, callbacks: Callbacks) -> bool:
    """Tell whether fine-tuning is expected to end within the budget; on a GPU it is always tried."""
    if data.device == "cuda" or state.exists():  # one that was begun is finished, whatever the load of the machine is
        return True
    epochs = recipe_of(config).epochs
    minutes = seconds_per_image(fitted, config) * int(data.rows("train").sum()) * epochs / 60
    if minutes > config.budget_minutes:
        callbacks.say(
            f"fine-tuning would take about {minutes:.0f} minutes, over --budget-minutes {config.budget_minutes:g}; "
            "saving the probe (--method finetune trains all the same)"
        )
    return minutes <= config.budget_minutes


def seconds_per_image(fitted: Fitted, config: TrainConfig, device: str = "cpu") -> float:
    """Time one training step, after one to warm up."""
    net, normaliser = copy.deepcopy(fitted.net).to(device).train(), Normaliser(fitted.preprocessing, device)
    size = min(16, max(2, config.batch_size or BATCH_SIZE))
    batch = torch.zeros(size, *fitted.preprocessing.size, 3, dtype=torch.uint8)
    for _ in range(2):
        started = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            output = net(normaliser(batch))
        output.float().sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - started) / size


def _score_name(config: TrainConfig) -> str:
    return "mean average precision" if config.multilabel else "accuracy"
