"""Convert scores to the columns of results rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tagger import schema
from tagger.checkpoint.info import ModelInfo
from tagger.inference.engines import Float32Array

IntArray = npt.NDArray[np.intp]
BoolArray = npt.NDArray[np.bool_]
_FEW = 64
"""Number of classes up to which sorting all of them is fastest."""
_SCORED = schema.RESULTS.field("tags").type.value_type


class TagSelector:
    """Turn scores into the columns tags, candidates, top_tag, top_score, embedding, unknown_score and unknown."""

    def __init__(
        self,
        info: ModelInfo,
        top_k: int,
        thresholds: tuple[float, ...] | None,
        embeddings: bool = False,
        tag_unknown: bool = False,
    ) -> None:
        self._names = pa.array(info.label_names, pa.string())
        self._thresholds = None if thresholds is None else np.array(thresholds, dtype=np.float32)
        self._top_k = min(top_k, len(info.label_names))
        self._embeddings, self._tag_unknown = embeddings, tag_unknown
        self._statistics = info.statistics

    def __call__(self, scores: Float32Array, embeddings: Float32Array) -> dict[str, pa.Array]:
        """Return the columns; scores are (N, classes), embeddings (N, D)."""
        best = top(scores, self._top_k)
        best_scores = np.take_along_axis(scores, best, axis=1)
        distances, unknown = self._unknown(embeddings)
        tagged = np.ones(len(best), dtype=bool) if unknown is None or self._tag_unknown else ~unknown
        return {
            "tags": self._tags(scores, best, tagged),
            "candidates": self._lists(np.full(len(best), self._top_k), best.ravel(), best_scores.ravel()),
            "top_tag": self._names.take(pa.array(best[:, 0])),
            "top_score": pa.array(best_scores[:, 0]),
            "embedding": _vectors(embeddings) if self._embeddings else pa.nulls(len(best), pa.list_(pa.float32())),
            "unknown_score": pa.nulls(len(best), pa.float32()) if distances is None else pa.array(distances),
            "unknown": pa.nulls(len(best), pa.bool_()) if unknown is None else pa.array(unknown),
        }

    def _unknown(self, embeddings: Float32Array) -> tuple[Float32Array | None, BoolArray | None]:
        """Return the distance of each image from the training images, and whether it makes the image unknown."""
        if self._statistics is None:
            return None, None
        distances = self._statistics.distances(embeddings)
        return distances, self._statistics.unknown(distances)

    def _tags(self, scores: Float32Array, best: IntArray, tagged: BoolArray) -> pa.Array:
        """Return the tags that pass their threshold, best first; without thresholds, only the best tag."""
        if self._thresholds is None:
            rows = np.flatnonzero(tagged)
            return self._lists(tagged.astype(np.intp), best[rows, 0], scores[rows, best[rows, 0]])
        passed = (scores >= self._thresholds) & tagged[:, None]
        rows, labels = np.nonzero(passed)
        found = scores[rows, labels]
        order = np.lexsort((labels, -found, rows))
        return self._lists(passed.sum(axis=1), labels[order], found[order])

    def _lists(self, counts: IntArray, labels: IntArray, scores: Float32Array) -> pa.Array:
        """Return lists of (tag, score), with `counts` entries in each row."""
        values = [self._names.take(pa.array(labels)), pa.array(scores)]
        return pa.ListArray.from_arrays(_offsets(counts), pa.StructArray.from_arrays(values, fields=list(_SCORED)))


def top(scores: Float32Array, count: int) -> IntArray:
    """Return the indices (N, count) of the highest of scores (N, classes), best first, ties by index."""
    if scores.shape[1] <= max(_FEW, count):
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]
    found = np.argpartition(scores, -count, axis=1)[:, -count:]
    values = np.take_along_axis(scores, found, axis=1)
    best = np.take_along_axis(found, np.lexsort((found, -values), axis=1), axis=1)
    tied = (scores >= values.min(axis=1, keepdims=True)).sum(axis=1) > count
    if tied.any():  # argpartition may have omitted a class with the same score and a lower index
        best[tied] = np.argsort(-scores[tied], axis=1, kind="stable")[:, :count]
    return best


def _vectors(embeddings: Float32Array) -> pa.Array:
    count, width = embeddings.shape
    return pa.ListArray.from_arrays(_offsets(np.full(count, width)), pa.array(embeddings.ravel()))


def _offsets(counts: IntArray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
