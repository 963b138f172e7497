"""What a user may decide about training."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from tagger.errors import UsageError
from tagger.images.transforms import Preprocessing

METHODS = ("auto", "probe", "finetune", "knn")
FITS = {"crop": "center", "letterbox": "border", "squash": "squash"}
"""--fit -> timm's crop_mode."""
OPTIMIZERS = ("adamw", "sgd")
_AUGMENT = re.compile(r"none|v0r?|originalr?|3a|(rand|augmix)(-(m|n|mmax|inc|w|d)\d+|-(mstd|p|a)\d+(\.\d+)?|-[bt]\w+)*")
"""What timm.data.auto_augment reads."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides how a checkpoint comes out; raises UsageError for values that cannot be right."""

    backbone: str = "timm/mobilenetv3_large_100.ra_in1k"
    method: str = "auto"
    """probe: a linear head on frozen features; finetune: the whole network; auto: both when time allows, the better;
    knn: the nearest labelled images by frozen features vote."""
    multilabel: bool = False
    image_size: int | None = None
    """Side in pixels; None: the backbone's own."""
    fit: str = "crop"
    """crop the centre, letterbox the whole picture, or squash it."""
    epochs: int = 18
    batch_size: int = 32
    accumulate: int = 1
    """Batches per optimizer step."""
    optimizer: str = "adamw"
    lr: float = 2e-4
    """Peak learning rate of the head; with layer_decay deeper layers get less."""
    schedule: str = "cosine"
    """`cosine`, or learning rates with epochs each, such as `0.01x10,0.001x5`."""
    warmup_epochs: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 0.05
    l1: float = 0.0
    layer_decay: float = 1.0
    """Each block learns this much slower than the one behind it; 1: as fast.

    Vision transformers are fine-tuned with 0.65 to 0.75 (BEiT: Bao 2021, arXiv 2106.08254).
    """
    dropout: float = 0.0
    drop_path: float = 0.0
    label_smoothing: float = 0.1
    """Share of a label given to the others; not where an image may have several."""
    augment: str = "rand-m5-mstd0.5"
    """timm's RandAugment, or none."""
    crop_scale: float = 0.5
    """Least share of a picture that a training crop shows."""
    hflip: float = 0.5
    """Share of the pictures that are mirrored; 0 where left and right matter."""
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.99
    """Decay of an average of the weights, which is then validated and kept; 0: none."""
    clip: float = 1.0
    """Largest gradient norm; 0: any."""
    patience: int = 10
    """Epochs without a better validation before training stops; a cosine's last epochs are its best."""
    freeze_norms: bool = True
    """Keep the backbone's batch-norm statistics; always so with batches under 8.

    A few hundred pictures, varied at random, have other statistics than the backbone's photographs: its features, and
    with them the probe's head, are worth less before anything is learnt (docs/benchmarks.md, Training).
    """
    class_weights: bool = False
    """Rare labels count more."""
    precision_target: float = 0.9
    budget_minutes: float = 10.0
    """`auto` fine-tunes on a CPU only when that is expected to take no longer."""
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, known in (("method", METHODS), ("fit", tuple(FITS)), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise UsageError(f"--{name} {getattr(self, name)}: expected one of {', '.join(known)}")
        for name in ("epochs", "batch_size", "accumulate", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{_option(name)} must be at least 1, got {getattr(self, name)}")
        for name in ("dropout", "drop_path", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"--{_option(name)} must be at least 0 and under 1, got {getattr(self, name)}")
        for name in ("seed", "warmup_epochs", "weight_decay", "l1", "mixup", "cutmix", "clip", "budget_minutes"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{_option(name)} must not be negative, got {getattr(self, name)}")
        for name in ("momentum", "hflip", "crop_scale", "layer_decay"):
            if not 0 <= getattr(self, name) <= 1 or (name in ("crop_scale", "layer_decay") and not getattr(self, name)):
                raise UsageError(f"--{_option(name)} must be between 0 and 1, got {getattr(self, name)}")
        if not _AUGMENT.fullmatch(self.augment):
            raise UsageError(f"--augment {self.augment}: expected none, or timm's RandAugment as rand-m9-mstd0.5")
        if not 0 < self.precision_target < 1:
            raise UsageError(f"--precision-target must be between 0 and 1, got {self.precision_target}")
        if self.image_size is not None and self.image_size < 16:
            raise UsageError(f"--image-size must be at least 16, got {self.image_size}")
        if self.method == "knn" and self.multilabel:
            raise UsageError("--method knn gives each image one label: leave --multilabel away, or use --method probe")
        if self.lr <= 0:
            raise UsageError(f"--lr must be above 0, got {self.lr}")
        self.rates()

    @property
    def task(self) -> str:
        """Return the word of tagger.json."""
        return "multilabel" if self.multilabel else "multiclass"

    def rates(self) -> list[float] | None:
        """Return the learning rate of every epoch of a list schedule; None for cosine."""
        if self.schedule == "cosine":
            return None
        try:
            steps = [step.split("x") for step in self.schedule.split(",")]
            rates = [float(rate) for rate, epochs in steps for _ in range(int(epochs))]
        except ValueError:
            rates = []
        if not rates or min(rates) <= 0:
            raise UsageError(f"--schedule {self.schedule}: expected cosine, or RATExEPOCHS such as 0.01x10,0.001x5")
        return rates

    def preprocessing(self, backbone: Preprocessing) -> Preprocessing:
        """Return how the new model wants its images: the backbone's way, with this size and fit."""
        side = self.image_size
        size = (side, side) if side else backbone.size
        if self.fit == "crop":
            return replace(backbone, size=size)
        return replace(backbone, size=size, crop_mode=FITS[self.fit], crop_pct=1.0)


def differences(before: Mapping[str, Any], now: TrainConfig, ignoring: Collection[str] = ()) -> list[str]:
    """Return `--lr 0.1 -> 0.2` for every option that is another; what did not exist then had its default."""
    values = json.loads(json.dumps(asdict(now)))
    was = {field.name: before.get(field.name, field.default) for field in fields(TrainConfig)}
    return [
        f"--{_option(name)} {was[name]} -> {value}"
        for name, value in values.items()
        if was[name] != value and name not in ignoring
    ]


def _option(name: str) -> str:
    return name.replace("_", "-")
