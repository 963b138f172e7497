"""Share a training time among models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_IMAGES = 1000
"""Training images that even the smallest budget uses."""


class Budget:
    """Wall-clock seconds for all models together, from the first call of share(); None: no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._deadline = seconds, 0.0

    def share(self, weight: float, later: Sequence[float]) -> float | None:
        """Return the seconds for a model of this weight, followed by models of the weights `later`; None: no limit."""
        if self._seconds is None:
            return None
        self._deadline = self._deadline or time.perf_counter() + self._seconds
        return max(0.0, self._deadline - time.perf_counter()) * weight / (weight + sum(later))


@dataclass(frozen=True)
class Cut:
    """Epochs and training images that the budget allows for one training."""

    epochs: int
    images: int
    all_epochs: int
    all_images: int

    @property
    def text(self) -> str:
        """Describe what was cut; empty for a training in full."""
        parts = [f"{self.epochs} of {self.all_epochs} epochs"] if self.epochs < self.all_epochs else []
        if self.images < self.all_images:
            parts.append(f"{self.images:,} of {self.all_images:,} training images")
        return ", ".join(parts)


def fit_into(seconds: float | None, epochs: int, images: int, seconds_per_image: float) -> Cut:
    """Return what fits into the time: the whole training, else fewer epochs, else one epoch of fewer images."""
    if seconds is None or epochs * images * seconds_per_image <= seconds:
        return Cut(epochs, images, epochs, images)
    seen = int(seconds / seconds_per_image)
    if seen >= images:
        return Cut(seen // images, images, epochs, images)
    return Cut(1, min(images, max(seen, LEAST_IMAGES)), epochs, images)
