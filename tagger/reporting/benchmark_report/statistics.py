"""Statistics of scores against the truth: the arrays behind the figures."""

from __future__ import annotations

import numpy as np
from scipy import stats

from tagger.evaluation import metrics
from tagger.evaluation.metrics import Array
from tagger.reporting.benchmark_report.data import BenchmarkReport, ModelRuns


def with_scores(report: BenchmarkReport) -> list[ModelRuns]:
    """Return the models whose shown run has finite scores for every test image.

    Raises ValueError when scores, truth and label names do not fit.
    """
    if report.truth is None or not len(report.truth):
        return []
    shape = len(report.truth), len(report.label_names)
    for run in report.runs:
        if run.scores is not None and np.shape(run.scores) != shape:
            raise ValueError(f"scores of {run.model}, seed {run.seed}: {np.shape(run.scores)}, must be {shape}")
    return [
        model for model in report.models if (scores := model.shown.scores) is not None and np.isfinite(scores).all()
    ]


def commonest(report: BenchmarkReport) -> tuple[str, float] | None:
    """Return the most frequent label of the test images and its share; None without test images."""
    if report.truth is None or not len(report.truth):
        return None
    images = np.bincount(report.truth)
    return report.label_names[int(images.argmax())], float(images.max() / len(report.truth))


def per_class(report: BenchmarkReport, model: ModelRuns) -> Array:
    """Return the accuracy on the images of each class (K,), the mean over seeds; NaN for a class without images."""
    truth, classes = np.asarray(report.truth), len(report.label_names)
    images = np.bincount(truth, minlength=classes)
    scores = [run.scores for run in model.runs if run.scores is not None and np.isfinite(run.scores).all()]
    hits = [np.bincount(truth[each.argmax(axis=1) == truth], minlength=classes) for each in scores]
    shares: Array = np.divide(np.mean(hits, axis=0), images, out=np.full(classes, np.nan), where=images > 0)
    return shares


def reliability(report: BenchmarkReport, model: ModelRuns) -> metrics.Reliability:
    """Return the reliability bins of the shown run."""
    return metrics.reliability_bins(np.asarray(model.shown.scores), _one_hot(report), "multiclass")


def confusion(report: BenchmarkReport, model: ModelRuns) -> Array:
    """Return the confusion matrix (K, K) of the shown run."""
    return metrics.confusion_matrix(np.asarray(model.shown.scores), _one_hot(report))


def mcnemar(report: BenchmarkReport, one: ModelRuns, other: ModelRuns) -> float | None:
    """Return the p-value of McNemar's exact two-sided test of the shown runs (McNemar 1947); None without scores."""
    if report.truth is None or one.shown.scores is None or other.shown.scores is None:
        return None
    first, second = (np.asarray(model.shown.scores).argmax(axis=1) == report.truth for model in (one, other))
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def _one_hot(report: BenchmarkReport) -> Array:
    truth: Array = np.asarray(report.truth)[:, None] == np.arange(len(report.label_names))
    return truth
