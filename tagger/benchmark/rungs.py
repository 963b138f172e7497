"""One rung: fit a model of the ladder on its data."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tagger import hardware
from tagger.benchmark.config import LadderConfig
from tagger.benchmark.data import LadderData, Say
from tagger.benchmark.recipes import STEPS, Step
from tagger.checkpoint.info import fingerprint
from tagger.data import normalisation
from tagger.data.arrays import LabelledImages
from tagger.models.knn import Knn
from tagger.training import neighbours, own
from tagger.training.fitting import Epoch, OnEpoch, Recipe
from tagger.training.own import Fitted
from tagger.training.unfinished import Unfinished

_QUICK_QUERIES = 1000
"""Held-out images that k is chosen on within a budget."""


@dataclass(frozen=True)
class Rung:
    """A fitted model and what there is to say of how."""

    fitted: Fitted
    train: LabelledImages
    """What it learnt from."""
    cut: str = ""
    """What the budget cut; empty: trained in full."""
    note: str = ""
    """What else to know of its numbers."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the report."""


def fit_rung(
    name: str, data: LadderData, config: LadderConfig, seed: int, device: str, state_uri: str, say: Say
) -> Rung:
    """Fit one model that learns from pixels; one that was killed goes on after the last epoch kept at `state_uri`."""
    if name == "knn":
        return _fit_knn(data, config, seed, say)
    step = STEPS[name]
    everything, val = (data.learning, data.validation) if step.holds_out else (data.train, None)
    recipe, count = _within(name, data, config)
    train = everything.some(count, seed)
    preparation = normalisation.prepare(_preparation(step, config), everything.images)
    key = fingerprint([data.data_id, name, seed, identity(name, data, config)])
    fitted = own.train_net(
        architecture=f"tagger_{step.family}",
        arguments=_arguments(step, data, config),
        train=train,
        val=val,
        preparation=preparation,
        recipe=recipe,
        seed=seed,
        device=device,
        on_epoch=_epoch_line(name, seed, recipe.epochs, say),
        unfinished=Unfinished(state_uri, key, lambda line: say(f"{name} (seed {seed}) {line}")),
    )
    other = config.preparation not in (None, preparation.name)
    notes = [
        f"{preparation.name}, for it takes no mean image" if other else "",
        step.note,
    ]
    cut = _cut(recipe.epochs, step.recipe.epochs, count, len(everything.labels))
    return Rung(fitted, train, cut, ", ".join(filter(None, notes)))


def identity(name: str, data: LadderData, config: LadderConfig) -> list[Any]:
    """Return everything but data and seed that decides which net comes out of `fit_rung`."""
    if name == "knn":
        return [_is_quick(data, config)]
    step, device = STEPS[name], hardware.device(config.device)
    recipe, count = _within(name, data, config)
    prepared_by = normalisation.preparation_id(_preparation(step, config))
    return [step.family, _arguments(step, data, config), asdict(recipe), count, prepared_by, device]


def _within(name: str, data: LadderData, config: LadderConfig) -> tuple[Recipe, int]:
    """Return recipe and number of training images, cut to the budget."""
    step, side = STEPS[name], data.train.images.shape[1]
    images = int((~data.held_out).sum()) if step.holds_out else len(data.train.labels)
    bf16 = hardware.has_bf16(hardware.device(config.device))
    return step.within(config.minutes(name), images, side, bf16)


def _cut(epochs: int, all_epochs: int, images: int, all_images: int) -> str:
    """Say what a budget left out."""
    parts = [f"{epochs} of {all_epochs} epochs"] if epochs < all_epochs else []
    parts += [f"{images:,} of {all_images:,} training images"] if images < all_images else []
    return ", ".join(parts)


def _arguments(step: Step, data: LadderData, config: LadderConfig) -> dict[str, Any]:
    """Return model_args: the speed-run net takes images of any size, and none to subtract."""
    if step.family == "speedrun":
        return step.arguments
    side = data.train.images.shape[1]
    return {"input_size": side, "offset": normalisation.subtracts_image(_preparation(step, config)), **step.arguments}


def _preparation(step: Step, config: LadderConfig) -> str:
    """Return what was asked for; the speed-run net takes no mean image, so that it keeps its own way."""
    wanted = config.preparation or step.preparation
    return step.preparation if step.family == "speedrun" and normalisation.subtracts_image(wanted) else wanted


def _epoch_line(name: str, seed: int, epochs: int, say: Say) -> OnEpoch:
    def on_epoch(entry: Epoch) -> None:
        held_out = "" if entry.val_score is None else f", held out {entry.val_score:.1%}"
        left = entry.seconds * (epochs - entry.epoch)
        say(
            f"{name} (seed {seed}) epoch {entry.epoch}/{epochs}: loss {entry.train_loss:.3f}, "
            f"learning {entry.train_score:.1%}{held_out}, {entry.seconds:.0f} s, at most {left:.0f} s left"
        )

    return on_epoch


def _fit_knn(data: LadderData, config: LadderConfig, seed: int, say: Say) -> Rung:
    """Choose k and metric on held-out images, then remember all training images."""
    started = time.perf_counter()
    preparation = normalisation.prepare("none", data.train.images)
    curves, note = _knn_curves(data, config, say)
    best, k = neighbours.best(curves)
    side = data.train.images.shape[1]
    arguments = {"examples": len(data.train.labels), "k": k, "metric": best, "dtype": "uint8", "input_size": side}
    net = Knn(len(data.train.label_names), **arguments)
    net.remember(torch.from_numpy(data.train.images).permute(0, 3, 1, 2), torch.from_numpy(data.train.labels))
    say(f"knn: k = {k}, {best}; {curves[best][k]:.1%} of the held-out images")
    fitted = Fitted(
        net=net,
        architecture="tagger_knn",
        arguments=arguments,
        preparation=preparation,
        side=side,
        label_names=data.train.label_names,
        recipe={"k": k, "metric": best},
        seed=seed,
        curve=[],
        seconds=time.perf_counter() - started,
        device="cpu",
    )
    return Rung(fitted, data.train, note=note, facts={"k_curve": curves})


def _knn_curves(data: LadderData, config: LadderConfig, say: Say) -> tuple[neighbours.Curves, str]:
    """Return metric -> k -> accuracy on the held-out images, and what was left out."""
    quick = _is_quick(data, config)
    held_out = data.validation
    asked = held_out.some(_QUICK_QUERIES, seed=0) if quick else held_out
    curves = neighbours.accuracies(
        pixel_rows(asked),
        pixel_rows(data.learning),
        len(data.train.label_names),
        neighbours.FAST_METRICS if quick else neighbours.METRICS,
        lambda what, done, total: say(f"knn {what}: {done:,} of {total:,} images compared"),
    )
    counts = f"{len(asked.labels):,} of {len(held_out.labels):,}"
    return curves, f"l1 not tried; k and metric chosen on {counts} held-out images" if quick else ""


def _is_quick(data: LadderData, config: LadderConfig) -> bool:
    return config.minutes("knn") is not None and len(data.train.labels) > _QUICK_QUERIES


def pixel_rows(data: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels (N, D) uint8, in the order of `Knn`, and labels (N,)."""
    return torch.from_numpy(data.images).permute(0, 3, 1, 2).flatten(1), torch.from_numpy(data.labels)
