"""Select representative images: a greedy cover of embeddings."""

from __future__ import annotations

import heapq

import numpy as np

from tagger.checkpoint.unknown import Float32Array, unit

AXES = 128
"""Number of principal axes of the embeddings that are compared."""


def cover(
    features: Float32Array, uncertainty: Float32Array, everything: Float32Array, known: Float32Array, count: int
) -> list[int]:
    """Choose at most `count` rows of features (N, D) that represent `everything` (M, D), best first.

    Facility location: the objective is the sum, over M, of the cosine similarity to the nearest chosen or known row, so
    a copy of a chosen row gains nothing. A gain is weighted by 0.5 (for the uncertainty 0) to 1 (for 1). The greedy
    choice reaches at least 63% of the optimum (Nemhauser, Wolsey, Fisher 1978); gains only shrink, so few are
    recomputed (Minoux 1978). Memory: 4 N M bytes.
    """
    rows, crowd, labelled = _projected(features, everything, known)
    similar = rows @ crowd.T
    best = (crowd @ labelled.T).max(axis=1, initial=0)
    factors = (1 + uncertainty) / 2

    def gain(row: int) -> float:
        return float(factors[row] * np.maximum(similar[row] - best, 0).sum())

    heap = [(-gain(row), row) for row in range(len(rows))]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < count:
        row = heapq.heappop(heap)[1]
        now = -gain(row)
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, row))
            continue
        chosen.append(row)
        best = np.maximum(best, similar[row])
    return chosen


def _projected(features: Float32Array, everything: Float32Array, known: Float32Array) -> list[Float32Array]:
    """Project each array on the principal axes of `everything`, and scale its rows to unit length."""
    from sklearn.utils.extmath import randomized_svd

    crowd = _finite(everything)
    mean = crowd.mean(axis=0)
    axes = randomized_svd(crowd - mean, min(AXES, *crowd.shape), random_state=0)[2]
    return [unit((_finite(each) - mean) @ axes.T) for each in (features, everything, known.reshape(-1, len(mean)))]


def _finite(rows: Float32Array) -> Float32Array:
    return np.where(np.isfinite(rows), rows, np.float32(0))
