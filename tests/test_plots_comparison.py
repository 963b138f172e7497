"""Plots that compare models open at a readable size, whatever the names and however little is known."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import photo
from test_plots import awkward, opened

from tagger.evaluation.metrics import Reliability
from tagger.reporting import plots
from tagger.reporting.plots import cost, images

pytestmark = pytest.mark.filterwarnings("error")  # a missing glyph, a squeezed layout, an empty mean

NAN = float("nan")


@pytest.mark.parametrize("size", [1, 2, 8, 20])
def test_accuracy_against_cost_opens_for_any_number_of_models(size: int) -> None:
    accuracy = np.linspace(0.3, 0.9, size)
    intervals = np.stack([accuracy - 0.02, accuracy + 0.02], axis=1)
    costs = {"seconds": np.logspace(0, 3, size), "FLOPs": np.logspace(4, 9, size)}
    image = opened(plots.accuracy_against_cost(awkward(size), accuracy, intervals, costs, 0.1, [False] * size))
    assert 1000 <= image.width <= 1400
    assert 450 <= image.height <= 700


def test_the_frontier_holds_what_nothing_as_cheap_beats() -> None:
    whole = np.full(4, True)
    assert cost._frontier(np.array([10, 5, 20, 30]), np.array([0.5, 0.4, 0.45, 0.9]), whole) == [1, 0, 3]
    assert cost._frontier(np.array([5, 5]), np.array([0.4, 0.5]), whole[:2]) == [1]


def test_a_cut_model_is_not_on_the_frontier() -> None:
    whole = np.array([True, False, True])
    assert cost._frontier(np.array([5, 6, 7]), np.array([0.4, 0.9, 0.5]), whole) == [0, 2]


def test_a_cut_model_is_hollow() -> None:
    def blue(cut: list[bool]) -> int:
        drawn = plots.accuracy_against_cost(
            ["a"], np.array([0.5]), np.full((1, 2), NAN), {"s": np.array([5])}, 0.1, cut
        )
        return int((np.abs(np.asarray(opened(drawn)).astype(int) - (0, 114, 178)).max(axis=2) < 30).sum())

    assert blue([False]) > 1.5 * blue([True]) > 0


@pytest.mark.parametrize("size", [1, 8, 20])
def test_curves_of_several_models_share_their_panels(size: int) -> None:
    models = {
        f"{name}{k}": [{"epoch": e, "val_score": 1 - 1 / (e + k), "seconds": 2.5} for e in range(1, 3 + k)]
        for k, name in enumerate(awkward(size))
    }
    assert 900 <= opened(plots.curves(models)).width <= 1500


def test_curves_without_times_have_one_panel_and_gaps_stay_gaps() -> None:
    timed = {"a": [{"epoch": 1, "val_score": 0.5, "seconds": 3}, {"epoch": 2, "val_score": 0.6, "seconds": 3}]}
    untimed = {"a": [{"val_score": 0.5}, {"val_score": None}, {"val_score": NAN}], "lost": [{"epoch": 1}]}
    assert opened(plots.curves(untimed)).width < opened(plots.curves(timed)).width / 1.3


def test_the_choice_of_k_marks_the_best_and_leaves_gaps_out() -> None:
    lines = {"l1": {1: 0.36, 3: 0.37, 1000: NAN}, "l2": dict.fromkeys(range(1, 60), 0.3), "$x$": {1: NAN}}
    assert 550 <= opened(plots.k_curve(lines)).width <= 900
    opened(plots.k_curve({"l1": {1: 0.3}}))


@pytest.mark.parametrize(("models", "classes"), [(1, 1), (2, 2), (8, 10), (8, 20), (3, 200)])
def test_accuracy_per_class_opens_for_any_number_of_classes(models: int, classes: int) -> None:
    shares = np.random.default_rng(0).random((models, classes))
    shares[0, 0] = NAN
    image = opened(plots.per_class(shares, awkward(models), awkward(classes)))
    assert 150 <= image.height <= 800
    assert image.width <= 1500


def test_a_better_class_is_darker() -> None:
    image = np.asarray(opened(plots.per_class(np.array([[0.0, 1.0]]), ["m"], ["a", "b"]))).astype(int)
    blue = (image[..., 2] > 90) & (image[..., 0] < 20)
    assert blue[:, image.shape[1] // 2 :].sum() > 500
    assert blue[:, : image.shape[1] // 3].sum() < 50


def photos(count: int) -> list[np.ndarray]:
    return [np.asarray(photo(seed, ((32, 32), (48, 20), (10, 40))[seed % 3])) for seed in range(count)]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 10), (10, 10)])
def test_neighbours_stand_beside_their_query(rows: int, columns: int) -> None:
    found = [photos(columns)] * rows
    labels, right = [awkward(columns)] * rows, [[k % 2 == 0 for k in range(columns)]] * rows
    distances = [[10.0**k for k in range(columns)]] * rows
    image = opened(plots.neighbours(photos(rows), awkward(rows), found, labels, right, distances))
    assert image.width <= 1300
    assert image.height <= 190 * rows + 60


def test_a_right_neighbour_is_framed_in_another_colour_than_a_wrong_one() -> None:
    def green(right: bool) -> int:
        drawn = plots.neighbours(
            [np.zeros((9, 9, 3), np.uint8)],
            ["cat"],
            [[np.full((9, 9, 3), 255, np.uint8)]],
            [["cat"]],
            [[right]],
            [[1.0]],
        )
        image = np.asarray(opened(drawn)).astype(int)
        return int((np.abs(image - (0, 158, 115)).max(axis=2) < 30).sum())

    assert green(True) > 10 * green(False)


@pytest.mark.parametrize("size", [1, 2, 10, 200])
def test_templates_of_any_number_of_classes_open(size: int) -> None:
    weights = np.random.default_rng(0).normal(size=(size, 8, 8, 3))
    assert opened(plots.weights(weights, awkward(size))).width <= 1250
    opened(plots.weights(weights[..., 0], awkward(size)))


def test_each_template_is_scaled_to_its_own_range() -> None:
    pattern = np.arange(64.0).reshape(8, 8)
    assert np.allclose(images._scaled(pattern), images._scaled(1e-6 * pattern - 3))
    assert (images._scaled(np.full((2, 2), 7.0)) == 0.5).all()
    assert images._scaled(np.array([[NAN, 1], [2, 3]]))[0, 0] == 0.5


@pytest.mark.parametrize("shape", [(1, 3, 3, 3), (6, 5, 5), (64, 5, 5, 3), (512, 32, 32, 3)])
def test_filters_of_any_number_stand_in_a_grid(shape: tuple[int, ...]) -> None:
    weights = np.random.default_rng(0).normal(size=shape)
    weights.flat[0] = NAN
    assert opened(plots.weights(weights)).width <= 1200


def test_reliabilities_stand_side_by_side() -> None:
    one = Reliability(np.linspace(0.1, 0.9, 5), np.array([0.1, 0.3, 0.4, 0.7, 0.9]), np.full(5, 10))
    few = opened(plots.reliabilities({"a": one}))
    many = opened(plots.reliabilities({f"{name}{k}": one for k, name in enumerate(awkward(9))}))
    assert few.width < many.width <= 1400
    assert few.height * 2 < many.height
