"""One rung: fit a model of the ladder on its data."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tagger import datasets, machine
from tagger.datasets import LabelledImages, Preparation
from tagger.errors import UsageError
from tagger.ladder.config import LadderConfig
from tagger.ladder.data import LadderData, Say
from tagger.ladder.recipes import STEPS, Step
from tagger.model_info import fingerprint
from tagger.models.knn import Knn
from tagger.training import neighbours, own
from tagger.training.fitting import Epoch, OnEpoch
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
    note: str = ""
    """What the budget cut."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the report."""


def fit_rung(
    name: str, data: LadderData, config: LadderConfig, seed: int, device: str, state_uri: str, say: Say
) -> Rung:
    """Fit one model that learns from pixels; one that was killed goes on after the last epoch kept at `state_uri`."""
    if name == "knn":
        return _fit_knn(data, config, seed, say)
    step = STEPS[name]
    preparation = _preparation(step, data, config)
    everything, val = (data.learning, data.validation) if step.holds_out else (data.train, None)
    recipe, count = step.within(config.minutes(name), len(everything.labels), machine.has_bf16(device))
    train = everything.some(count, seed)
    key = fingerprint([data.data_id, name, seed, asdict(recipe), count, preparation.name, device])
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
        unfinished=Unfinished(state_uri, key, lambda line: say(f"{name} (seed {seed}) {line}")),
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
    return Rung(fitted, data.train, note, {"k_curve": curves})


def _knn_curves(data: LadderData, config: LadderConfig, say: Say) -> tuple[neighbours.Curves, str]:
    """Return metric -> k -> accuracy on the held-out images, and what was left out."""
    quick = config.minutes("knn") is not None and len(data.train.labels) > _QUICK_QUERIES
    queries, labels = pixel_rows(data.validation)
    count = min(_QUICK_QUERIES, len(labels)) if quick else len(labels)
    curves = neighbours.accuracies(
        (queries[:count], labels[:count]),
        pixel_rows(data.learning),
        len(data.train.label_names),
        neighbours.FAST_METRICS if quick else neighbours.METRICS,
        lambda what, done, total: say(f"knn {what}: {done:,} of {total:,} images compared"),
    )
    note = f"l1 not tried; k and metric chosen on {count:,} of {len(labels):,} held-out images" if quick else ""
    return curves, note


def pixel_rows(data: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pixels (N, D) uint8, in the order of `Knn`, and labels (N,)."""
    return torch.from_numpy(data.images).permute(0, 3, 1, 2).flatten(1), torch.from_numpy(data.labels)
