"""Labels that look wrong: confident learning on out-of-sample scores.

Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels"; of several labels per
image each one against the rest, as Thyagarajan et al. 2022, "Identifying Incorrect Annotations in Multi-Label
Classification Data". The classifier is linear discriminant analysis on frozen features: it has a closed form, so that
five folds of 50,000 images take seconds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import linalg, special

from tagger.evaluation.metrics import Array

FOLDS = 5
SHRINKAGE = 0.3
"""Share of the identity in the covariance of the standardised features."""

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def out_of_sample(features: Array, truth: Array, groups: IntArray, task: str) -> Float32Array:
    """Return scores (N, K) of each image by a classifier that has seen neither it nor others of its group (N,).

    NaN where the other folds do not have the label.
    """
    folds = _folds(truth, groups)
    scores = np.full(truth.shape, np.nan, dtype=np.float32)
    for fold in range(FOLDS):
        held = folds == fold
        labels = truth[~held].any(axis=0)
        if held.any() and labels.any():
            scores[np.ix_(held, labels)] = _discriminate(features[~held], truth[~held][:, labels], features[held], task)
    return scores


def _folds(truth: Array, groups: IntArray, seed: int = 0) -> IntArray:
    """Return the fold (N,) of each image: no group is in two, and each label is spread over all of them."""
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(first))
    ordered = shuffled[np.argsort(truth[first[shuffled]].argmax(axis=1), kind="stable")]
    fold = np.empty(len(first), dtype=np.int64)
    fold[ordered] = np.arange(len(first)) % FOLDS
    return fold[place]


def _discriminate(features: Array, truth: Array, queries: Array, task: str) -> Float32Array:
    """Return scores (N, K) of queries by linear discriminant analysis with one shrunken covariance for all labels."""
    labelled = truth.any(axis=1) | (task == "multilabel")
    features, truth = features[labelled], truth[labelled]
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    rows, asked = (features - mean) / deviation, (queries - mean) / deviation
    counts = truth.sum(axis=0)
    means, total = truth.T @ rows / counts[:, None], rows.sum(axis=0)
    if task == "multiclass":
        weight = _solve(rows - truth @ means, means.T)
        bias = np.log(counts / len(rows)) - (means.T * weight).sum(axis=0) / 2
        return special.softmax(asked @ weight + bias, axis=1).astype(np.float32)
    rest = np.maximum(len(rows) - counts, 0.5)
    others = (total - truth.T @ rows) / rest[:, None]
    weight = _solve(rows, (means - others).T)
    bias = np.log(counts / rest) - ((means + others).T * weight).sum(axis=0) / 2
    return special.expit(asked @ weight + bias).astype(np.float32)


def _solve(residuals: Array, targets: Array) -> Array:
    """Return the inverse of the shrunken covariance of residuals (N, D), times targets (D, K)."""
    covariance = residuals.T @ residuals / len(residuals)
    size = len(covariance)
    shrunken = (1 - SHRINKAGE) * covariance + (SHRINKAGE * np.trace(covariance) / size + 1e-6) * np.eye(size)
    return linalg.solve(shrunken, targets, assume_a="pos")


def find(scores: Array, truth: Array, task: str) -> list[tuple[int, float]]:
    """Return rows whose labels look wrong, with how clearly from 0 to 1, the clearest first.

    A label is likely where its score reaches the mean score of the images that have it. An image is suspect where
    another label is the likeliest of these; with several labels, where the opposite of one is likely.
    """
    doubts = _doubts_of_one(scores, truth) if task == "multiclass" else _doubts_of_several(scores, truth)
    order = np.argsort(-doubts, kind="stable")
    return [(int(row), float(doubts[row])) for row in order if doubts[row] > 0]


def _doubts_of_one(scores: Array, truth: Array) -> Array:
    """Return (N,): half of 1 plus the margin of the best other label over the own one; 0 where nothing is suspect."""
    has = truth > 0
    scores = np.nan_to_num(scores, nan=-1)
    known = has.any(axis=1) & ((scores * has).sum(axis=1) >= 0)
    limits = _means(scores, has & known[:, None])
    likely = np.where(scores >= limits, scores, -1)
    own, other = np.where(has, scores, -1).max(axis=1), np.where(has, -1, scores).max(axis=1)
    suspect = known & (np.where(has, -1, likely).max(axis=1) > np.where(has, likely, -1).max(axis=1))
    return np.where(suspect, np.clip((1 + other - own) / 2, 1e-6, 1), 0)


def _doubts_of_several(scores: Array, truth: Array) -> Array:
    """Return (N,): the score of the opposite of the least likely label; 0 where nothing is suspect."""
    has = truth > 0
    limits = [
        _means(np.nan_to_num(each), rows & np.isfinite(scores)) for rows, each in ((has, scores), (~has, 1 - scores))
    ]
    opposite = np.where(has, 1 - scores, scores)
    suspect = (opposite > 0.5) & (opposite >= np.where(has, limits[1], limits[0]))
    return np.where(suspect, opposite, 0).max(axis=1)


def _means(scores: Array, rows: Array) -> Array:
    """Return the mean score of each label (K,) over its rows (N, K); 2 where there are none."""
    counts = rows.sum(axis=0)
    return np.where(counts > 0, (scores * rows).sum(axis=0) / np.maximum(counts, 1), 2.0)
