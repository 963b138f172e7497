"""What a user may decide about a tagging run."""

from __future__ import annotations

from dataclasses import dataclass

from tagger.checkpoint.info import ModelInfo, fingerprint
from tagger.errors import UsageError
from tagger.images import MAX_PIXELS
from tagger.inference.engines import Choice
from tagger.inference.selector import TagSelector


@dataclass(frozen=True)
class TagConfig:
    """Options of one tagging run; raises UsageError for values that cannot be right."""

    top_k: int = 5
    threshold: float | None = None
    """One threshold for every tag instead of the model's own."""
    batch_size: int | None = None
    """Images per model call; None: what suits the engine."""
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"
    shard_size: int = 5000
    """Images per part file."""
    embeddings: bool = False
    retry_failed: bool = False
    redo: bool = False
    max_failed: str | None = None
    """Share (`1%`) or count of failed files that is still a success; None: any, unless nothing at all was readable."""
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name in ("top_k", "batch_size", "shard_size", "max_pixels"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold must be from 0 to 1, got {self.threshold}")
        _ = self.choice
        self.failures_allowed(1)

    @property
    def choice(self) -> Choice:
        """Return what was said about device, engine and precision."""
        return Choice(self.device, self.engine, self.precision)

    def thresholds(self, model: ModelInfo) -> tuple[float, ...] | None:
        """Return a threshold per label; None means the best tag alone."""
        if self.threshold is not None:
            return (self.threshold,) * len(model.label_names)
        if model.thresholds is not None:
            return model.thresholds
        return None if model.task == "multiclass" else (0.5,) * len(model.label_names)

    def selector(self, model: ModelInfo) -> TagSelector:
        """Return what turns scores into the columns of a row."""
        return TagSelector(model, self.top_k, self.thresholds(model), self.embeddings)

    def settings_id(self, model: ModelInfo) -> str:
        """Return the hash of everything beside the model that decides what a row says."""
        top_k = min(self.top_k, len(model.label_names))
        named = [self.choice.named] if self.choice.named else []
        return fingerprint([top_k, self.thresholds(model), self.embeddings, self.max_pixels, *named])

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
