"""Every plot is a PNG that opens, whatever the names and however little there is to show."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from pictures import photo
from PIL import Image

from tagger.evaluation.metrics import Reliability
from tagger.reporting import plots
from tagger.reporting.plots import images, look

pytestmark = pytest.mark.filterwarnings("error")  # a missing glyph, a hidden legend entry, a squeezed layout

AWKWARD = ["cost_$x$", "_hidden", "two\nlines", "čeština", "猫", "$", "a\\b{c}^2", "", "long " * 20]


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image.convert("RGB")


def ink(png: bytes) -> int:
    """Count the pixels that are not white."""
    return int((np.asarray(opened(png)) < 250).any(axis=2).sum())


def counts(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 9, (size, size)) + 50 * np.eye(size, dtype=int)


def awkward(size: int) -> list[str]:
    return [AWKWARD[i % len(AWKWARD)] for i in range(size)]


@pytest.mark.parametrize(("size", "least", "most"), [(1, 300, 700), (2, 300, 700), (5, 400, 800), (100, 900, 1500)])
def test_a_confusion_matrix_opens_at_a_readable_size(size: int, least: int, most: int) -> None:
    image = opened(plots.confusion_matrix(counts(size), awkward(size)))
    assert least <= image.width <= most
    assert least <= image.height <= most


def test_a_confusion_matrix_shades_by_the_share_of_the_row() -> None:
    rare = plots.confusion_matrix(np.array([[1, 0], [0, 1000]]), ["rare", "common"])
    image = np.asarray(opened(rare)).astype(int)
    dark = (image[..., 2] > 90) & (image[..., 0] < 20)
    left, right = np.array_split(dark[:, : image.shape[1] * 4 // 5], 2, axis=1)
    assert left.sum() > 10_000
    assert right.sum() > 10_000


def test_a_label_without_images_is_an_empty_row() -> None:
    opened(plots.confusion_matrix(np.array([[0, 0], [3, 4]]), ["unseen", "seen"]))


def epochs(count: int) -> list[dict[str, float | None]]:
    return [
        {"epoch": i, "train_loss": 2 / i, "val_loss": 1 / i, "val_score": 1 - 1 / i, "lr": 1e-3 / i}
        for i in range(1, count + 1)
    ]


@pytest.mark.parametrize("count", [1, 2, 20, 300])
def test_learning_curves_of_any_length_open(count: int) -> None:
    image = opened(plots.learning_curves(epochs(count), "mAP_$50$"))
    assert 1200 <= image.width <= 1700
    assert 380 <= image.height <= 600


def test_a_panel_stands_only_for_what_was_measured() -> None:
    whole = epochs(5)
    widths = [
        opened(plots.learning_curves([{key: row[key] for key in keys} for row in whole])).width
        for keys in (["train_loss"], ["train_loss", "val_score"], ["epoch", "val_loss", "val_score", "lr"])
    ]
    assert widths[0] * 1.7 < widths[1] < widths[2] / 1.3


def test_gaps_and_diverged_epochs_are_left_out() -> None:
    curve = [*epochs(3), {"epoch": 4, "train_loss": float("nan"), "val_score": None}, {"val_loss": float("inf")}]
    opened(plots.learning_curves(curve))


def bins(gap: float) -> Reliability:
    confidence = np.linspace(0.15, 0.95, 9)
    return Reliability(confidence, confidence - gap, np.arange(1, 10))


def test_reliability_shows_the_curve_after_calibration_and_the_one_before() -> None:
    assert ink(plots.reliability(bins(0), bins(0.1))) > ink(plots.reliability(bins(0), bins(0)))
    assert 500 <= opened(plots.reliability(bins(0.1), bins(0.2))).width <= 750


def curve(falling: bool = False) -> tuple[np.ndarray, np.ndarray]:
    recall, precision = np.linspace(0, 1, 20), np.linspace(1, 0.3, 20)
    return (recall[::-1], precision[::-1]) if falling else (recall, precision)


@pytest.mark.parametrize("size", [1, 9, 12, 13, 200])
def test_precision_and_recall_of_any_number_of_tags(size: int) -> None:
    names = [f"{name}{i}" for i, name in enumerate(awkward(size))]
    curves = {name: curve(i % 2 == 1) for i, name in enumerate(names)}
    thresholds = {name: (0.5, 0.8) if i % 3 else None for i, name in enumerate(names)}
    image = opened(plots.precision_recall(curves, dict.fromkeys(names, 0.7), thresholds, 0.9))
    assert 850 <= image.width <= 1150
    assert 550 <= image.height <= 750


def test_a_tag_without_average_precision_or_threshold_still_has_its_curve() -> None:
    opened(plots.precision_recall({"cat": curve()}, {}, {}))


@pytest.mark.parametrize(("size", "columns"), [(1, 6), (3, 6), (13, 6), (4, 1), (100, 10)])
def test_mistakes_of_any_shape_stand_in_a_grid(size: int, columns: int) -> None:
    shapes = [(64, 48), (48, 64), (300, 20), (1, 1), (900, 700)]
    photos = [np.asarray(photo(i, shapes[i % 5])) for i in range(size)]
    captions = [f"{name} 0.99\nis {name}\n{name}.jpg" for name in awkward(size)]
    image = opened(plots.mistakes(photos, captions, columns))
    across = min(columns, size, images.MISTAKES)
    assert 110 * across <= image.width <= 260 * across + 60


def test_an_image_keeps_its_shape() -> None:
    red = np.zeros((50, 200, 3), dtype=np.uint8)
    red[..., 0] = 255
    for photograph, expected in ((red, 4), (red.transpose(1, 0, 2), 0.25)):
        image = np.asarray(opened(plots.mistakes([photograph], ["red"]))).astype(int)
        reds = (image[..., 0] > 200) & (image[..., 1] < 50)
        rows, columns = np.flatnonzero(reds.any(axis=1)), np.flatnonzero(reds.any(axis=0))
        assert np.ptp(columns) / np.ptp(rows) == pytest.approx(expected, rel=0.1)


def test_trials_show_pruned_and_failed_ones_and_importances() -> None:
    values = [0.5, None, 0.7, 0.2, float("nan")]
    best, states = [0.5, 0.5, 0.7, 0.7, 0.7], ["COMPLETE", "FAIL", "complete", "PRUNED", "PRUNED"]
    alone = opened(plots.trials(values, best, states))
    beside = opened(plots.trials(values, best, states, {"lr_$x$": 0.7, "_depth": 0.3}))
    assert 600 <= alone.width <= 900
    assert alone.width * 1.3 < beside.width <= 1300
    opened(plots.trials([None], [None], ["FAIL"], {f"setting {i}": 1 / (i + 1) for i in range(40)}))


def test_nothing_to_show_is_said_not_raised() -> None:
    nothing = Reliability(np.empty(0), np.empty(0), np.empty(0, dtype=int))
    empty = [
        plots.learning_curves([]),
        plots.learning_curves([{"epoch": 1}]),
        plots.reliability(nothing, nothing),
        plots.precision_recall({}, {}, {}),
    ]
    assert all(opened(png).width < 700 and ink(png) > 300 for png in empty)


def test_long_names_keep_their_beginning_and_their_end() -> None:
    assert look.shorten("short", 10) == "short"
    assert look.shorten("n01440764 tench, Tinca tinca", 15) == "n01440764…tinca"
    assert look.shorten("two\n\tlines", 15) == "two lines"
    assert look.shorten("red \x1b[31m", 15) == "red □[31m"


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert plots.confusion_matrix(counts(3), ["a", "b", "c"]) == plots.confusion_matrix(counts(3), ["a", "b", "c"])


def test_plots_leave_matplotlib_as_it_was() -> None:
    code = """
import sys, matplotlib
before = matplotlib.rcParams.copy()
from tagger.reporting import plots
plots.trials([1], [1], ["COMPLETE"])
print(before == matplotlib.rcParams.copy(), "matplotlib.pyplot" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.split() == ["True", "False"], ran.stderr
