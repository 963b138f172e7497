"""Calibration on the validation split: one temperature for the model, one threshold for every tag."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from tagger.evaluation import metrics
from tagger.evaluation.metrics import Array

COLDEST, HOTTEST = 0.05, 20.0
FEWEST_IMAGES = 20
"""Minimum number of images for a temperature; with fewer, it would overfit."""
STARTS = (1, 2, 4)
"""Starting points of the search for a threshold, in multiples of the fewest images that can prove anything."""


@dataclass(frozen=True)
class Threshold:
    """Lowest score at which a tag is assigned, and its precision on the validation images."""

    tag: str
    threshold: float
    precision: float | None
    """None: no validation image reaches the threshold"""
    lower: float
    """Lower confidence bound of the precision; reaches the target when the status is ok"""
    images: int
    """Validation images that have the label."""
    predicted: int
    """Validation images that get the tag."""
    status: str
    """ok | too few | not reached"""
    needed: int | None
    """Additional validation images with the label that would prove it; 0 if ok, None if more would not help."""


def fit_temperature(logits: Array, truth: Array, task: str) -> float:
    """Return the temperature T that makes logits / T fit truth best, both (N, K) (Guo et al. 2017), from 0.05 to 20.

    The likelihood includes one pseudo-image with a uniform label distribution; otherwise a perfectly separated
    validation set would lead to certainty (as in Platt 1999). Known negatives of a multiclass task are ignored. Returns
    1 if fewer than 20 images remain, or all have the same label.
    """
    logits, truth = metrics.checked(logits, truth, task)
    if task == "multiclass":
        labelled = truth.any(axis=1)
        logits, truth = logits[labelled], truth[labelled]
    different = len(np.unique(truth, axis=0)) if task == "multiclass" else len(np.unique(truth))
    if len(logits) < FEWEST_IMAGES or different < 2:
        return 1.0
    prior = 1 / logits.shape[1] if task == "multiclass" else 0.5
    target = (truth * len(truth) + prior) / (len(truth) + 1)
    wide = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return _negative_log_likelihood(wide / math.exp(log_temperature), target, task)

    found = optimize.minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    return float(np.clip(math.exp(found.x), COLDEST, HOTTEST))


def _negative_log_likelihood(logits: Array, target: Array, task: str) -> float:
    if task == "multiclass":
        return float(-(target * special.log_softmax(logits, axis=1)).sum(axis=1).mean())
    return float((np.logaddexp(0, logits) - target * logits).mean())


def learn_thresholds(
    scores: Array, truth: Array, names: Sequence[str], precision_target: float = 0.9, confidence: float = 0.95
) -> list[Threshold]:
    """Return for every tag the lowest threshold whose precision is at least the target, with the given confidence.

    scores (N, K) are probabilities after the temperature; an image gets a tag if its score >= threshold in float32. The
    method is `_Proof`; the confidence holds for the whole search of a tag, not only for one test.

    A tag gets the status "too few" if even a perfect ranking of its images could prove nothing; its threshold is then
    the one learnt on all tags together. "not reached" means that no threshold could be proven; the tag gets the one
    with the best lower bound. Both are best guesses without a guarantee.
    """
    scores, truth = metrics.checked(scores, truth)
    scores = scores.astype(np.float32)
    proof = _Proof(precision_target, (1 - confidence) / len(STARTS))
    pooled = _Ranking.of(scores.ravel(), truth.ravel())
    place = proof.lowest(pooled)
    common = pooled.threshold(proof.best(pooled) if place is None else place)
    return [_learn(name, scores[:, k], truth[:, k], proof, common) for k, name in enumerate(names)]


def _learn(name: str, scores: Array, truth: Array, proof: _Proof, common: float) -> Threshold:
    ranking, images = _Ranking.of(scores, truth), int(truth.sum())
    threshold, status = common, "too few"
    needed: int | None = proof.fewest - images
    if images >= proof.fewest and (place := proof.lowest(ranking)) is not None:
        threshold, status, needed = ranking.threshold(place), "ok", 0
    elif images >= proof.fewest:
        place = proof.best(ranking)
        threshold, status, needed = ranking.threshold(place), "not reached", proof.needed(ranking, place, images)
    chosen = scores >= np.float32(threshold)
    predicted, right = int(chosen.sum()), int((chosen & truth).sum())
    precision = right / predicted if predicted else None
    lower = float(metrics.clopper_pearson_lower(np.array(right), np.array(predicted), proof.level))
    return Threshold(name, threshold, precision, lower, images, predicted, status, needed)


@dataclass(frozen=True)
class _Ranking:
    """One tag's images at every threshold between two distinct scores, highest first; arrays (thresholds,)."""

    thresholds: npt.NDArray[np.float32]
    predicted: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]

    @classmethod
    def of(cls, scores: Array, truth: Array) -> _Ranking:
        """Rank scores (N,) float32; thresholds are midway between neighbours, so that equal scores stay together."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        last = np.flatnonzero(np.append(ranked[:-1] != ranked[1:], True))
        score = ranked[last]
        below = np.append(score[1:], np.float32(0))
        middle = score / 2 + below / 2
        thresholds = np.where(middle > below, middle, score)  # no float32 is between adjacent ones
        inside = (thresholds > 0) & (thresholds < 1)
        return cls(thresholds[inside], (last + 1)[inside], np.cumsum(truth[order])[last][inside])

    def threshold(self, place: int | None) -> float:
        """Return the threshold at an index; 0.5 for None."""
        return 0.5 if place is None else float(self.thresholds[place])


@dataclass(frozen=True)
class _Proof:
    """Proof that a tag's precision reaches a target, testing many thresholds without a multiple-comparisons error.

    Taking the lowest of all thresholds whose bound holds would pick the luckiest of hundreds of tests. So the
    thresholds are tested in a fixed order, from the top down, stopping at the first that fails; then each test may use
    the whole level (fixed-sequence testing: Maurer et al. 1995; Learn then Test: Angelopoulos et al. 2021). The order
    is by the number of images predicted, at the counts where one more mistake becomes tolerable; in between, a failure
    would mean nothing. It depends on scores, not on truth. One early mistake at the top would end the search, so it has
    several starting points (`STARTS`), which share the level, and the lowest threshold proven from any of them is used.

    Each test is an exact binomial test; it passes if the one-sided Clopper-Pearson bound reaches the target. Stopping
    only at such counts costs about 1% of recall at 100 to 200 images per tag, and is the margin for the sampling noise
    of a check on as many other images (`benchmarks/thresholds.py`).

    The guarantee holds per tag, not for the set of proven tags: of tags that never reach the target, 5% pass by chance.
    """

    target: float
    level: float
    """Error allowed to each start"""

    @property
    def fewest(self) -> int:
        """Return how many images, all correct, prove the target: the first n with target**n <= level."""
        return max(1, math.ceil(math.log(self.level) / math.log(self.target) - 1e-9))

    def lowest(self, ranking: _Ranking) -> int | None:
        """Return the index of the lowest proven threshold."""
        places = self._sequence(ranking)
        predicted, right = ranking.predicted[places], ranking.right[places]
        holds = stats.binom.cdf(predicted - right, predicted, 1 - self.target) <= self.level * (1 + 1e-9)
        found = []
        for start in STARTS:
            first = int(np.searchsorted(predicted, start * self.fewest))
            failed = np.flatnonzero(~holds[first:])
            end = first + int(failed[0]) if len(failed) else len(holds)
            found += [int(places[end - 1])] if end > first else []
        return max(found, default=None)

    def best(self, ranking: _Ranking) -> int | None:
        """Return the index with the best lower bound; None if no threshold gives a correct tag."""
        places = self._sequence(ranking)
        if not len(places):  # fewer images than prove anything
            places = np.arange(len(ranking.thresholds))
        if not ranking.right[places].any():
            return None
        lower = metrics.clopper_pearson_lower(ranking.right[places], ranking.predicted[places], self.level)
        return int(places[lower.argmax()])

    def needed(self, ranking: _Ranking, place: int | None, images: int) -> int | None:
        """Return how many more images with the label prove the target, if the precision at an index stays the same."""
        if place is None:
            return None
        predicted = int(ranking.predicted[place])
        share = int(ranking.right[place]) / predicted
        if share <= self.target:
            return None
        z = float(stats.norm.isf(self.level))
        enough = max(self.fewest, z * z * share * (1 - share) / (share - self.target) ** 2)
        return max(1, math.ceil(images * (enough / predicted - 1)))

    def _sequence(self, ranking: _Ranking) -> npt.NDArray[np.int64]:
        """Return the indices to test, top down: where one more mistake becomes tolerable, at most about 1000."""
        if not len(ranking.predicted):
            return np.empty(0, dtype=np.int64)
        most = int(ranking.predicted[-1])
        mistakes = np.unique(np.geomspace(1, 1 + most * (1 - self.target), 1000).astype(np.int64)) - 1
        # mistakes k are tolerable among n images when the (k + 1)th would come after n images with probability <= level
        counts = mistakes + 1 + stats.nbinom.isf(self.level, mistakes + 1, 1 - self.target)
        places = np.searchsorted(ranking.predicted, counts)
        return np.unique(places[places < len(ranking.predicted)])
