"""Labels that look wrong: confident learning on out-of-sample scores.

Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels"; of several labels per
image each one against the rest, as Thyagarajan et al. 2022, "Identifying Incorrect Annotations in Multi-Label
Classification Data". Two classifiers on frozen features are combined, since their mistakes differ: linear discriminant
analysis and nearest neighbours (python -m benchmarks.suggest labels). Neither is trained by steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse, special

from tagger.checkpoint.unknown import Float32Array, unit
from tagger.evaluation.metrics import Array

FOLDS, REPEATS = 5, 2
SHRINKAGE = 0.8
"""Weight of the identity in the covariance of the standardised features; wrong labels affect a simple model less."""
NEIGHBOURS, TEMPERATURE = 60, 0.1
"""Number of nearest neighbours by cosine, whose votes have the weight exp(cosine / temperature)."""
COMPARED = 20_000
"""Maximum number of images that each image is compared with."""
_BLOCK = 2_000

IntArray = npt.NDArray[np.int64]
Classifier = Callable[[Float32Array, Float32Array, Float32Array], Array]
"""features (N, D), truth (N, K), queries (M, D) -> logits (M, K)"""


def out_of_sample(features: Float32Array, truth: Float32Array, groups: IntArray, task: str) -> Float32Array:
    """Return scores (N, K) of each image from classifiers that were not trained on it or on others of its group (N,).

    A score is NaN if the other folds do not have the label.
    """
    classify = _of_one if task == "multiclass" else _of_several
    logits = np.mean([_held_out(features, truth, groups, classify, seed) for seed in range(REPEATS)], axis=0)
    scores: Float32Array = special.expit(logits) if task == "multilabel" else _softmax(logits)
    return scores


def _softmax(logits: Array) -> Array:
    """Return the softmax over the labels that are not NaN."""
    found = special.softmax(np.where(np.isnan(logits), -np.inf, logits), axis=1)
    return np.where(np.isnan(logits), np.nan, found)


def _held_out(features: Float32Array, truth: Float32Array, groups: IntArray, classify: Classifier, seed: int) -> Array:
    """Return logits (N, K) of one round of cross-validation."""
    folds = _folds(truth, groups, seed)
    logits = np.full(truth.shape, np.nan, dtype=np.float32)
    for fold in range(FOLDS):
        held = folds == fold
        labels = truth[~held].any(axis=0)
        if held.any() and labels.any():
            logits[np.ix_(held, labels)] = classify(features[~held], truth[~held][:, labels], features[held])
    return logits


def _folds(truth: Float32Array, groups: IntArray, seed: int) -> IntArray:
    """Return the fold (N,) of each image; groups are not split, and labels are spread over the folds."""
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    ordered = shuffled[np.argsort(truth[first[shuffled]].argmax(axis=1), kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[ordered] = np.arange(len(first)) % FOLDS
    return fold[place]


def _of_one(features: Float32Array, truth: Float32Array, queries: Float32Array) -> Array:
    """Return logits (M, K) for one label per image; images without a label are ignored."""
    labelled = truth.any(axis=1)
    features, truth = features[labelled], truth[labelled]
    rows, asked = _standardised(features, queries)
    counts = truth.sum(axis=0)
    means = truth.T @ rows / counts[:, None]
    weight = _solve(rows - truth @ means, means.T)
    bias = np.log(counts / len(rows)) - (means.T * weight).sum(axis=0) / 2
    discriminant: Array = special.log_softmax(asked @ weight + bias, axis=1)
    logits: Array = (discriminant + 2 * np.log(_votes(features, truth, queries))) / 3
    return logits


def _of_several(features: Float32Array, truth: Float32Array, queries: Float32Array) -> Array:
    """Return logits (M, K) for any number of labels per image, one against the rest."""
    rows, asked = _standardised(features, queries)
    counts = truth.sum(axis=0)
    rest = np.maximum(len(rows) - counts, 0.5)
    means, others = truth.T @ rows / counts[:, None], (1 - truth).T @ rows / rest[:, None]
    weight = _solve(rows, (means - others).T)
    bias = np.log(counts / rest) - ((means + others).T * weight).sum(axis=0) / 2
    votes: Array = special.logit(_votes(features, truth, queries))
    logits: Array = (asked @ weight + bias + 2 * votes) / 3
    return logits


def _standardised(features: Float32Array, queries: Float32Array) -> tuple[Float32Array, Float32Array]:
    mean, deviation = features.mean(axis=0), features.std(axis=0) + np.float32(1e-6)
    return (features - mean) / deviation, (queries - mean) / deviation


def _solve(residuals: Float32Array, targets: Float32Array) -> Array:
    """Return the inverse of the shrunken covariance of residuals (N, D), times targets (D, K)."""
    covariance = residuals.T @ residuals / len(residuals)
    size = len(covariance)
    shrunken = (1 - SHRINKAGE) * covariance + (SHRINKAGE * np.trace(covariance) / size + 1e-6) * np.eye(size)
    solved: Array = linalg.solve(shrunken, targets, assume_a="pos")
    return solved


def _votes(features: Float32Array, truth: Float32Array, queries: Float32Array) -> Array:
    """Return the share (M, K) of each label among the nearest neighbours; never 0 or 1."""
    chosen = np.random.default_rng(0).permutation(len(features))[:COMPARED]
    mean = features[chosen].mean(axis=0)
    rows, truth, most = unit(features[chosen] - mean), truth[chosen], min(NEIGHBOURS, len(chosen))
    found = [np.empty((0, truth.shape[1]))]
    for start in range(0, len(queries), _BLOCK):
        cosines = unit(queries[start : start + _BLOCK] - mean) @ rows.T
        nearest = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        weights = np.exp(np.take_along_axis(cosines, nearest, axis=1) / TEMPERATURE)
        places = np.arange(0, weights.size + 1, most)
        votes = sparse.csr_array((weights.ravel(), nearest.ravel(), places), (len(weights), len(rows))) @ truth
        prior = weights.mean(axis=1, keepdims=True) / 2
        found.append((votes + prior) / (weights.sum(axis=1, keepdims=True) + prior * max(2, truth.shape[1])))
    return np.concatenate(found)


def find(scores: Array, truth: Array, task: str) -> list[tuple[int, float]]:
    """Return rows whose labels look wrong, each with a confidence from 0 to 1, highest first.

    A label is likely if its score reaches the mean score of the images that have it. An image is suspect if another
    label is the most likely of these; for several labels, if the opposite of one is likely. Images whose own label has
    the lowest score come first.
    """
    doubts = _doubts_of_one(scores, truth) if task == "multiclass" else _doubts_of_several(scores, truth)
    order = np.argsort(-doubts, kind="stable")
    return [(int(row), float(doubts[row])) for row in order if doubts[row] > 0]


def _doubts_of_one(scores: Array, truth: Array) -> Array:
    """Return (N,): 1 minus the score of the label; 0 for an image that is not suspect."""
    has = truth > 0
    scores = np.nan_to_num(scores, nan=-1)
    own = np.where(has, scores, -1).max(axis=1)
    limits = _means(scores, has & (own >= 0)[:, None])
    likely = np.where(scores >= limits, scores, -1)
    suspect = np.where(has, -1, likely).max(axis=1) > np.where(has, likely, -1).max(axis=1)
    return np.where(suspect & (own >= 0), np.maximum(1 - own, 1e-6), 0)


def _doubts_of_several(scores: Array, truth: Array) -> Array:
    """Return (N,): the score against the least likely label; 0 for an image that is not suspect."""
    has = truth > 0
    limits = [
        _means(np.nan_to_num(each), rows & np.isfinite(scores)) for rows, each in ((has, scores), (~has, 1 - scores))
    ]
    opposite = np.where(has, 1 - scores, scores)
    suspect = (opposite > 0.5) & (opposite >= np.where(has, limits[1], limits[0]))
    doubts: Array = np.where(suspect, opposite, 0).max(axis=1)
    return doubts


def _means(scores: Array, rows: Array) -> Array:
    """Return the mean score of each label (K,) over its rows (N, K); 2 for a label without rows."""
    counts = rows.sum(axis=0)
    return np.where(counts > 0, (scores * rows).sum(axis=0) / np.maximum(counts, 1), 2.0)
