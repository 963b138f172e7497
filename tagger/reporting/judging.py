"""What scores say against the truth: the arrays that plots are drawn from."""

from __future__ import annotations

import numpy as np
from scipy import stats

from tagger.evaluation import metrics
from tagger.reporting.facts import Array, Ladder, Rung


def judged(ladder: Ladder) -> list[Rung]:
    """Return the rungs whose shown run has scores for every test image, finite ones.

    Raises ValueError when scores, truth and label names do not fit.
    """
    if ladder.truth is None or not len(ladder.truth):
        return []
    shape = len(ladder.truth), len(ladder.label_names)
    for run in ladder.runs:
        if run.scores is not None and np.shape(run.scores) != shape:
            raise ValueError(f"scores of {run.model}, seed {run.seed}: {np.shape(run.scores)}, must be {shape}")
    return [rung for rung in ladder.rungs if (shown := rung.shown.scores) is not None and np.isfinite(shown).all()]


def one_hot(ladder: Ladder) -> Array:
    """Return the truth as (N, K)."""
    truth: Array = np.asarray(ladder.truth)[:, None] == np.arange(len(ladder.label_names))
    return truth


def per_class(ladder: Ladder, rung: Rung) -> Array:
    """Return the accuracy on the images of each class (K,), the mean over seeds; NaN for a class without images."""
    truth, classes = np.asarray(ladder.truth), len(ladder.label_names)
    images = np.bincount(truth, minlength=classes)
    scores = [run.scores for run in rung.runs if run.scores is not None and np.isfinite(run.scores).all()]
    hits = [np.bincount(truth[each.argmax(axis=1) == truth], minlength=classes) for each in scores]
    shares: Array = np.divide(np.mean(hits, axis=0), images, out=np.full(classes, np.nan), where=images > 0)
    return shares


def reliability(ladder: Ladder, rung: Rung) -> metrics.Reliability:
    """Return the bins of the shown run."""
    return metrics.reliability_bins(np.asarray(rung.shown.scores), one_hot(ladder), "multiclass")


def probability_by_chance(ladder: Ladder, one: Rung, other: Rung) -> float | None:
    """Return how probable so large a difference of two models is on these images when neither is better.

    McNemar's exact test of the shown runs, two-sided; None without scores. Source: McNemar 1947.
    """
    if ladder.truth is None or one.shown.scores is None or other.shown.scores is None:
        return None
    first, second = (np.asarray(rung.shown.scores).argmax(axis=1) == ladder.truth for rung in (one, other))
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def confusion(ladder: Ladder, rung: Rung) -> Array:
    """Return the counts (K, K) of the shown run."""
    return metrics.confusion_matrix(np.asarray(rung.shown.scores), one_hot(ladder))
