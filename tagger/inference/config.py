"""Options of a loaded model."""

from __future__ import annotations

from dataclasses import dataclass

from tagger.checkpoint.info import ModelInfo, fingerprint
from tagger.errors import UsageError
from tagger.images import MAX_PIXELS
from tagger.inference.engines import Choice
from tagger.inference.selector import TagSelector


@dataclass(frozen=True)
class ModelConfig:
    """Options that decide how a model runs and which tags it gives; raises UsageError for invalid values."""

    top_k: int = 5
    threshold: float | None = None
    """One threshold for every tag instead of the model's own."""
    batch_size: int | None = None
    """Images per model call; None: what suits the engine."""
    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"
    embeddings: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        at_least_one(self, "top_k", "batch_size", "max_pixels")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"--threshold must be from 0 to 1, got {self.threshold}")
        _ = self.choice

    @property
    def choice(self) -> Choice:
        """Return device, engine and precision."""
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
        """Return the hash of everything beside the model that decides the content of a row."""
        top_k = min(self.top_k, len(model.label_names))
        named = [self.choice.named] if self.choice.named else []
        return fingerprint([top_k, self.thresholds(model), self.embeddings, self.max_pixels, *named])


def at_least_one(config: ModelConfig, *names: str) -> None:
    """Raise UsageError for an option below 1."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
