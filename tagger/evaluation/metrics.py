"""Metrics of predictions, with intervals.

Conventions: scores are probabilities (N, K); truth is (N, K), 1 if the image has the label. The task is "multiclass"
(softmax, one label per image) or "multilabel" (sigmoid). A multiclass row of zeros is a known negative: it counts
against a tag's precision, and is excluded from metrics that need a label (accuracy, log loss, calibration, confusion).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn import metrics as sk

from tagger.errors import UsageError

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
Interval = tuple[float, float]

SMALLEST = 1e-7
"""Minimum distance of a score from 0 and 1 in the log loss, which one image would dominate otherwise."""


@dataclass(frozen=True)
class Accuracy:
    """Share of images whose best tag is their label."""

    accuracy: float
    interval: Interval
    """95%, Wilson"""
    images: int


@dataclass(frozen=True)
class TagMetrics:
    """Metrics of one tag; None if there are no images to compute one from."""

    tag: str
    images: int
    """Images that have the label"""
    predicted: int
    """Images that got the tag"""
    threshold: float | None
    """None: an image gets the tag if it is the best one"""
    precision: float | None
    precision_interval: Interval
    """95%, Wilson"""
    recall: float | None
    recall_interval: Interval
    average_precision: float | None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one model on one split; `dataclasses.asdict` of it is JSON without NaN."""

    task: str
    images: int
    negatives: int
    """Images known to have none of the labels"""
    accuracy: Accuracy | None
    """Of images that have a label; None for multilabel"""
    mean_average_precision: float | None
    """Mean over the tags that have images"""
    mean_average_precision_interval: Interval | None
    """95%, bootstrap over images; multilabel only"""
    macro_precision: float | None
    """Mean over the tags that any image got"""
    macro_recall: float | None
    """Mean over the tags that have images"""
    log_loss: float | None
    calibration_error: float | None
    tags: tuple[TagMetrics, ...]


@dataclass(frozen=True)
class Reliability:
    """Score against accuracy per bin, for a reliability diagram; every array is (bins,)."""

    confidence: FloatArray
    """Mean score"""
    right: FloatArray
    """Accuracy"""
    count: npt.NDArray[np.int64]

    @property
    def error(self) -> float | None:
        """Return the expected calibration error, the mean of |score - accuracy| (Naeini et al. 2015)."""
        if not len(self.count):
            return None
        return float(np.average(np.abs(self.confidence - self.right), weights=self.count))


def evaluate(
    scores: Array, truth: Array, task: str, names: Sequence[str], thresholds: Sequence[float] | None = None
) -> Evaluation:
    """Evaluate scores (N, K) against truth (N, K).

    Without thresholds, tags are assigned as by `tagger tag`: multiclass the best one, multilabel those of at least 0.5.
    Raises UsageError if shapes do not fit, a score is NaN, or a multiclass image has two labels.
    """
    scores, truth = checked(scores, truth, task)
    tags = per_tag(scores, truth, default_thresholds(task, len(names)) if thresholds is None else thresholds, names)
    labelled = truth.any(axis=1)
    multilabel = task == "multilabel"
    some = bool(labelled.any()) and not multilabel
    return Evaluation(
        task=task,
        images=len(scores),
        negatives=int((~labelled).sum()),
        accuracy=accuracy(scores[labelled], truth[labelled].argmax(axis=1)) if some else None,
        mean_average_precision=_mean([tag.average_precision for tag in tags]),
        mean_average_precision_interval=bootstrap_interval(scores, truth) if multilabel else None,
        macro_precision=_mean([tag.precision for tag in tags]),
        macro_recall=_mean([tag.recall for tag in tags]),
        log_loss=log_loss(scores, truth, task),
        calibration_error=reliability_bins(scores, truth, task).error,
        tags=tuple(tags),
    )


def accuracy(scores: Array, labels: npt.NDArray[np.int64]) -> Accuracy:
    """Return top-1 accuracy of scores (N, classes) against labels (N,)."""
    right = int((scores.argmax(axis=1) == labels).sum())
    return Accuracy(right / len(labels), wilson_interval(right, len(labels)), len(labels))


def default_thresholds(task: str, tags: int) -> Sequence[float] | None:
    """Return the thresholds of a model without its own; None means the best tag alone."""
    return None if task == "multiclass" else [0.5] * tags


def given(scores: Array, thresholds: Sequence[float] | None) -> npt.NDArray[np.bool_]:
    """Return (N, K) which tags each image gets: those that reach their threshold, or for None the best one."""
    if thresholds is None:
        best: npt.NDArray[np.bool_] = np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
        return best
    reached: npt.NDArray[np.bool_] = np.asarray(scores, dtype=np.float32) >= np.asarray(thresholds, dtype=np.float32)
    return reached


def per_tag(scores: Array, truth: Array, thresholds: Sequence[float] | None, names: Sequence[str]) -> list[TagMetrics]:
    """Return the metrics of every tag, in the order of names; thresholds as in `given`."""
    scores, truth = checked(scores, truth)
    chosen = given(scores, thresholds)
    limits = [None] * len(names) if thresholds is None else [float(value) for value in thresholds]
    return [_tag(name, scores[:, k], truth[:, k], chosen[:, k], limits[k]) for k, name in enumerate(names)]


def _tag(name: str, scores: Array, truth: Array, chosen: Array, threshold: float | None) -> TagMetrics:
    images, predicted, right = int(truth.sum()), int(chosen.sum()), int((truth & chosen).sum())
    return TagMetrics(
        tag=name,
        images=images,
        predicted=predicted,
        threshold=threshold,
        precision=right / predicted if predicted else None,
        precision_interval=wilson_interval(right, predicted),
        recall=right / images if images else None,
        recall_interval=wilson_interval(right, images),
        average_precision=float(sk.average_precision_score(truth, scores)) if images else None,
    )


def mean_average_precision(scores: Array, truth: Array) -> float | None:
    """Return the mean average precision over the tags that have images."""
    scores, truth = checked(scores, truth)
    columns = np.flatnonzero(truth.any(axis=0))
    return _mean([float(sk.average_precision_score(truth[:, k], scores[:, k])) for k in columns])


def bootstrap_interval(scores: Array, truth: Array, resamples: int = 200, seed: int = 0) -> Interval | None:
    """Return the 95% percentile bootstrap interval (Efron 1979) of mean average precision, resampling images.

    Each tag is ranked once; a resample only weights the ranked images, which equals scikit-learn on the resample.
    """
    scores, truth = checked(scores, truth)
    columns = np.flatnonzero(truth.any(axis=0))
    if not len(columns):
        return None
    rng = np.random.default_rng(seed)
    draws = [np.bincount(rng.integers(len(scores), size=len(scores)), minlength=len(scores)) for _ in range(resamples)]
    precisions = np.array([_resampled_precision(scores[:, k], truth[:, k], draws) for k in columns])
    seen = np.isfinite(precisions).any(axis=0)  # a resample may have no image of any tag
    low, high = np.nanpercentile(np.nanmean(precisions[:, seen], axis=0), [2.5, 97.5])
    return float(low), float(high)


def _resampled_precision(scores: Array, truth: Array, draws: Sequence[Array]) -> list[float]:
    order = np.argsort(-scores, kind="stable")
    ranked, hit = scores[order], np.flatnonzero(truth[order])
    end = np.searchsorted(-ranked, -ranked[hit], side="right") - 1  # ties are one point of the curve
    found = []
    for weight in draws:
        ordered = weight[order]
        right = np.cumsum(ordered[hit])
        at_end = right[np.searchsorted(hit, end, side="right") - 1]
        weights = ordered[hit]
        precision = at_end / np.maximum(np.cumsum(ordered)[end], 1)
        found.append(float(weights @ precision / weights.sum()) if weights.any() else math.nan)
    return found


def log_loss(scores: Array, truth: Array, task: str) -> float | None:
    """Return the mean negative log likelihood in nats: per labelled image (multiclass) or per cell (multilabel)."""
    scores, truth = checked(scores, truth, task)
    scores = np.clip(scores.astype(np.float64), SMALLEST, 1 - SMALLEST)
    likelihood = scores[truth] if task == "multiclass" else np.where(truth, scores, 1 - scores)
    return float(-np.log(likelihood).mean()) if likelihood.size else None


LEAST_IN_BIN = 10
"""Minimum number of scores in a bin."""


def reliability_bins(scores: Array, truth: Array, task: str, bins: int = 15) -> Reliability:
    """Return score against accuracy: for multiclass of the best tag of labelled images, for multilabel of all cells.

    Bins have equal numbers of scores (Nixon et al. 2019): most scores are near 0 or 1, so bins of equal width would put
    nearly all of them into one bin and leave noise in the others. There are fewer bins if they would have fewer than
    LEAST_IN_BIN scores, or if scores are equal, which share a bin.
    """
    scores, truth = checked(scores, truth, task)
    if task == "multiclass":
        rows, best = np.flatnonzero(truth.any(axis=1)), scores.argmax(axis=1)
        confidence, right = scores[rows, best[rows]].astype(np.float64), truth[rows, best[rows]]
    else:
        confidence, right = scores.ravel().astype(np.float64), truth.ravel()
    if not len(confidence):
        return Reliability(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))
    bins = max(1, min(bins, len(confidence) // LEAST_IN_BIN))
    inner = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1]))
    bin_of = np.searchsorted(inner, confidence, side="right")
    count = np.bincount(bin_of)
    filled = np.flatnonzero(count)
    promised, true = (np.bincount(bin_of, weights=values)[filled] / count[filled] for values in (confidence, right))
    return Reliability(promised, true, count[filled])


def confusion_matrix(scores: Array, truth: Array) -> npt.NDArray[np.int64]:
    """Return counts (K, K) of multiclass images: the label in the row, the best tag in the column."""
    scores, truth = checked(scores, truth, "multiclass")
    labelled, tags = truth.any(axis=1), range(truth.shape[1])
    labels, best = truth[labelled].argmax(axis=1), scores[labelled].argmax(axis=1)
    counts: npt.NDArray[np.int64] = sk.confusion_matrix(labels, best, labels=tags)
    return counts


def confident_mistakes(scores: Array, truth: Array, most: int) -> npt.NDArray[np.int64]:
    """Return the rows of multiclass images whose best tag is not their label, the highest scores first."""
    wrong = np.flatnonzero(truth[np.arange(len(truth)), scores.argmax(axis=1)] == 0)
    return wrong[np.argsort(-scores.max(axis=1)[wrong], kind="stable")][:most]


def wilson_interval(right: int, total: int) -> Interval:
    """Return the 95% Wilson score interval of a proportion (Wilson 1927); (0, 1) without observations."""
    if total == 0:
        return 0.0, 1.0
    share, z = right / total, 1.96
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def clopper_pearson_lower(right: Array, total: Array, level: float) -> FloatArray:
    """Return the exact lower bounds of proportions (Clopper and Pearson 1934), element-wise for arrays of any shape.

    Each bound is above its proportion with probability `level` at most; without any observations it is 0.
    """
    bound = stats.beta.ppf(level, np.maximum(right, 1), total - right + 1)
    return np.where(right > 0, bound, 0.0)


def checked(scores: Array, truth: Array, task: str | None = None) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return scores (or logits) and truth as (N, K) arrays, truth as bool; raise UsageError if they do not fit."""
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.ndim != 2 or scores.shape != truth.shape or not scores.size:
        raise UsageError(
            f"scores {scores.shape} and truth {truth.shape} must have the same non-empty shape (images, tags)"
        )
    if task not in (None, "multiclass", "multilabel"):
        raise UsageError(f"task {task!r}: must be multiclass or multilabel")
    if len(bad := np.flatnonzero(~np.isfinite(scores).all(axis=1))):
        raise UsageError(
            f"{len(bad)} of {len(scores)} images have a score that is NaN or infinite, the first in row {bad[0]}: "
            "the model overflows; train it with a lower learning rate, or use a more exact precision"
        )
    if not np.isin(truth, (0, 1)).all():
        raise UsageError("truth must have only 0 and 1; remove images without labels")
    if task == "multiclass" and len(several := np.flatnonzero(truth.sum(axis=1) > 1)):
        raise UsageError(f"{len(several)} images have several labels, the first in row {several[0]}: use multilabel")
    return scores, truth.astype(bool)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
