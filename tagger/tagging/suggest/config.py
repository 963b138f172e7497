"""Options of `tagger suggest`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tagger import options
from tagger.options import Device, Option


@dataclass(frozen=True)
class SuggestConfig:
    """Options of `tagger suggest`; raises UsageError for invalid values."""

    count: Annotated[int, Option("Images to suggest.", ge=1, le=5_000)] = 100
    labels: Annotated[
        str | None,
        Option(
            "labels.parquet of `tagger review`; its images are left out. Results: or a manifest with labels. Dataset: "
            "its labels also replace those of the dataset."
        ),
    ] = None
    format: Annotated[
        Literal["auto", "parquet", "label-studio"],
        Option("Format of the file; auto: label-studio for the suffix .json, else parquet."),
    ] = "auto"
    model: Annotated[str | None, Option("Results: name of a model in them [default: the one tagged last].")] = None
    backbone: Annotated[
        str, Option("Dataset: model whose frozen features are compared, named as for `tagger train`.")
    ] = "auto"
    multilabel: Annotated[bool, Option("Dataset: an image may have several labels, or none.")] = False
    device: Device = "auto"

    def __post_init__(self) -> None:
        options.check(self)
