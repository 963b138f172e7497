"""Scores -> the columns of a results row."""

from __future__ import annotations

from typing import Any

import numpy as np

from tagger.checkpoint.info import ModelInfo
from tagger.inference.engines import Float32Array
from tagger.inference.pipeline import Row


class TagSelector:
    """Turn one image's scores into the columns tags, candidates, top_tag, top_score and embedding."""

    def __init__(
        self, info: ModelInfo, top_k: int, thresholds: tuple[float, ...] | None, embeddings: bool = False
    ) -> None:
        self._names = info.label_names
        self._thresholds = None if thresholds is None else np.array(thresholds, dtype=np.float32)
        self._top_k = min(top_k, len(info.label_names))
        self._embeddings = embeddings

    def __call__(self, scores: Float32Array, embedding: Float32Array) -> Row:
        """Return the columns; scores are (classes,), embedding (D,)."""
        candidates = [self._scored(index, scores) for index in _best(scores, self._top_k)]
        if self._thresholds is None:
            tags = candidates[:1]
        else:
            passed = np.flatnonzero(scores >= self._thresholds)
            tags = [self._scored(index, scores) for index in passed[np.argsort(-scores[passed], kind="stable")]]
        return {
            "tags": tags,
            "candidates": candidates,
            "top_tag": candidates[0]["tag"],
            "top_score": candidates[0]["score"],
            "embedding": embedding if self._embeddings else None,
        }

    def _scored(self, index: int, scores: Float32Array) -> dict[str, Any]:
        return {"tag": self._names[index], "score": float(scores[index])}


def _best(scores: Float32Array, count: int) -> Any:
    """Return the indices of the highest scores, best first, ties by index; only what can be among them is sorted."""
    floor = np.partition(scores, len(scores) - count)[len(scores) - count]
    contenders = np.flatnonzero(scores >= floor)
    return contenders[np.argsort(-scores[contenders], kind="stable")][:count]
