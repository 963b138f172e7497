"""Numbers about predictions, each with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Accuracy:
    """Share of images whose best tag is their label."""

    accuracy: float
    interval: tuple[float, float]
    """95%, Wilson"""
    images: int


def accuracy(scores: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> Accuracy:
    """Return top-1 accuracy of scores (N, classes) against labels (N,)."""
    right = int((scores.argmax(axis=1) == labels).sum())
    return Accuracy(right / len(labels), wilson_interval(right, len(labels)), len(labels))


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927); (0, 1) when nothing was seen."""
    if total == 0:
        return 0.0, 1.0
    share = right / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
