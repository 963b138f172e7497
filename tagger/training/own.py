"""A net of our own: trained from nothing, and written as a checkpoint folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import nn

from tagger import checkpoint, hardware, models
from tagger.checkpoint.info import ModelInfo
from tagger.data.arrays import LabelledImages
from tagger.data.normalisation import Preparation
from tagger.evaluation import metrics
from tagger.evaluation.metrics import Evaluation
from tagger.inference.engines import Float32Array
from tagger.models.small import SmallNet
from tagger.models.speedrun import Speedrun
from tagger.training.fitting import Epoch, OnEpoch, Pixels, Recipe, fit, logits_of
from tagger.training.unfinished import Unfinished

_PACKAGES = ("tagger", "torch", "timm")


@dataclass(frozen=True)
class Fitted:
    """A trained net, and what builds and feeds it again."""

    net: nn.Module
    architecture: str
    arguments: dict[str, Any]
    """model_args"""
    preparation: Preparation
    side: int
    """Of the images, in pixels."""
    label_names: tuple[str, ...]
    recipe: dict[str, Any]
    """Everything that decided how it was trained."""
    seed: int
    curve: list[Epoch]
    seconds: float
    device: str
    varied: bool = False
    """Learnt from mirrored and shifted images, so that test-time augmentation helps."""


@dataclass(frozen=True)
class Judged:
    """A net on the test images."""

    scores: Float32Array
    """(N, K)"""
    evaluation: Evaluation
    accuracy_tta: float | None
    """With test-time augmentation, where that helps; the rest is without."""


def train_net(
    architecture: str,
    arguments: dict[str, Any],
    train: LabelledImages,
    val: LabelledImages | None,
    preparation: Preparation,
    recipe: Recipe,
    seed: int,
    device: str,
    on_epoch: OnEpoch = lambda epoch: None,
    unfinished: Unfinished | None = None,
    compiled: bool = False,
) -> Fitted:
    """Build a net by its family and train it; `val` is for recipes that stop early.

    `compiled` pays where many are trained on a GPU: for one, compiling takes longer than it saves. With `unfinished` a
    training that was killed goes on, and ends with the same net; the file is left to the caller.
    """
    started = time.perf_counter()
    hardware.keep_freed_memory()
    torch.manual_seed(seed)
    net = models.build(architecture, len(train.label_names), arguments)
    dtype = torch.bfloat16 if hardware.has_bf16(device) else torch.float32
    images = pixels(train, preparation, device, dtype)
    if isinstance(net, SmallNet) and preparation.offset is not None:
        net.set_offset(torch.from_numpy(preparation.offset))
    elif isinstance(net, Speedrun):
        net.set_whitening(images.images[:5000].float().cpu())
    held_out = None if val is None else pixels(val, preparation, device)
    curve = fit(net, images, held_out, recipe, seed, on_epoch, unfinished, compiled)
    earlier = sum(epoch.seconds for epoch in curve[: unfinished.earlier]) if unfinished else 0.0
    return Fitted(
        net=net,
        architecture=architecture,
        arguments=arguments,
        preparation=preparation,
        side=train.images.shape[1],
        label_names=train.label_names,
        recipe=asdict(recipe),
        seed=seed,
        curve=curve,
        seconds=earlier + time.perf_counter() - started,
        device=device,
        varied=recipe.varied,
    )


def judge(fitted: Fitted, test: LabelledImages) -> Judged:
    """Score the test images on the CPU in fp32, as `tagger tag` would."""
    images = pixels(test, fitted.preparation, "cpu").images
    logits = logits_of(fitted.net, images)
    scores: Float32Array = logits.softmax(1).numpy()
    truth = np.eye(len(fitted.label_names), dtype=np.float32)[test.labels]
    evaluation = metrics.evaluate(scores, truth, "multiclass", fitted.label_names, None)
    if not fitted.varied:
        return Judged(scores, evaluation, None)
    said = logits_of(fitted.net, images, tta=True).argmax(1).numpy()
    return Judged(scores, evaluation, float((said == test.labels).mean()))


def pixels(data: LabelledImages, preparation: Preparation, device: str, dtype: torch.dtype = torch.float32) -> Pixels:
    """Put normalised images (N, 3, H, W) and labels on the device; the offset is left to the net."""
    mean, std = (
        torch.tensor(each, dtype=torch.float32).view(1, 3, 1, 1) for each in (preparation.mean, preparation.std)
    )
    uint8 = torch.from_numpy(data.images).permute(0, 3, 1, 2)
    chunks = [((chunk.float() / 255 - mean) / std).to(device, dtype) for chunk in uint8.split(5000)]
    images = torch.cat(chunks).contiguous(memory_format=torch.channels_last)
    return Pixels(images, torch.from_numpy(data.labels).to(device))


def save(
    out: str,
    fitted: Fitted,
    train: LabelledImages,
    test: Judged,
    command: str,
    bundle: Mapping[str, Any] | None = None,
    others: Mapping[str, bytes] | None = None,
) -> ModelInfo:
    """Write the checkpoint folder, `bundle` on top of what tagger.json says anyway; return what is in it."""
    described = {
        "task": "multiclass",
        "label_names": list(fitted.label_names),
        "metrics": {"test": asdict(test.evaluation), "test_accuracy_tta": test.accuracy_tta},
        "training": {
            "recipe": fitted.recipe,
            "preparation": fitted.preparation.name,
            "seed": fitted.seed,
            "images": len(train.labels),
            "fingerprint": train.fingerprint(),
            "seconds": round(fitted.seconds),
            "device": fitted.device,
            "versions": {name: metadata.version(name) for name in _PACKAGES},
        },
        **(bundle or {}),
    }
    card = _card(out, fitted, train, test, command)
    return checkpoint.save(out, fitted.net, _timm_config(fitted), described, card, others)


def _timm_config(fitted: Fitted) -> dict[str, Any]:
    """Return config.json in timm's format."""
    return {
        "architecture": fitted.architecture,
        "num_classes": len(fitted.label_names),
        "num_features": fitted.net.num_features,
        "model_args": fitted.arguments,
        "label_names": list(fitted.label_names),
        "pretrained_cfg": {
            "input_size": [3, fitted.side, fitted.side],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(fitted.preparation.mean),
            "std": list(fitted.preparation.std),
            "num_classes": len(fitted.label_names),
        },
    }


def _card(out: str, fitted: Fitted, train: LabelledImages, test: Judged, command: str) -> str:
    """Return the model card as Markdown; what is not learnt in epochs has no table of them."""
    rows = "\n".join(map(_curve_row, fitted.curve))
    voting = fitted.architecture == "tagger_knn"
    found = test.evaluation.accuracy
    low, high = found.interval if found else (0.0, 1.0)
    family = fitted.architecture.removeprefix("tagger_")
    parameters = sum(parameter.numel() for parameter in fitted.net.parameters())
    return _CARD.format(
        name=out.rstrip("/").rpartition("/")[2],
        made=_REMEMBERED if voting else _TRAINED.format(parameters=parameters, family=family),
        images=len(train.labels),
        side=fitted.side,
        labels=", ".join(fitted.label_names),
        accuracy=found.accuracy if found else 0.0,
        low=low,
        high=high,
        test_images=test.evaluation.images,
        tta="" if test.accuracy_tta is None else f"; {test.accuracy_tta:.2%} with it (mirrored, shifted by a pixel)",
        seconds=fitted.seconds,
        device=fitted.device,
        command=command,
        recipe="\n".join(f"| {name} | {value} |" for name, value in fitted.recipe.items()),
        curve=f"{_CURVE}\n{rows}\n\n" if rows else "",
        scores="shares of the neighbours' votes" if voting else "softmax probabilities, not calibrated",
    )


def _curve_row(epoch: Epoch) -> str:
    held_out = "" if epoch.val_score is None else f"{epoch.val_score:.1%}"
    return f"| {epoch.epoch} | {epoch.train_loss:.3f} | {epoch.train_score:.1%} | {held_out} | {epoch.seconds:.1f} |"


_TRAINED = "A net of {parameters:,} parameters (`tagger/models/{family}.py`), trained from scratch on"
_REMEMBERED = "Nearest neighbours by pixels (`tagger/models/knn.py`), nothing learnt: a vote of the most similar of"

_CARD = """# {name}

{made}
{images:,} images of {side}x{side} pixels: {labels}.

**Test accuracy {accuracy:.2%}** (95% interval {low:.2%} to {high:.2%}) on {test_images:,} images never used in
training, one seed, without test-time augmentation{tta}.

Made in {seconds:.0f} s on {device} by

    {command}

| recipe | |
|---|---|
{recipe}

{curve}The weights are under the licence of this project. Scores are {scores}.
"""

_CURVE = """| epoch | loss | accuracy while learning | on held-out images | seconds |
|---|---|---|---|---|"""
