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
            "labels.parquet of `tagger review`, or for results a manifest with labels; its images are left out. For a "
            "dataset, its labels also replace those of the dataset."
        ),
    ] = None
    format: Annotated[
        Literal["auto", "parquet", "label-studio"],
        Option("Format of the file; auto: label-studio if its name ends in .json, else parquet."),
    ] = "auto"
    model: Annotated[str | None, Option("Results: name of a model in them [default: the one used last].")] = None
    backbone: Annotated[str, Option("Dataset: backbone whose frozen features are compared, as for `tagger train`.")] = (
        "auto"
    )
    multilabel: Annotated[bool, Option("Dataset: an image may have several labels, or none.")] = False
    device: Device = "auto"

    def __post_init__(self) -> None:
        options.check(self)
