"""What a user decides about a ladder of models."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tagger.benchmark.recipes import STEPS
from tagger.errors import UsageError

TRANSFER = ("knn-features", "probe", "finetune")
KNOWN = ("knn", *STEPS, *TRANSFER)
"""Every rung, from the simplest up."""
DEFAULT_MODELS = ("knn", "linear", "mlp", "convnet", "resnet20", "speedrun", "probe", "finetune")
FULL = "full"


@dataclass(frozen=True)
class LadderConfig:
    """Everything that decides what is trained; raises UsageError for values that cannot be right."""

    models: tuple[str, ...] = DEFAULT_MODELS
    budget: str = "10m"
    """Time that the models may take together on two CPU cores, such as 10m or 90s; full: as published."""
    seeds: int = 1
    preparation: str | None = None
    """How pixels are prepared for nets from scratch; None: as each recipe says."""
    image_size: int = 32
    """Side in pixels for models on pixels."""
    backbone: str = "timm/mobilenetv3_large_100.ra_in1k"
    """For neighbours by features, probe and fine-tuning."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if unknown := [name for name in self.models if name not in KNOWN]:
            raise UsageError(f"--models {','.join(unknown)}: not known; choose among {', '.join(KNOWN)}")
        if twice := [name for name in dict.fromkeys(self.models) if self.models.count(name) > 1]:
            raise UsageError(f"--models {','.join(twice)}: named more than once; --seeds trains a model several times")
        if not self.models:
            raise UsageError(f"--models: name at least one of {', '.join(KNOWN)}")
        if self.budget != FULL and not re.fullmatch(r"[1-9]\d*[ms]", self.budget):
            raise UsageError(f"--budget {self.budget}: expected a time above 0 such as 10m or 90s, or full")
        if self.seeds < 1:
            raise UsageError(f"--seeds must be at least 1, got {self.seeds}")
        if self.image_size < 16:
            raise UsageError(f"--image-size must be at least 16, got {self.image_size}")

    def minutes(self, model: str) -> float | None:
        """Return the minutes that one training of a model may take on two CPU cores; None at full budget."""
        if self.budget == FULL:
            return None
        seconds = int(self.budget[:-1]) * {"s": 1, "m": 60}[self.budget[-1]]
        return seconds / 60 / self.seeds * _weight(model) / sum(map(_weight, self.models))


def _weight(model: str) -> float:
    return STEPS[model].weight if model in STEPS else 0.5 if model == "knn" else 1.0
