"""Options of `tagger benchmark`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from tagger import options
from tagger.benchmark.baselines import KNOWN
from tagger.errors import UsageError
from tagger.options import FORM, Device, Option
from tagger.training.config import DEFAULT_BACKBONE

DEFAULT_MODELS = ("knn", "linear", "mlp", "convnet", "resnet20", "speedrun", "probe", "finetune")
FULL = "full"


@dataclass(frozen=True)
class BenchmarkConfig:
    """Options of one benchmark; raises UsageError for invalid values."""

    __pydantic_config__ = FORM

    models: Annotated[tuple[str, ...], Option(f"Models to train: {', '.join(KNOWN)}.")] = DEFAULT_MODELS
    budget: Annotated[str, Option("Training time for all models, such as 10m or 90s; full: complete recipes.")] = "10m"
    seeds: Annotated[int, Option("Random seeds per model.", ge=1)] = 1
    normalisation: Annotated[
        str | None,
        Option(
            "Pixel normalisation for networks trained from scratch: none, scale, mean, standardise, single-mean, "
            "pixel-mean or mean-file:PATH (CNTK's XML) [default: that of each recipe]."
        ),
    ] = None
    image_size: Annotated[int, Option("Input size in pixels, for models that work on pixels.", ge=16)] = 32
    backbone: Annotated[
        str,
        Option("Backbone of knn-features, probe and finetune: timm/NAME, imagenet, local-dir:FOLDER or a checkpoint."),
    ] = DEFAULT_BACKBONE
    device: Device = "auto"

    def __post_init__(self) -> None:
        options.check(self)
        if not self.models:
            raise UsageError(f"--models: name at least one of {', '.join(KNOWN)}")
        if unknown := [name for name in self.models if name not in KNOWN]:
            raise UsageError(f"--models {','.join(unknown)}: unknown; choose from {', '.join(KNOWN)}")
        if twice := [name for name in dict.fromkeys(self.models) if self.models.count(name) > 1]:
            raise UsageError(f"--models {','.join(twice)}: given twice; use --seeds to train a model several times")
        if self.budget != FULL and not re.fullmatch(r"[1-9]\d*[ms]", self.budget):
            raise UsageError(f"--budget {self.budget}: expected a time such as 10m or 90s, or full")

    @property
    def seconds(self) -> float | None:
        """Return the budget in seconds; None for full."""
        return None if self.budget == FULL else float(self.budget[:-1]) * {"s": 1, "m": 60}[self.budget[-1]]
