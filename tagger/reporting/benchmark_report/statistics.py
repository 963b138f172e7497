"""Statistics of scores against the truth, for the figures."""

from __future__ import annotations

import numpy as np
from scipy import stats

from tagger.evaluation import metrics
from tagger.evaluation.metrics import Array
from tagger.reporting.benchmark_report.data import BenchmarkReport, ModelRuns


def commonest(report: BenchmarkReport) -> tuple[str, float]:
    """Return the most frequent label of the test images and its share."""
    images = np.bincount(report.truth)
    return report.label_names[int(images.argmax())], float(images.max() / len(report.truth))


def per_class(report: BenchmarkReport, model: ModelRuns) -> Array:
    """Return the accuracy on the images of each class (K,), the mean over seeds; NaN for a class without images."""
    truth, classes = report.truth, len(report.label_names)
    images = np.bincount(truth, minlength=classes)
    hits = [np.bincount(truth[run.scores.argmax(axis=1) == truth], minlength=classes) for run in model.runs]
    shares: Array = np.divide(np.mean(hits, axis=0), images, out=np.full(classes, np.nan), where=images > 0)
    return shares


def reliability(report: BenchmarkReport, model: ModelRuns) -> metrics.Reliability:
    """Return the reliability bins of the shown run."""
    return metrics.reliability_bins(model.shown.scores, _one_hot(report), "multiclass")


def confusion(report: BenchmarkReport, model: ModelRuns) -> Array:
    """Return the confusion matrix (K, K) of the shown run."""
    return metrics.confusion_matrix(model.shown.scores, _one_hot(report))


def mcnemar(report: BenchmarkReport, one: ModelRuns, other: ModelRuns) -> float:
    """Return the p-value of McNemar's exact two-sided test of the shown runs (McNemar 1947)."""
    first, second = (model.shown.scores.argmax(axis=1) == report.truth for model in (one, other))
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def _one_hot(report: BenchmarkReport) -> Array:
    truth: Array = report.truth[:, None] == np.arange(len(report.label_names))
    return truth
