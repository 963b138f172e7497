"""Tests for drift: whether two samples differ by more than chance, and by how much.

Every effect is a share from 0 to 1, and (nearly) a lower bound on the share of the images that differ: with a million
rows everything is significant, so that the effect decides and the test only rules out chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.spatial.distance import jensenshannon

from tagger.evaluation.metrics import Array

LEAST = 30
"""Values per sample below which nothing is tested."""
_EXPECTED = 5.0
"""Categories expected less often in a sample are taken together: the chi-squared test needs it (Cochran 1954)."""
_FOLDS, _SHUFFLES = 5, 100
_NEIGHBOURS, _UNLIKE = 5, 0.02


@dataclass(frozen=True)
class Difference:
    """The difference of two samples."""

    effect: float
    p_value: float


def compare_values(reference: Array, current: Array) -> Difference | None:
    """Compare two samples of numbers: Kolmogorov and Smirnov's distance and test; None when one is too small.

    The distance is the largest difference of the shares of values below any limit.
    """
    if min(len(reference), len(current)) < LEAST:
        return None
    found = stats.ks_2samp(reference, current, method="asymp")
    return Difference(float(found.statistic), float(found.pvalue))


def compare_counts(reference: Array, current: Array) -> Difference | None:
    """Compare two rows of counts per category (K,): total variation distance and the chi-squared test.

    The distance is the smallest share of one sample that would have to change category. Rare categories are taken
    together. None when a sample is too small, or all categories are rare.
    """
    counts = np.stack([reference, current]).astype(np.float64)
    if counts.sum(axis=1).min() < LEAST:
        return None
    if counts.any(axis=0).sum() == 1:
        return Difference(0.0, 1.0)
    counts = _pooled(counts)
    if counts.shape[1] < 2:
        return None
    shares = counts / counts.sum(axis=1, keepdims=True)
    p_value = stats.chi2_contingency(counts, correction=False).pvalue
    return Difference(float(np.abs(shares[0] - shares[1]).sum() / 2), float(p_value))


def _pooled(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Take rare categories together, and drop those that are empty."""
    totals = counts.sum(axis=1)
    expected = counts.sum(axis=0) * totals.min() / totals.sum()
    common = expected >= _EXPECTED
    pooled = np.column_stack([counts[:, common], counts[:, ~common].sum(axis=1)])
    return pooled[:, pooled.any(axis=0)]


def jensen_shannon(reference: Array, current: Array) -> float:
    """Return the Jensen-Shannon distance of two rows of counts, from 0 to 1."""
    return float(jensenshannon(reference, current, base=2)) if reference.any() and current.any() else 0.0


def classify_domains(
    reference: Array, current: Array, seed: int = 0
) -> tuple[Difference, npt.NDArray[np.float64]] | None:
    """Tell two samples of embeddings (N, D) apart by a ridge classifier, five-fold cross-validated.

    Returns 2 AUC - 1, tested against the AUCs of shuffled periods, and the out-of-fold score of each row, those of the
    reference first: the higher, the more like the current ones. The AUCs of cross-validation spread more than those of
    independent scores, hence the shuffling. None when a sample is too small.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len(reference), len(current)) < LEAST:
        return None
    features = np.concatenate([reference, current]).astype(np.float32)
    periods = np.repeat([0.0, 1.0], [len(reference), len(current)])
    rng = np.random.default_rng(seed)
    targets = np.column_stack([periods, *(rng.permutation(periods) for _ in range(_SHUFFLES))])
    classifier = make_pipeline(StandardScaler(), Ridge(alpha=len(features)))
    scores = cross_val_predict(classifier, features, targets, cv=KFold(_FOLDS, shuffle=True, random_state=seed))
    areas = _areas(scores, targets)
    z = (areas[0] - areas[1:].mean()) / areas[1:].std()
    return Difference(max(0.0, 2 * float(areas[0]) - 1), float(stats.norm.sf(z))), scores[:, 0]


def _areas(scores: Array, targets: Array) -> npt.NDArray[np.float64]:
    """Return the area under the ROC curve of each column of scores (N, K) for targets of 0 and 1."""
    positive = targets.sum(axis=0)
    sums = (stats.rankdata(scores, axis=0) * targets).sum(axis=0)
    areas: npt.NDArray[np.float64] = (sums - positive * (positive + 1) / 2) / (positive * (len(targets) - positive))
    return areas


def find_novel(reference: Array, current: Array, seed: int = 0) -> tuple[Difference, npt.NDArray[np.float64]] | None:
    """Count embeddings (N, D) that are unlike the reference: few of them among many move no mean and no AUC.

    One is unlike it when its distance from the reference is over that of all but 2% of the reference's own (left out
    one by one): the cosine distance of standardised embeddings to the fifth nearest. Returns the share of these, less
    the reference's, and each distance. The mean distance over that limit is tested against that of shuffled periods:
    foreign images that are in both halves of a shuffle are near to each other. None when a sample is too small.
    """
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import StandardScaler

    if min(len(reference), len(current)) < LEAST:
        return None
    features = StandardScaler().fit_transform(np.concatenate([reference, current]).astype(np.float32))
    now = np.repeat([False, True], [len(reference), len(current)])
    search = NearestNeighbors(n_neighbors=_reach(now), metric="cosine", algorithm="brute").fit(features)
    distances, neighbours = search.kneighbors()
    rng = np.random.default_rng(seed)
    periods = (rng.permutation(now) for _ in range(_SHUFFLES))
    shuffled = [_excess(_nearby(distances, ~each[neighbours]), each)[1] for each in periods]
    exact = _distances(features, ~now)
    share, mean = _excess(exact, now)
    return Difference(max(0.0, share), _tail(mean, np.array(shuffled))), exact[now]


def _reach(now: npt.NDArray[np.bool_]) -> int:
    """Return the number of neighbours among which, of shuffled periods, there are enough of the reference."""
    return min(len(now) - 1, 4 * _NEIGHBOURS * len(now) // int((~now).sum()))


def _nearby(distances: Array, inside: npt.NDArray[np.bool_]) -> Array:
    """Return the distance (N,) to the _NEIGHBOURS-th of the sorted neighbours (N, K) that are in the reference."""
    counts = np.cumsum(inside, axis=1)
    places = np.where(counts[:, -1] < _NEIGHBOURS, -1, np.argmax(counts >= _NEIGHBOURS, axis=1))
    found: Array = distances[np.arange(len(distances)), places]
    return found


def _distances(features: Array, reference: npt.NDArray[np.bool_]) -> Array:
    """Return the cosine distance (N,) of each row to the _NEIGHBOURS-th nearest row of the reference but itself."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=_NEIGHBOURS, metric="cosine", algorithm="brute").fit(features[reference])
    found = np.empty(len(features))
    found[reference] = search.kneighbors()[0][:, -1]
    found[~reference] = search.kneighbors(features[~reference])[0][:, -1]
    return found


def _excess(distances: Array, now: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return the share of current distances over all but 2% of the reference's, and the mean excess.

    Both are less the reference's own.
    """
    excess = np.maximum(distances - np.quantile(distances[~now], 1 - _UNLIKE), 0)
    share, mean = (each[now].mean() - each[~now].mean() for each in (excess > 0, excess))
    return float(share), float(mean)


def _tail(found: float, shuffled: npt.NDArray[np.float64]) -> float:
    """Return the chance of a value at least as high, by a Pearson type III curve through the shuffled ones."""
    spread = shuffled.std()
    if not spread:
        return 1.0
    return float(stats.pearson3.sf((found - shuffled.mean()) / spread, stats.skew(shuffled)))


def significant(p_values: Sequence[float], level: float) -> list[bool]:
    """Return which tests pass together (Holm 1979): at most `level` is the chance that any is a false alarm.

    Tests of one value only, whose p is 1, are not counted.
    """
    p = np.asarray(p_values)
    order = np.argsort(p)
    counted = int((p < 1).sum())
    passed = p[order] <= level / np.maximum(np.arange(counted, counted - len(order), -1), 1)
    first = int(np.argmin(passed)) if not passed.all() else len(order)
    chosen = set(order[:first].tolist())
    return [place in chosen for place in range(len(order))]
