"""Linear probe: logistic regression on frozen features, its regularisation chosen on validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special
from sklearn.linear_model import LogisticRegression

from tagger.evaluation import metrics
from tagger.inference.engines import Float32Array
from tagger.training.config import TrainConfig

STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)
"""Candidate inverse L2 regularisation strengths, on standardised features."""
MAX_ITERATIONS = 500

Part = tuple[Float32Array, Float32Array]
"""Features (N, D) and targets (N, K) of a split."""


@dataclass(frozen=True)
class Probe:
    """logits = features @ weight.T + bias"""

    weight: Float32Array
    """(K, D)"""
    bias: Float32Array
    """(K,)"""
    strength: float

    def __call__(self, features: Float32Array) -> Float32Array:
        """Return logits (N, K)."""
        logits: Float32Array = features @ self.weight.T + self.bias
        return logits


def fit(train: Part, validation: Part, config: TrainConfig) -> Probe:
    """Fit a classifier for every strength; return the one with the lowest log-loss on validation."""
    (features, truth), (val_features, val_truth) = train, validation
    mean, deviation = features.mean(axis=0), features.std(axis=0) + np.float32(1e-6)
    scaled: Float32Array = ((features - mean) / deviation).astype(np.float32)
    probes = []
    for strength in STRENGTHS:
        weight, bias = _logistic(scaled, truth, strength, config)
        unscaled = weight / deviation
        probes.append(Probe(unscaled.astype(np.float32), (bias - unscaled @ mean).astype(np.float32), strength))

    def loss(probe: Probe) -> float:
        return metrics.log_loss(scores_of(probe(val_features), config.task), val_truth, config.task) or 0.0

    return min(probes, key=loss)


def scores_of(logits: Float32Array, task: str) -> Float32Array:
    """Return probabilities: softmax or sigmoid."""
    scores: Float32Array = special.expit(logits) if task == "multilabel" else special.softmax(logits, axis=1)
    return scores


def _logistic(
    features: Float32Array, truth: Float32Array, strength: float, config: TrainConfig
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return weight (K, D) and bias (K,)."""
    if config.task == "multilabel":
        rows = [_binary(features, truth[:, index], strength, config) for index in range(truth.shape[1])]
        return np.stack([row[0] for row in rows]), np.array([row[1] for row in rows])
    labelled = truth.any(axis=1)  # images known to have no label have no class
    fitted = _regression(strength, config).fit(features[labelled], truth[labelled].argmax(axis=1))
    weight = np.zeros((truth.shape[1], features.shape[1]))
    bias = np.full(truth.shape[1], -30.0)  # a class without training images is never predicted
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:
        coefficients, intercepts = np.stack([-coefficients[0], coefficients[0]]) / 2, np.array([-1, 1]) * intercepts / 2
    weight[fitted.classes_], bias[fitted.classes_] = coefficients, intercepts
    return weight, bias


def _binary(
    features: Float32Array, truth: Float32Array, strength: float, config: TrainConfig
) -> tuple[npt.NDArray[np.float64], float]:
    if truth.min() == truth.max():
        return np.zeros(features.shape[1]), -30.0 if truth.max() == 0 else 30.0
    fitted = _regression(strength, config).fit(features, truth > 0.5)
    return fitted.coef_[0], float(fitted.intercept_[0])


def _regression(strength: float, config: TrainConfig) -> LogisticRegression:
    weights = "balanced" if config.class_weights else None
    return LogisticRegression(C=strength, class_weight=weights, max_iter=MAX_ITERATIONS)
