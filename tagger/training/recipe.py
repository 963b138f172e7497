"""Hyperparameters of one training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tagger.training import schedules


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one training."""

    epochs: int
    batch_size: int = 128
    optimizer: Literal["adamw", "sgd"] = "sgd"
    lr: float = 0.1
    """Peak learning rate; not used if `schedule` is a list of learning rates."""
    schedule: str = "cosine"
    """See `schedules.value`."""
    warmup_epochs: float = 0.0
    lr_floor: float = 0.0
    """Start of the warm-up and end of the cosine, as a share of `lr`."""
    momentum: str = "0.9"
    """One value, or values with epochs each: `0x20,0.9x10`."""
    unit_gain: bool = False
    """Average gradients in the momentum instead of adding them up (dampening = momentum), as CNTK does."""
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_all: bool = True
    """Decay biases and norms too."""
    l1: float = 0.0
    """L1 penalty on weights."""
    loss: Literal["softmax", "sigmoid", "squared"] = "softmax"
    """softmax (cross-entropy), sigmoid (binary cross-entropy per class) or squared (error to one-hot targets)."""
    label_smoothing: float = 0.0
    clip: float = 0.0
    """Maximum gradient norm; 0: off."""
    accumulate: int = 1
    """Batches per optimizer step."""
    layer_decay: float = 1.0
    """Layer-wise learning-rate decay."""
    norm_lr_scale: float = 1.0
    """Learning rate of the parameters of normalisation layers, relative to the others; their decay stays the same."""
    freeze_after: tuple[tuple[str, int], ...] = ()
    """Parameters by name that are frozen after a number of epochs."""
    freeze_norms: bool = False
    """Freeze batch-norm statistics."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights, which is validated and returned; 0: off."""
    lookahead: bool = False
    """Pull weights towards a slow copy every five steps (Zhang 2019, arXiv 1907.08610)."""
    mixup: float = 0.0
    cutmix: float = 0.0
    patience: int | None = None
    """Epochs without improvement before training stops; the best weights are returned. None: train all epochs."""
    monitor: Literal["val_loss", "val_score"] = "val_loss"
    """Metric that must improve."""
    flip: Literal["none", "random", "alternate"] = "none"
    """none, random, or alternate: every image is mirrored every other epoch (Jordan 2024, arXiv 2404.00498)."""
    translate: int = 0
    """Random translation in pixels, both ways."""
    fill: Literal["zeros", "mean", "reflect"] = "zeros"
    """Padding of a translated image: zeros, mean (of the image that the network subtracts) or reflect."""

    @property
    def augmented(self) -> bool:
        """Return whether training mirrors and translates images; only then does test-time augmentation help."""
        return self.flip != "none" and self.translate > 0

    def lr_at(self, done: float) -> float:
        """Return the learning rate when the share `done` of training is done."""
        return schedules.value(self.schedule, self.lr, done, self.warmup_epochs / self.epochs, self.lr_floor)

    def momentum_at(self, done: float) -> float:
        """Return the momentum when the share `done` of training is done."""
        return schedules.value(self.momentum, 0.0, done) if "x" in self.momentum else float(self.momentum)


SPEEDRUN = Recipe(
    epochs=14,
    batch_size=512,
    lr=0.75,
    schedule="triangle",
    momentum="0.85",
    nesterov=True,
    weight_decay=0.002 / 1.5,
    norm_lr_scale=64.0,
    label_smoothing=0.2,
    flip="alternate",
    translate=2,
    fill="reflect",
    freeze_after=(("whiten.bias", 3),),
    lookahead=True,
)
"""airbench's recipe (Jordan 2024, arXiv 2404.00498), its learning rate scaled from batches of 1,024.

14 epochs of CIFAR-10 are 0.345 PFLOP for this network; airbench94 takes 0.36.
"""
