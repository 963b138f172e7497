"""Options of a tagging run."""

from __future__ import annotations

from dataclasses import dataclass

from tagger.errors import UsageError
from tagger.inference.config import ModelConfig, at_least_one


@dataclass(frozen=True)
class TagConfig(ModelConfig):
    """Options of one tagging run; raises UsageError for invalid values."""

    shard_size: int = 5000
    """Images per part file."""
    retry_failed: bool = False
    redo: bool = False
    max_failed: str | None = None
    """Share (`1%`) or count of failed files that is still a success; None: any, unless nothing at all was readable."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "shard_size")
        self.failures_allowed(1)

    def failures_allowed(self, found: int) -> int | None:
        """Return how many of `found` files may fail; None when only a total failure counts."""
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
