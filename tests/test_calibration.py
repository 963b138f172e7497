"""Temperatures are found again; thresholds keep their promise on images they have not seen."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import special, stats

from benchmarks import thresholds as benchmark
from tagger.errors import UsageError
from tagger.evaluation import metrics
from tagger.evaluation.calibration import fit_temperature, learn_thresholds
from tagger.evaluation.metrics import Array


def ranked(right: list[bool]) -> tuple[Array, Array]:
    """Return scores, highest first and all different, and truth of one tag."""
    return np.linspace(0.99, 0.01, len(right), dtype=np.float32)[:, None], np.array(right)[:, None]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_logits_is_found_again(task: str, temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)) * 2
    if task == "multiclass":
        truth = np.array([rng.multinomial(1, row) for row in special.softmax(logits, axis=1)])
    else:
        truth = rng.random(logits.shape) < special.expit(logits)
    assert fit_temperature(logits * temperature, truth, task) == pytest.approx(temperature, rel=0.06)


def test_the_temperature_is_the_minimum_of_the_likelihood_and_known_negatives_do_not_move_it() -> None:
    logits, truth = benchmark.synthetic(0, "multiclass")
    found = fit_temperature(logits, truth, "multiclass")
    best = metrics.log_loss(special.softmax(logits / found, axis=1), truth, "multiclass")
    for other in (found * 0.9, found * 1.1):
        worse = metrics.log_loss(special.softmax(logits / other, axis=1), truth, "multiclass")
        assert best is not None
        assert worse is not None
        assert best < worse
    more = np.concatenate([logits, logits[:50] * 9]), np.concatenate([truth, np.zeros((50, truth.shape[1]))])
    assert fit_temperature(*more, "multiclass") == found


def test_a_perfect_validation_set_does_not_ask_for_certainty() -> None:
    for scale in (1.0, 10.0):
        logits = np.eye(3)[np.arange(60) % 3] * scale
        found = fit_temperature(logits, logits > 0, "multiclass")
        assert 0.9 < special.softmax(logits / found, axis=1).max() < 0.9999


def test_temperatures_stay_within_bounds() -> None:
    rng = np.random.default_rng(0)
    noise, truth = rng.normal(size=(200, 3)) * 1000, np.eye(3)[rng.integers(0, 3, 200)]
    assert fit_temperature(noise, truth, "multiclass") == pytest.approx(20.0, rel=1e-3)
    faint = truth * 1e-3
    assert fit_temperature(faint, truth, "multiclass") == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    ("truth", "task"),
    [
        (np.eye(2)[np.arange(19) % 2], "multiclass"),
        (np.eye(2)[np.zeros(50, dtype=int)], "multiclass"),
        (np.zeros((50, 2)), "multiclass"),
        (np.zeros((50, 2)), "multilabel"),
        (np.ones((50, 2)), "multilabel"),
        (np.ones((1, 2)), "multilabel"),
    ],
)
def test_too_little_to_go_by_leaves_the_temperature_alone(truth: Array, task: str) -> None:
    logits = np.random.default_rng(0).normal(size=truth.shape)
    assert fit_temperature(logits, truth, task) == 1.0


def test_the_threshold_is_the_lowest_of_the_counts_tested_that_proves_the_target() -> None:
    level = 0.05 / 3
    tolerated = [max((k for k in range(21) if stats.binom.cdf(k, n, 0.1) <= level), default=-1) for n in range(201)]
    counts = [n for n in range(1, 201) if tolerated[n] > tolerated[n - 1]]
    mistakes = 2
    right = [True] * 100 + [False] * 100
    right[20 : 20 + mistakes] = [False] * mistakes  # the first start fails on them
    expected = max(n for n in counts if n - sum(right[:n]) <= tolerated[n])
    scores, truth = ranked(right)
    (found,) = learn_thresholds(scores, truth, ["cat"], 0.9)
    assert (found.status, found.needed, found.predicted) == ("ok", 0, expected)
    exact = stats.binomtest(sum(right[:expected]), expected, alternative="greater")
    assert found.lower == pytest.approx(exact.proportion_ci(1 - level, method="exact").low)
    assert found.lower >= 0.9
    assert scores[expected - 1, 0] > found.threshold > scores[expected, 0]


def test_one_early_mistake_does_not_end_the_search() -> None:
    scores, truth = ranked([False] + [True] * 149 + [False] * 150)
    (found,) = learn_thresholds(scores, truth, ["cat"], 0.9)
    assert found.status == "ok"
    assert found.predicted > 140


def test_a_gap_of_wrong_images_ends_the_search_though_luck_returns_below_it() -> None:
    right = [True] * 45 + [False] * 15 + [True] * 400
    scores, truth = ranked(right)
    (found,) = learn_thresholds(scores, truth, ["cat"], 0.9)
    assert found.status == "ok"
    assert found.predicted <= 45


def test_too_few_is_exactly_what_a_perfect_ranking_could_not_prove() -> None:
    fewest = math.ceil(math.log(0.05 / 3) / math.log(0.9))
    for images, status, needed in ((fewest, "ok", 0), (fewest - 1, "too few", 1), (0, "too few", fewest)):
        (found,) = learn_thresholds(*ranked([True] * images + [False] * 200), ["cat"], 0.9)
        assert (found.status, found.needed, found.images) == (status, needed, images)
        assert 0 < found.threshold < 1


def test_a_tag_with_too_few_images_gets_the_threshold_of_all_tags_together() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((300, 3), dtype=bool)
    truth[:150, 0] = truth[150:295, 1] = truth[295:, 2] = True
    scores = special.expit(rng.normal(size=truth.shape) + 6 * truth - 3).astype(np.float32)
    (common,) = learn_thresholds(scores.reshape(-1, 1), truth.reshape(-1, 1), ["all"])
    few = learn_thresholds(scores, truth, ["a", "b", "c"])[2]
    assert (few.status, few.images, few.needed) == ("too few", 5, 34)
    assert common.status == "ok"
    assert few.threshold == common.threshold
    assert few.predicted == int((scores[:, 2] >= np.float32(few.threshold)).sum())


def test_not_reached_says_how_many_more_or_that_more_would_not_help() -> None:
    nearly = [True] * 11 + [False] + [True] * 2  # 93% right: over the target, but not proven
    (found,) = learn_thresholds(*ranked(nearly * 8 + [False] * 100), ["cat"], 0.9)
    assert found.status == "not reached"
    assert found.precision is not None
    assert found.precision > 0.9 > found.lower
    assert found.needed is not None
    assert found.needed > 0
    (found,) = learn_thresholds(*ranked([True, False] * 100), ["cat"], 0.9)
    assert (found.status, found.needed) == ("not reached", None)


def test_equal_scores_are_never_split() -> None:
    scores = np.repeat(np.array([0.9, 0.6, 0.2], dtype=np.float32), 60)[:, None]
    truth = np.repeat([True, True, False], 60)[:, None]
    (found,) = learn_thresholds(scores, truth, ["cat"], 0.9)
    assert (found.status, found.predicted) == ("ok", 120)
    assert found.threshold == pytest.approx(0.4)
    (found,) = learn_thresholds(np.full((180, 1), 0.7), truth, ["cat"], 0.9)
    assert (found.status, found.predicted, found.needed) == ("not reached", 180, None)


def test_neighbouring_floats_and_saturated_scores_keep_their_sides() -> None:
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    scores = np.repeat([high, low], 60)[:, None]
    truth = np.repeat([True, False], 60)[:, None]
    (found,) = learn_thresholds(scores, truth, ["cat"], 0.9)
    assert (found.status, found.predicted) == ("ok", 60)
    reread = np.float32(json.loads(json.dumps(asdict(found)))["threshold"])
    assert (scores >= reread).sum() == 60
    (found,) = learn_thresholds(np.repeat([1.0, 0.0], 60)[:, None], truth, ["cat"], 0.9)
    assert (found.status, found.predicted, found.threshold) == ("ok", 60, 0.5)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("images", [1, 100])
def test_degenerate_scores_give_a_threshold_between_0_and_1(value: float, right: bool, images: int) -> None:
    (found,) = learn_thresholds(np.full((images, 1), value), np.full((images, 1), right), ["cat"])
    assert 0 < found.threshold < 1
    enough = right and images == 100
    assert found.status == ("too few" if not enough else "ok" if value else "not reached")
    json.dumps(asdict(found), allow_nan=False)


def test_what_cannot_be_learnt_from_is_refused() -> None:
    good = np.full((3, 1), 0.5)
    with pytest.raises(UsageError, match="NaN"):
        learn_thresholds(good * np.nan, good > 0, ["cat"])
    with pytest.raises(UsageError, match="NaN"):
        fit_temperature(good * np.inf, good > 0, "multilabel")


@pytest.mark.parametrize("target", [0.8, 0.9])
def test_a_tag_right_exactly_as_often_as_the_target_is_seldom_called_proven(target: float) -> None:
    """The whole search, not each look, errs at most 5% of the time; a naive search errs several times as often."""
    rng = np.random.default_rng(0)
    tags = 600
    scores = np.tile(np.linspace(0.99, 0.01, 400, dtype=np.float32)[:, None], tags)
    truth = rng.random(scores.shape) < target
    learnt = learn_thresholds(scores, truth, [str(k) for k in range(tags)], target)
    proven = sum(found.status == "ok" for found in learnt)
    assert stats.binomtest(proven, tags, 0.05, alternative="greater").pvalue > 0.01, proven
    right, predicted = truth.cumsum(axis=0), np.arange(1, 401)[:, None]
    naive = (metrics.clopper_pearson_lower(right, predicted, 0.05) >= target).any(axis=0).sum()
    assert naive > 3 * proven


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize(
    ("separation", "mislabelled", "least"),
    [((1.5, 4.5), 0.0, 30), ((2.0, 4.5), 0.02, 30), ((3.0, 5.0), 0.02, 70)],
)
def test_precision_on_test_reaches_the_target_in_nine_of_ten_reshuffles(
    task: str, separation: tuple[float, float], mislabelled: float, least: int
) -> None:
    """Five tags with 100 to 200 images in each half, 20 reshuffles, several sets; every set on its own must hold."""
    for seed in range(3):
        logits, truth = benchmark.synthetic(seed, task, separation=separation, mislabelled=mislabelled)
        pairs = benchmark.shuffle(logits, truth, task, 0.9, 20, seed)
        right, counted = benchmark.satisfied(pairs, 0.9)
        assert len(pairs) == 100
        assert counted >= least, "hardly a tag was proven: the promise would be empty"
        assert right / counted >= 0.9


def test_small_validation_sets_promise_nothing() -> None:
    logits, truth = benchmark.synthetic(0, "multiclass")
    keep = np.random.default_rng(0).permutation(len(logits))[:150]
    pairs = benchmark.shuffle(logits[keep], truth[keep], "multiclass", 0.9, 20, 0)
    assert {pair.status for pair in pairs} == {"too few"}
