"""One rung: fit a model of the ladder on its data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tagger import datasets, machine
from tagger.datasets import LabelledImages, Preparation
from tagger.errors import UsageError
from tagger.ladder.config import LadderConfig
from tagger.ladder.data import LadderData, Say
from tagger.ladder.recipes import STEPS, Step
from tagger.models.knn import Knn, nearest, votes
from tagger.training import own
from tagger.training.fitting import Epoch, OnEpoch
from tagger.training.own import Fitted

KS = (1, 3, 5, 7, 10, 15, 20)
METRICS = ("l2", "cosine", "l1")
_QUICK_METRICS, _QUICK_QUERIES = METRICS[:2], 1000
"""What is tried within a budget, and on how many held-out images; l1 is no matrix product and takes minutes."""


@dataclass(frozen=True)
class Rung:
    """A fitted model and what there is to say of how."""

    fitted: Fitted
    train: LabelledImages
    """What it learnt from."""
    note: str = ""
    """What the budget cut."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the report."""


def fit_rung(name: str, data: LadderData, config: LadderConfig, seed: int, device: str, say: Say) -> Rung:
    """Fit one model that learns from pixels."""
    if name == "knn":
        return _fit_knn(data, config, seed, say)
    step = STEPS[name]
    preparation = _preparation(step, data, config)
    everything, val = (data.learning, data.validation) if step.holds_out else (data.train, None)
    recipe, count = step.within(config.minutes(name), len(everything.labels), machine.has_bf16(device))
    train = everything.some(count, seed)
    fitted = own.train_net(
        architecture=f"tagger_{step.family}",
        arguments=_arguments(step, data, preparation),
        train=train,
        val=val,
        preparation=preparation,
        recipe=recipe,
        seed=seed,
        device=device,
        on_epoch=_epoch_line(name, seed, recipe.epochs, say),
    )
    return Rung(fitted, train, _cut(recipe.epochs, step.recipe.epochs, count, len(everything.labels)))


def _cut(epochs: int, all_epochs: int, images: int, all_images: int) -> str:
    """Say what a budget left out."""
    parts = [f"{epochs} of {all_epochs} epochs"] if epochs < all_epochs else []
    parts += [f"{images:,} of {all_images:,} training images"] if images < all_images else []
    return ", ".join(parts)


def _arguments(step: Step, data: LadderData, preparation: Preparation) -> dict[str, Any]:
    """Return model_args: the speed-run net takes images of any size, and none to subtract."""
    if step.family == "speedrun":
        return step.arguments
    side = data.train.images.shape[1]
    return {"input_size": side, "offset": preparation.offset is not None, **step.arguments}


def _preparation(step: Step, data: LadderData, config: LadderConfig) -> Preparation:
    train = data.learning if step.holds_out else data.train
    found = datasets.prepare(config.preparation or step.preparation, train.images)
    if found.offset is not None and step.family == "speedrun":
        raise UsageError(
            f"--preparation {found.name}: the speed-run net takes no mean image; choose standardise or mean"
        )
    return found


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
    preparation = datasets.prepare("none", data.train.images)
    curves, note = _knn_curves(data, config, say)
    best = max(curves, key=lambda metric: max(curves[metric].values()))
    k = max(curves[best], key=lambda each: curves[best][each])
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
    return Rung(fitted, data.train, note, {"k_curve": curves})


def _knn_curves(data: LadderData, config: LadderConfig, say: Say) -> tuple[dict[str, dict[int, float]], str]:
    """Return metric -> k -> accuracy on the held-out images, and what was left out."""
    chosen = data.validation
    quick = config.minutes("knn") is not None and len(data.train.labels) > _QUICK_QUERIES
    count = min(_QUICK_QUERIES, len(chosen.labels)) if quick else len(chosen.labels)
    queries, labels = pixel_rows(chosen)
    examples, known = pixel_rows(data.learning)
    ks = [k for k in KS if k <= len(known)]
    if not ks:
        raise UsageError("knn: there are no training images to compare with")
    curves: dict[str, dict[int, float]] = {}
    for metric in _QUICK_METRICS if quick else METRICS:
        _, indices = nearest(queries[:count], examples, max(ks), metric, _progress(f"knn {metric}", say))
        shares = {k: votes(known[indices], k, len(chosen.label_names)) for k in ks}
        curves[metric] = {k: float((share.argmax(1) == labels[:count]).float().mean()) for k, share in shares.items()}
    note = f"l1 not tried; k and metric chosen on {count:,} of {len(labels):,} held-out images" if quick else ""
    return curves, note


def pixel_rows(data: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels (N, D) uint8, in the order of `Knn`, and labels (N,)."""
    return torch.from_numpy(data.images).permute(0, 3, 1, 2).flatten(1), torch.from_numpy(data.labels)


def _progress(what: str, say: Say) -> Callable[[int, int], None]:
    return lambda done, total: say(f"{what}: {done:,} of {total:,} images compared")
