"""Options of `tagger train`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Annotated, Literal

from tagger import options
from tagger.errors import UsageError
from tagger.images.transforms import Preprocessing
from tagger.options import FORM, Device, Option, Range
from tagger.training import schedules

CROP_MODES = {"crop": "center", "letterbox": "border", "squash": "squash"}
"""--fit -> timm's crop_mode."""
DEFAULT_BACKBONE = "auto"
"""The hub's default backbone if it is cached or the hub can be reached, else `imagenet`."""
_AUGMENT = re.compile(r"none|v0r?|originalr?|3a|(rand|augmix)(-(m|n|mmax|inc|w|d)\d+|-(mstd|p|a)\d+(\.\d+)?|-[bt]\w+)*")
"""Policies that timm.data.auto_augment reads."""

_Pretrained = partial(Option, used_with={"method": ("auto", "probe", "finetune", "knn")})
_FINETUNED = {"method": ("auto", "finetune")}
_FineTuning = partial(Option, used_with=_FINETUNED)
_TRAINED = {"method": ("auto", "finetune", "scratch")}
_COSINE = {"schedule": ("cosine",)}


@dataclass(frozen=True)
class TrainConfig:
    """Options of one training; raises UsageError for invalid values."""

    __pydantic_config__ = FORM

    backbone: Annotated[
        str,
        _Pretrained(
            "timm/NAME, imagenet, local-dir:FOLDER in timm's layout, or a checkpoint. auto: "
            "timm/mobilenetv3_large_100.ra_in1k if the hub can be reached or it is in its cache, else imagenet."
        ),
    ] = DEFAULT_BACKBONE
    method: Annotated[
        Literal["auto", "probe", "finetune", "knn", "scratch"],
        Option(
            "probe: a linear classifier on frozen features (seconds). finetune: train the whole network. auto: both "
            "if time allows, and the better one is saved. knn: nearest neighbours on frozen features, one label per "
            "image. scratch: train a small network without pretrained weights."
        ),
    ] = "auto"
    multilabel: Annotated[
        bool,
        Option("An image may have several labels, or none.", {"method": ("auto", "probe", "finetune", "scratch")}),
    ] = False
    labels: Annotated[
        str | None,
        Option("Label file, such as labels.parquet of `tagger review`; its labels replace those of DATASET."),
    ] = None
    image_size: Annotated[int | None, Option("Input size in pixels [default: the backbone's; scratch: 32].", ge=16)] = (
        None
    )
    fit: Annotated[
        Literal["crop", "letterbox", "squash"],
        _Pretrained("Resize to the input: crop the centre, letterbox (pad) or squash (ignore the aspect ratio)."),
    ] = "crop"
    epochs: Annotated[int | None, Option("Number of epochs [default: 18; scratch: 14].", _TRAINED | _COSINE, ge=1)] = (
        None
    )
    batch_size: Annotated[int | None, Option("Batch size [default: 32; scratch: 512].", _TRAINED, ge=1)] = None
    accumulate: Annotated[int, _FineTuning("Batches per optimizer step (gradient accumulation).", ge=1)] = 1
    optimizer: Annotated[Literal["adamw", "sgd"], _FineTuning("Optimizer; sgd has Nesterov momentum.")] = "adamw"
    lr: Annotated[float, _FineTuning("Peak learning rate.", gt=0, search=Range(5e-5, 2e-3, log=True))] = 2e-4
    schedule: Annotated[
        str, _FineTuning("Learning-rate schedule: cosine, or a list of RATExEPOCHS, such as 0.01x10,0.001x5.")
    ] = "cosine"
    warmup_epochs: Annotated[
        float, Option("Epochs of linear warm-up before the cosine.", _FINETUNED | _COSINE, ge=0)
    ] = 1.0
    momentum: Annotated[float, Option("Momentum of sgd.", _FINETUNED | {"optimizer": ("sgd",)}, ge=0, le=1)] = 0.9
    weight_decay: Annotated[float, _FineTuning("Weight decay.", ge=0, search=Range(1e-3, 0.2, log=True))] = 0.05
    l1: Annotated[float, _FineTuning("L1 penalty on the weights.", ge=0)] = 0.0
    layer_decay: Annotated[
        float,
        _FineTuning(
            "Layer-wise learning-rate decay; 0.65 to 0.75 is usual for vision transformers.",
            gt=0, le=1, search=Range(0.7, 1.0),
        ),
    ] = 1.0  # fmt: skip
    dropout: Annotated[float, _FineTuning("Dropout rate before the head.", ge=0, lt=1)] = 0.0
    drop_path: Annotated[float, _FineTuning("Stochastic depth rate.", ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[
        float,
        Option(
            "Label smoothing; not used with --multilabel.", _FINETUNED | {"multilabel": (False,)},
            ge=0, lt=1, search=Range(0.0, 0.2),
        ),
    ] = 0.1  # fmt: skip
    augment: Annotated[
        str,
        _FineTuning(
            "timm's auto-augment policy, such as rand-m9-mstd0.5, or none.",
            search=("none", "rand-m5-mstd0.5", "rand-m9-mstd0.5"),
        ),
    ] = "rand-m5-mstd0.5"
    crop_scale: Annotated[float, _FineTuning("Minimum area of a random training crop.", gt=0, le=1)] = 0.5
    hflip: Annotated[
        float, _FineTuning("Probability of a horizontal flip; use 0 if left and right matter.", ge=0, le=1)
    ] = 0.5
    mixup: Annotated[float, _FineTuning("Mixup alpha; 0: off.", ge=0)] = 0.0
    cutmix: Annotated[float, _FineTuning("CutMix alpha; 0: off.", ge=0)] = 0.0
    ema: Annotated[
        float, _FineTuning("Decay of the exponential moving average of the weights; 0: off.", ge=0, lt=1)
    ] = 0.99
    clip: Annotated[float, _FineTuning("Maximum gradient norm; 0: no clipping.", ge=0)] = 1.0
    patience: Annotated[int, _FineTuning("Stop after this many epochs without improvement on validation.", ge=1)] = 10
    freeze_norms: Annotated[
        bool,
        _FineTuning(
            "Freeze the backbone's batch-norm statistics; always on for batches of fewer than 8 images.",
            search=(True, False),
        ),
    ] = True
    class_weights: Annotated[
        bool, Option("Weight labels by their inverse frequency.", {"method": ("auto", "probe", "finetune")})
    ] = False
    precision_target: Annotated[float, Option("Precision that every tag must reach at its threshold.", gt=0, lt=1)] = (
        0.9
    )
    budget_minutes: Annotated[
        float,
        Option("On a CPU, auto fine-tunes only if it is expected to take no longer.", {"method": ("auto",)}, ge=0),
    ] = 10.0
    seed: Annotated[int, Option("Random seed; the same seed on the same CPU gives the same checkpoint.", ge=0)] = 0
    device: Device = "auto"
    gpus: Annotated[
        int, Option("GPUs to train on, one process each; with --device cpu, the number of processes.", _TRAINED, ge=1)
    ] = 1
    gradients: Annotated[
        Literal["exact", "powersgd", "local"],
        Option(
            "What several GPUs exchange: exact gradients; powersgd: compressed gradients; local: no gradients, but the "
            "weights are averaged every 8 steps (local SGD).",
            _TRAINED | {"gpus": range(2, 1025)},
        ),
    ] = "exact"

    def __post_init__(self) -> None:
        options.check(self)
        if self.batch_size and self.gpus > 1 and self.batch_size < 2 * self.gpus:
            raise UsageError(f"--batch-size {self.batch_size}: --gpus {self.gpus} needs at least {2 * self.gpus}")
        if not _AUGMENT.fullmatch(self.augment):
            raise UsageError(
                f"--augment {self.augment}: expected none, or one of timm's policies, such as rand-m9-mstd0.5"
            )
        if self.schedule != "cosine" and min(rate for rate, _ in schedules.steps(self.schedule)) <= 0:
            raise UsageError(f"--schedule {self.schedule}: learning rates must be above 0")

    @property
    def task(self) -> str:
        """Return the task, as in tagger.json."""
        return "multilabel" if self.multilabel else "multiclass"

    @property
    def score_name(self) -> str:
        """Return the name of the metric that selects models."""
        return "mean average precision" if self.multilabel else "accuracy"

    def preprocessing(self, backbone: Preprocessing) -> Preprocessing:
        """Return the backbone's preprocessing with this size and fit."""
        size = (self.image_size, self.image_size) if self.image_size else backbone.size
        if self.fit == "crop":
            return replace(backbone, size=size)
        return replace(backbone, size=size, crop_mode=CROP_MODES[self.fit], crop_pct=1.0)


def differences(before: Mapping[str, object], now: TrainConfig, ignoring: Collection[str] = ()) -> list[str]:
    """Return `--lr 0.1 -> 0.2` for every option that differs; options missing in `before` had their default."""
    values = json.loads(json.dumps(asdict(now)))
    was = {field.name: before.get(field.name, field.default) for field in fields(TrainConfig)}
    return [
        f"--{options.flag(name)} {was[name]} -> {value}"
        for name, value in values.items()
        if was[name] != value and name not in ignoring
    ]
