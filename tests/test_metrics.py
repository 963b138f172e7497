"""Numbers are those of a hand calculation, scikit-learn or scipy, and undefined ones are None."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from tagger.errors import UsageError
from tagger.evaluation import metrics
from tagger.evaluation.metrics import Array

SCORES = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]], dtype=np.float32)
TRUTH = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]], dtype=np.float32)


def random_case(images: int = 300, tags: int = 4) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    truth = rng.random((images, tags)) < 0.3
    scores = np.clip(rng.normal(0.4 + 0.2 * truth, 0.15), 0, 1).round(2)  # rounded: many ties
    return scores.astype(np.float32), truth


def test_an_evaluation_by_hand() -> None:
    found = metrics.evaluate(SCORES, TRUTH, "multiclass", ["a", "b", "c"])
    assert (found.images, found.negatives) == (4, 1)
    assert found.accuracy is not None
    assert (found.accuracy.accuracy, found.accuracy.images) == (pytest.approx(2 / 3), 3)
    a, b, c = found.tags
    assert (a.images, a.predicted, a.precision, a.recall, a.threshold) == (1, 3, pytest.approx(1 / 3), 1.0, None)
    assert (b.images, b.predicted, b.precision, b.recall, b.average_precision) == (2, 1, 1.0, 0.5, pytest.approx(5 / 6))
    assert (c.images, c.predicted, c.precision, c.recall, c.average_precision) == (0, 0, None, None, None)
    assert a.precision_interval == metrics.wilson_interval(1, 3)
    assert c.recall_interval == (0.0, 1.0)
    assert found.macro_precision == pytest.approx((1 / 3 + 1) / 2)
    assert found.macro_recall == pytest.approx(0.75)
    assert found.log_loss == pytest.approx(-(math.log(0.7) + math.log(0.3) + math.log(0.8)) / 3, rel=1e-6)
    assert found.mean_average_precision_interval is None


def test_a_known_negative_counts_against_precision_alone() -> None:
    with_it, without = (metrics.evaluate(SCORES[:n], TRUTH[:n], "multiclass", ["a", "b", "c"]) for n in (4, 3))
    assert (with_it.accuracy, with_it.log_loss) == (without.accuracy, without.log_loss)
    assert with_it.calibration_error == without.calibration_error
    assert (with_it.tags[0].precision, without.tags[0].precision) == (pytest.approx(1 / 3), 0.5)
    assert metrics.confusion_matrix(SCORES, TRUTH).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_thresholds_give_tags_as_tagging_does() -> None:
    scores = np.array([[0.5, 0.1], [np.float32(0.3), 0.9]], dtype=np.float32)
    assert metrics.given(scores, [0.5, 0.5]).tolist() == [[True, False], [False, True]]
    assert metrics.given(scores, [0.3, 1.0]).tolist() == [[True, False], [True, False]]
    assert metrics.given(scores, None).tolist() == [[True, False], [False, True]]


def test_average_precision_and_confusion_are_those_of_scikit_learn() -> None:
    scores, truth = random_case()
    expected = [sk.average_precision_score(truth[:, k], scores[:, k]) for k in range(4)]
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(np.mean(expected))
    tags = metrics.per_tag(scores, truth, [0.5] * 4, list("abcd"))
    assert [tag.average_precision for tag in tags] == pytest.approx(expected)
    assert tags[1].precision == pytest.approx(sk.precision_score(truth[:, 1], scores[:, 1] >= 0.5))
    one = np.eye(4)[truth.argmax(axis=1)]
    expected_matrix = sk.confusion_matrix(truth.argmax(axis=1), scores.argmax(axis=1), labels=range(4))
    assert np.array_equal(metrics.confusion_matrix(scores, one), expected_matrix)


def test_log_loss_is_that_of_scikit_learn_and_one_sure_mistake_stays_finite() -> None:
    scores, truth = random_case()
    inside = scores.astype(np.float64).clip(0.01, 0.99)
    cells = sk.log_loss(truth.ravel(), inside.ravel())
    assert metrics.log_loss(inside, truth, "multilabel") == pytest.approx(cells)
    shares = inside / inside.sum(axis=1, keepdims=True)
    labels = truth.argmax(axis=1)
    assert metrics.log_loss(shares, np.eye(4)[labels], "multiclass") == pytest.approx(sk.log_loss(labels, shares))
    assert metrics.log_loss(np.eye(2), 1 - np.eye(2), "multiclass") == pytest.approx(-math.log(1e-7))


def test_the_bootstrap_weighs_images_as_if_they_were_drawn() -> None:
    scores, truth = random_case(60, 3)
    rng = np.random.default_rng(5)
    draws = [rng.integers(60, size=60) for _ in range(50)]
    means = [metrics.mean_average_precision(scores[draw], truth[draw]) for draw in draws]
    low, high = np.percentile(np.array(means), [2.5, 97.5])
    assert metrics.bootstrap_interval(scores, truth, resamples=50, seed=5) == pytest.approx((low, high))
    again = metrics.evaluate(scores, truth, "multilabel", list("abc"))
    assert again == metrics.evaluate(scores, truth, "multilabel", list("abc"))
    assert again.mean_average_precision_interval is not None
    low, high = again.mean_average_precision_interval
    assert again.mean_average_precision is not None
    assert low < again.mean_average_precision < high


def test_calibration_error_by_hand() -> None:
    scores = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    truth = np.zeros((20, 2))
    truth[:8, 0] = truth[8:10, 1] = truth[10:16, 0] = truth[16:, 1] = 1
    reliability = metrics.reliability_bins(scores, truth, "multiclass", bins=2)
    assert reliability.confidence == pytest.approx([0.6, 0.9])
    assert reliability.right == pytest.approx([0.6, 0.8])
    assert reliability.count.tolist() == [10, 10]
    assert reliability.error == pytest.approx(0.05)


def test_equal_scores_share_a_bin_whatever_their_order() -> None:
    scores = np.full((100, 1), 0.5)
    truth = (np.arange(100) < 50)[:, None]
    assert metrics.reliability_bins(scores, truth, "multilabel").error == pytest.approx(0.0)


def test_calibrated_scores_have_little_calibration_error_and_bins_hold_equally_many() -> None:
    rng = np.random.default_rng(1)
    scores = rng.beta(0.3, 2, size=(5000, 4))  # nearly all close to 0
    truth = rng.random(scores.shape) < scores
    assert (metrics.reliability_bins(scores, truth, "multilabel").error or 0) < 0.01
    assert (metrics.reliability_bins(scores**0.5, truth, "multilabel").error or 0) > 0.1
    counts = metrics.reliability_bins(scores, truth, "multilabel").count
    assert len(counts) == 15
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (45, 50), (1, 1)])
def test_the_lower_bound_is_that_of_the_exact_interval_of_scipy(right: int, total: int) -> None:
    exact = stats.binomtest(right, total, alternative="greater").proportion_ci(0.9, method="exact")
    assert metrics.clopper_pearson_lower(np.array(right), np.array(total), 0.1) == pytest.approx(exact.low)


def test_wilson_intervals_match_known_values_and_without_images_are_everything() -> None:
    assert metrics.wilson_interval(95, 100) == (pytest.approx(0.8882, abs=1e-3), pytest.approx(0.9785, abs=1e-3))
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)
    assert metrics.clopper_pearson_lower(np.array(0), np.array(0), 0.05) == 0


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("images", [1, 5])
@pytest.mark.parametrize("share", [0, 1])
def test_degenerate_splits_are_json_without_nan(task: str, images: int, share: int) -> None:
    scores = np.full((images, 2), 0.5, dtype=np.float32)
    truth = np.full((images, 2), share, dtype=np.float32)
    if task == "multiclass":
        truth[:, 1] = 0
    found = metrics.evaluate(scores, truth, task, ["a", "b"])
    read = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert read["images"] == images
    assert [tag["tag"] for tag in read["tags"]] == ["a", "b"]
    assert (read["mean_average_precision"] is None) == (share == 0)
    assert (read["accuracy"] is None) == (share == 0 or task == "multilabel")


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (np.array([[0.1], [np.nan]]), np.ones((2, 1)), "1 of 2 images .* first in row 1"),
        (np.ones((2, 2)), np.ones((2, 3)), "same non-empty shape"),
        (np.ones((0, 2)), np.ones((0, 2)), "non-empty shape"),
        (np.ones((1, 2)), np.array([[1, np.nan]]), "only 0 and 1"),
        (np.ones((2, 2)), np.array([[0, 1], [1, 1]]), "first in row 1: use multilabel"),
    ],
)
def test_scores_that_cannot_be_evaluated_are_refused(scores: Array, truth: Array, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        metrics.evaluate(scores, truth, "multiclass", ["t"] * scores.shape[1])


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UsageError, match="'regression'"):
        metrics.log_loss(SCORES, TRUTH, "regression")
