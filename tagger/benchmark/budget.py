"""Training time shared among models, by the clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_IMAGES = 1000
"""Training images that the smallest budget leaves."""


class Budget:
    """Seconds for the models that are still to be trained, counted from the first; None: no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._ends = seconds, 0.0

    def share(self, weight: float, later: Sequence[float]) -> float | None:
        """Return the seconds for a model of this weight when others of the weights `later` follow; None: no limit."""
        if self._seconds is None:
            return None
        self._ends = self._ends or time.perf_counter() + self._seconds
        return max(0.0, self._ends - time.perf_counter()) * weight / (weight + sum(later))


@dataclass(frozen=True)
class Cut:
    """Epochs and training images of one training, after the budget."""

    epochs: int
    images: int
    all_epochs: int
    all_images: int

    @property
    def text(self) -> str:
        """Return what was cut; empty for a training in full."""
        parts = [f"{self.epochs} of {self.all_epochs} epochs"] if self.epochs < self.all_epochs else []
        if self.images < self.all_images:
            parts.append(f"{self.images:,} of {self.all_images:,} training images")
        return ", ".join(parts)


def fit_into(seconds: float | None, epochs: int, images: int, seconds_per_image: float) -> Cut:
    """Return the epochs and images that fit: all of them, else fewer epochs, else one epoch of fewer images."""
    if seconds is None or epochs * images * seconds_per_image <= seconds:
        return Cut(epochs, images, epochs, images)
    seen = int(seconds / seconds_per_image)
    if seen >= images:
        return Cut(seen // images, images, epochs, images)
    return Cut(1, min(images, max(seen, LEAST_IMAGES)), epochs, images)
