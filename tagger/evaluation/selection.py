"""Images that stand for others: a greedy cover of embeddings."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]


def cover(features: Float32Array, count: int, weights: Float32Array, known: Float32Array) -> list[int]:
    """Choose rows of features (N, D) that stand for the others, the best first; at most `count` of them.

    Facility location: each row, by its weight (N,), counts with its cosine similarity to the nearest chosen or known
    one. The greedy choice reaches 63% of the best sum at least (Nemhauser, Wolsey, Fisher 1978); gains only shrink, so
    that few are computed again (Minoux 1978). A copy of a chosen row gains nothing. Memory: 4 N² bytes.
    """
    rows = _unit(features)
    similar = rows @ rows.T
    best = (rows @ _unit(known).T).max(axis=1) if len(known) else np.zeros(len(rows), np.float32)
    best, weights = np.maximum(best, 0), weights + np.float32(1e-6)
    heap = [(-float(np.maximum(each - best, 0) @ weights), row) for row, each in enumerate(similar)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while heap and len(chosen) < count:
        row = heapq.heappop(heap)[1]
        gain = float(np.maximum(similar[row] - best, 0) @ weights)
        if heap and gain < -heap[0][0]:
            heapq.heappush(heap, (-gain, row))
            continue
        chosen.append(row)
        best = np.maximum(best, similar[row])
    return chosen


def _unit(features: Float32Array) -> Float32Array:
    """Return rows of length 1; those that are zero or not finite become zeros."""
    finite = np.where(np.isfinite(features), features, np.float32(0))
    lengths = np.linalg.norm(finite, axis=1, keepdims=True)
    rows: Float32Array = np.divide(finite, lengths, out=np.zeros_like(finite), where=lengths > 0)
    return rows
