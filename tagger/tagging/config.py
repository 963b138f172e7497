"""Options of a tagging run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tagger import options
from tagger.errors import UsageError
from tagger.inference.config import ModelConfig
from tagger.options import Option


@dataclass(frozen=True)
class TagConfig(ModelConfig):
    """Options of one tagging run; raises UsageError for invalid values."""

    shard_size: Annotated[
        int, Option("Images per part file; a killed run loses only the shards in progress.", ge=1)
    ] = 5000
    workers: Annotated[
        int | None,
        Option("Processes that read and decode; 0: use threads [default: threads on up to 4 cores].", ge=0, le=1024),
    ] = None
    slice: Annotated[
        str | None, Option("Share I/N of one plan, such as 3/20, for N processes started with the same options.")
    ] = None
    retry_failed: Annotated[bool, Option("Also retry files that failed before.")] = False
    redo: Annotated[bool, Option("Tag everything again.")] = False
    min_files: Annotated[
        int | None,
        Option("Fail if fewer files are found, as when a disk is not mounted [default: 0; in a flow 1].", ge=0),
    ] = None
    max_failed: Annotated[
        str | None,
        Option("Maximum share (1%) or number of failed files; above it, exit 3 [default: fail only if all fail]."),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.failures_allowed(1)
        _ = self.own_slice

    @property
    def own_slice(self) -> tuple[int, int] | None:
        """Return (number, count) of --slice; None without it."""
        if self.slice is None:
            return None
        number, _, count = self.slice.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UsageError(f"--slice {self.slice}: expected I/N with I from 1 to N, such as 3/20")
        return int(number), int(count)

    def failures_allowed(self, found: int) -> int | None:
        """Return how many of `found` files may fail; None if only a total failure is an error."""
        if self.max_failed is None:
            return None
        text = self.max_failed.strip()
        try:
            value = float(text.removesuffix("%"))
        except ValueError:
            value = -1.0
        share = text.endswith("%")
        if not 0 <= value <= (100 if share else float("inf")) or not (share or value == int(value)):
            raise UsageError(f"--max-failed {self.max_failed}: expected a share such as 1% or a count such as 20")
        return int(found * value / 100) if share else int(value)


@dataclass(frozen=True)
class SidecarConfig:
    """The options for writing XMP sidecars."""

    sidecar: Annotated[
        Literal["name.ext.xmp", "name.xmp"] | None,
        Option(
            "xmp: photo.jpg.xmp, for digiKam, darktable and Immich, or photo.xmp, for Lightroom [default: the existing "
            "one, else name.ext.xmp]."
        ),
    ] = None
    under: Annotated[str, Option("xmp: parent of all added keywords, such as AI.")] = ""
    dry_run: Annotated[bool, Option("xmp: print what would be written.")] = False

    def __post_init__(self) -> None:
        """Check the options."""
        options.check(self)
