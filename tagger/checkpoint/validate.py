"""Validation of config.json and tagger.json before anything uses them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from tagger.errors import ModelError

MAX_SIDE = 4096
"""Maximum input size of a network in pixels."""
MAX_CLASSES = 1_000_000


def _rgb(size: tuple[int, int, int]) -> tuple[int, int, int]:
    if size[0] != 3:
        raise ValueError(f"{size[0]} channels; images are RGB, so it must be 3")
    return size


def _takes_rgb(arguments: dict[str, object]) -> dict[str, object]:
    if (channels := arguments.get("in_chans", 3)) != 3:
        raise ValueError(f"{channels} channels (in_chans); images are RGB, so it must be 3")
    return arguments


Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^\w+$", max_length=200)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Probability = Annotated[FiniteFloat, Field(ge=0, le=1)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=False, extra="allow")


class PretrainedCfg(_Shape):
    """The entries of timm's pretrained_cfg that affect the scores."""

    input_size: Annotated[tuple[int, Side, Side], AfterValidator(_rgb)] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = None
    crop_pct: Annotated[FiniteFloat, Field(gt=0, le=10)] | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...] | None = Field(default=None, min_length=3, max_length=3)
    num_classes: Annotated[int, Field(ge=0, le=MAX_CLASSES)] | None = None
    label_names: list[Text] | None = None


class Config(_Shape):
    """config.json in timm's format."""

    architecture: Name
    num_classes: Annotated[int, Field(ge=0, le=MAX_CLASSES)] | None = None
    model_args: Annotated[dict[str, object], AfterValidator(_takes_rgb)] | None = None
    label_names: list[Text] | None = None
    pretrained_cfg: PretrainedCfg | None = None


class Calibration(_Shape):
    """The calibration of the scores."""

    temperature: Annotated[FiniteFloat, Field(gt=0)] = 1.0


class Unknown(_Shape):
    """The cut of unknown images; the statistics are in a separate file."""

    cut: FiniteFloat
    neighbour: Annotated[int, Field(ge=1, le=1000)]
    split: Literal["val", "test"] = "val"
    images: Annotated[int, Field(ge=1)] = 1
    test: Probability | None = None


class Bundle(_Shape):
    """tagger.json."""

    schema_: Annotated[int, Field(alias="schema", ge=0, le=1)] = 0
    task: Literal["multiclass", "multilabel"] = "multiclass"
    label_names: list[Text] | None = None
    thresholds: dict[str, Probability] | None = None
    calibration: Calibration | None = None
    unknown: Unknown | None = None
    metrics: dict[str, object] | None = None
    agreement: dict[str, dict[str, dict[str, object]]] | None = None


def check(content: Mapping[str, object], shape: type[BaseModel], uri: str) -> None:
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
