"""Options of the review page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tagger import options
from tagger.errors import UsageError
from tagger.options import Option
from tagger.redaction import visible

MAX_LABEL = 1000
"""Maximum number of characters of a label or a name."""


@dataclass(frozen=True)
class ReviewConfig:
    """Options of one review; raises UsageError for invalid values."""

    labels: Annotated[str, Option("Labels file (.parquet); decisions are appended to it.")] = "labels.parquet"
    sort: Annotated[
        Literal["uncertain", "unknown", "disagree", "newest", "tag"],
        Option(
            "Order of the images: least certain, least like the training images, models disagree, last tagged first, "
            "or by tag."
        ),
    ] = "uncertain"
    queue: Annotated[str | None, Option("File of `tagger suggest`: start with its images, in its order.")] = None
    tag: Annotated[str | None, Option("Show only images with this tag, until another filter is chosen.")] = None
    model: Annotated[str | None, Option("Name of a model in the results [default: the one used last].")] = None
    against: Annotated[str | None, Option("Name of the model to compare with [default: every other one].")] = None
    by: Annotated[str | None, Option("Name of the reviewer, stored with every decision.")] = None
    port: Annotated[int, Option("Port, or the next free one; 0: any.", ge=0, le=65_535)] = 8010

    @property
    def first_sort(self) -> str:
        """Return the order of the first page."""
        return "queue" if self.queue and self.sort == "uncertain" else self.sort

    def __post_init__(self) -> None:
        options.check(self)
        if self.by is not None and (not self.by.strip() or len(self.by) > MAX_LABEL or visible(self.by) != self.by):
            raise UsageError(f"--by {self.by[:40]!r}: expected a name")
