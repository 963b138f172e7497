"""Images that stand for others: a greedy cover of embeddings."""

from __future__ import annotations

import heapq

import numpy as np

from tagger.checkpoint.unknown import Float32Array, unit

AXES = 128
"""Principal axes of the embeddings that are compared."""


def cover(
    features: Float32Array, uncertainty: Float32Array, everything: Float32Array, known: Float32Array, count: int
) -> list[int]:
    """Choose rows of features (N, D) that stand for `everything` (M, D), the best first; at most `count` of them.

    Facility location: each of M counts with its cosine similarity to the nearest chosen or known row, so that a copy of
    a chosen one gains nothing. A row's gain counts half when its uncertainty (N,) is 0, and whole when it is 1. The
    greedy choice is within 63% of the best sum (Nemhauser, Wolsey, Fisher 1978); gains only shrink, so that few are
    computed again (Minoux 1978). Memory: 4 N M bytes.
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
    """Return each on the principal axes of `everything`, as rows of length 1."""
    from sklearn.utils.extmath import randomized_svd

    crowd = _finite(everything)
    mean = crowd.mean(axis=0)
    axes = randomized_svd(crowd - mean, min(AXES, *crowd.shape), random_state=0)[2]
    return [unit((_finite(each) - mean) @ axes.T) for each in (features, everything, known.reshape(-1, len(mean)))]


def _finite(rows: Float32Array) -> Float32Array:
    return np.where(np.isfinite(rows), rows, np.float32(0))
