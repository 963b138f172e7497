"""Options of `tagger train`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal

from tagger import options
from tagger.errors import UsageError
from tagger.images.transforms import Preprocessing
from tagger.options import Option
from tagger.training import schedules

CROP_MODES = {"crop": "center", "letterbox": "border", "squash": "squash"}
"""--fit -> timm's crop_mode."""
DEFAULT_BACKBONE = "timm/mobilenetv3_large_100.ra_in1k"
_AUGMENT = re.compile(r"none|v0r?|originalr?|3a|(rand|augmix)(-(m|n|mmax|inc|w|d)\d+|-(mstd|p|a)\d+(\.\d+)?|-[bt]\w+)*")
"""Policies that timm.data.auto_augment reads."""
SCRATCH = ("method", "multilabel", "image_size", "epochs", "batch_size", "precision_target", "seed", "device")
"""Options that --method scratch has; epochs and batch size have defaults of their own."""


@dataclass(frozen=True)
class TrainConfig:
    """Options of one training; raises UsageError for values that are not allowed."""

    backbone: Annotated[str, Option("timm/NAME, local-dir:FOLDER in timm's layout, or a checkpoint.")] = (
        DEFAULT_BACKBONE
    )
    method: Annotated[
        Literal["auto", "probe", "finetune", "knn", "scratch"],
        Option(
            "probe: a linear classifier on frozen features (seconds). finetune: train the whole network. auto: both "
            "when time allows, the better one is saved. knn: nearest neighbours by frozen features. scratch: train a "
            "small network without pretrained weights."
        ),
    ] = "auto"
    multilabel: Annotated[bool, Option("An image may have several labels, or none.")] = False
    image_size: Annotated[int | None, Option("Input size in pixels [default: the backbone's; scratch: 32].", ge=16)] = (
        None
    )
    fit: Annotated[
        Literal["crop", "letterbox", "squash"],
        Option("Resize to the input: crop the centre, letterbox (pad) or squash (ignore the aspect ratio)."),
    ] = "crop"
    epochs: Annotated[int | None, Option("Number of epochs [default: 18; scratch: 14].", ge=1)] = None
    batch_size: Annotated[int | None, Option("Batch size [default: 32; scratch: 512].", ge=1)] = None
    accumulate: Annotated[int, Option("Batches per optimizer step (gradient accumulation).", ge=1)] = 1
    optimizer: Annotated[Literal["adamw", "sgd"], Option("Optimizer; sgd has Nesterov momentum.")] = "adamw"
    lr: Annotated[float, Option("Peak learning rate.", gt=0)] = 2e-4
    schedule: Annotated[
        str, Option("Learning-rate schedule: cosine, or learning rates with epochs each, such as 0.01x10,0.001x5.")
    ] = "cosine"
    warmup_epochs: Annotated[float, Option("Epochs of linear warm-up before the cosine.", ge=0)] = 1.0
    momentum: Annotated[float, Option("Momentum of sgd.", ge=0, le=1)] = 0.9
    weight_decay: Annotated[float, Option("Weight decay.", ge=0)] = 0.05
    l1: Annotated[float, Option("L1 penalty on the weights.", ge=0)] = 0.0
    layer_decay: Annotated[
        float, Option("Layer-wise learning-rate decay; 0.65 to 0.75 is usual for vision transformers.", gt=0, le=1)
    ] = 1.0
    dropout: Annotated[float, Option("Dropout rate before the head.", ge=0, lt=1)] = 0.0
    drop_path: Annotated[float, Option("Stochastic depth rate.", ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Option("Label smoothing; not used with --multilabel.", ge=0, lt=1)] = 0.1
    augment: Annotated[str, Option("timm's auto-augment policy, such as rand-m9-mstd0.5, or none.")] = "rand-m5-mstd0.5"
    crop_scale: Annotated[float, Option("Minimum area of a random training crop.", gt=0, le=1)] = 0.5
    hflip: Annotated[float, Option("Probability of a horizontal flip; 0 where left and right matter.", ge=0, le=1)] = (
        0.5
    )
    mixup: Annotated[float, Option("Mixup alpha; 0: off.", ge=0)] = 0.0
    cutmix: Annotated[float, Option("CutMix alpha; 0: off.", ge=0)] = 0.0
    ema: Annotated[float, Option("Decay of the exponential moving average of the weights; 0: off.", ge=0, lt=1)] = 0.99
    clip: Annotated[float, Option("Maximum gradient norm; 0: no clipping.", ge=0)] = 1.0
    patience: Annotated[int, Option("Epochs without improvement on validation before training stops.", ge=1)] = 10
    freeze_norms: Annotated[
        bool, Option("Keep the backbone's batch-norm statistics; always on for batches of fewer than 8 images.")
    ] = True
    class_weights: Annotated[bool, Option("Weight labels by their inverse frequency.")] = False
    precision_target: Annotated[float, Option("Precision that every tag's threshold must reach.", gt=0, lt=1)] = 0.9
    budget_minutes: Annotated[float, Option("On a CPU, auto fine-tunes only if that takes no longer.", ge=0)] = 10.0
    seed: Annotated[int, Option("Random seed; the same seed on the same CPU gives the same checkpoint.", ge=0)] = 0
    device: Annotated[Literal["auto", "cpu", "cuda"], Option("Device.")] = "auto"

    def __post_init__(self) -> None:
        options.check(self)
        if not _AUGMENT.fullmatch(self.augment):
            raise UsageError(f"--augment {self.augment}: expected none, or a policy of timm's such as rand-m9-mstd0.5")
        if self.method == "knn" and self.multilabel:
            raise UsageError("--method knn gives each image one label: omit --multilabel, or use --method probe")
        if self.schedule != "cosine" and min(rate for rate, _ in schedules.steps(self.schedule)) <= 0:
            raise UsageError(f"--schedule {self.schedule}: learning rates must be above 0")
        if self.method == "scratch" and (unused := self._changed() - set(SCRATCH)):
            listed = ", ".join(sorted(f"--{options.flag(name)}" for name in unused))
            known = ", ".join(f"--{options.flag(name)}" for name in SCRATCH[1:])
            raise UsageError(f"--method scratch: {listed} would have no effect; it takes {known}")

    @property
    def task(self) -> str:
        """Return the task of tagger.json."""
        return "multilabel" if self.multilabel else "multiclass"

    def preprocessing(self, backbone: Preprocessing) -> Preprocessing:
        """Return the backbone's preprocessing with this size and fit."""
        size = (self.image_size, self.image_size) if self.image_size else backbone.size
        if self.fit == "crop":
            return replace(backbone, size=size)
        return replace(backbone, size=size, crop_mode=CROP_MODES[self.fit], crop_pct=1.0)

    def _changed(self) -> set[str]:
        return {field.name for field in fields(self) if getattr(self, field.name) != field.default}


def differences(before: Mapping[str, Any], now: TrainConfig, ignoring: Collection[str] = ()) -> list[str]:
    """Return `--lr 0.1 -> 0.2` for every option that differs; options that did not exist had their default."""
    values = json.loads(json.dumps(asdict(now)))
    was = {field.name: before.get(field.name, field.default) for field in fields(TrainConfig)}
    return [
        f"--{options.flag(name)} {was[name]} -> {value}"
        for name, value in values.items()
        if was[name] != value and name not in ignoring
    ]
