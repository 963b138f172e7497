"""Validation of config.json and tagger.json before anything uses them."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tagger.errors import ModelError

MAX_SIDE = 4096
"""Largest input of a network in pixels."""
MAX_CLASSES = 1_000_000


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not valid Unicode") from error
    return text


def _rgb(size: tuple[int, int, int]) -> tuple[int, int, int]:
    if size[0] != 3:
        raise ValueError(f"{size[0]} channels; images are RGB, so it must be 3")
    return size


def _takes_rgb(arguments: dict[str, Any]) -> dict[str, Any]:
    if (channels := arguments.get("in_chans", 3)) != 3:
        raise ValueError(f"{channels} channels (in_chans); images are RGB, so it must be 3")
    return arguments


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("is not finite")
    return value


Text = Annotated[str, AfterValidator(_unicode), Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^\w+$", max_length=200)]
Number = Annotated[float, AfterValidator(_finite)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Probability = Annotated[Number, Field(ge=0, le=1)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=False, extra="allow")


class PretrainedCfg(_Shape):
    """timm's pretrained_cfg, as far as it decides the scores."""

    input_size: Annotated[tuple[int, Side, Side], AfterValidator(_rgb)] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = None
    crop_pct: Annotated[Number, Field(gt=0, le=10)] | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    mean: tuple[Number, Number, Number] | None = None
    std: tuple[Annotated[Number, Field(gt=0)], ...] | None = Field(default=None, min_length=3, max_length=3)
    num_classes: Annotated[int, Field(ge=0, le=MAX_CLASSES)] | None = None
    label_names: list[Text] | None = None


class Config(_Shape):
    """config.json in timm's format."""

    architecture: Name
    num_classes: Annotated[int, Field(ge=0, le=MAX_CLASSES)] | None = None
    model_args: Annotated[dict[str, Any], AfterValidator(_takes_rgb)] | None = None
    label_names: list[Text] | None = None
    pretrained_cfg: PretrainedCfg | None = None


class Calibration(_Shape):
    """The calibration of the scores."""

    temperature: Annotated[Number, Field(gt=0)] = 1.0


class Bundle(_Shape):
    """tagger.json."""

    schema_: Annotated[int, Field(alias="schema", ge=0, le=1)] = 0
    task: Literal["multiclass", "multilabel"] = "multiclass"
    label_names: list[Text] | None = None
    thresholds: dict[str, Probability] | None = None
    calibration: Calibration | None = None
    metrics: dict[str, Any] | None = None
    agreement: dict[str, dict[str, dict[str, Any]]] | None = None


def check(content: dict[str, Any], shape: type[BaseModel], uri: str) -> None:
    """Raise ModelError for the first invalid value in a checkpoint's JSON."""
    try:
        shape.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        got = repr(first["input"])
        reason = first["msg"].removeprefix("Value error, ")
        shown = got if len(got) <= 60 else f"{got[:60]}..."
        more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        raise ModelError(f"{uri}: {place}: {reason[:1].lower()}{reason[1:]}, got {shown}{more}") from error
