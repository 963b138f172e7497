"""Heat maps: confusion matrix, accuracy per class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from tagger.evaluation.metrics import Array
from tagger.reporting.plots import look

NAMED_CLASSES = 20
"""Maximum number of classes for numbers in the cells."""
_TICKS = 36


def confusion_matrix(counts: Array, names: Sequence[str]) -> bytes:
    """Draw counts (K, K), label in the row and tag in the column; shades are shares of the row.

    With up to 20 names, cells show counts; with more, only every n-th name is written, and shades follow the square
    root of the share, so that rare confusions are visible.
    """
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    side = min(9.5, max(3.8, 2.2 + 0.4 * len(names)))
    texts = [[_short(count) for count in row] for row in counts]
    return _heat_map(shares, names, names, texts, (side + 0.9, side), ("Confusion matrix", "tag", "label"), 0.5)


def _short(count: float) -> str:
    return "" if not count else f"{count:,.0f}" if count < 10_000 else f"{count / 1000:,.0f}k"


def per_class(shares: Array, models: Sequence[str], names: Sequence[str]) -> bytes:
    """Draw the accuracy of models (rows) on each class (columns), shares (M, K); NaN where a class has no images.

    With up to 20 classes, cells show percentages; with more, only every n-th class is named.
    """
    texts = [[f"{100 * share:.0f}" if np.isfinite(share) else "–" for share in row] for row in shares]
    return _heat_map(shares, models, names, texts, (min(10.4, 3.3 + 0.62 * len(names)), 1.9 + 0.36 * len(models)))


def _heat_map(
    shares: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    size: tuple[float, float],
    titles: tuple[str, str, str] = ("", "", ""),
    gamma: float = 1.0,
) -> bytes:
    """Draw shares (R, C): up to 20 columns with texts in the cells, more with shades by the power `gamma`."""
    figure = look.figure(*size)
    axes = figure.subplots()
    few = len(columns) <= NAMED_CLASSES
    shades = PowerNorm(1.0 if few else gamma, 0, 1)
    drawn = axes.imshow(shares, cmap="Blues", norm=shades, interpolation="antialiased", aspect="auto")
    look.dress(axes, *titles)
    _name(axes, rows, columns)
    for (row, column), share in np.ndenumerate(shares if few else np.empty((0, 0))):
        colour, points = "white" if share > 0.57 else look.INK, look.BODY if len(columns) <= 10 else 7.0
        axes.text(column, row, texts[row][column], ha="center", va="center", fontsize=points, color=colour)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, aspect=25, pad=0.02, ticks=[0, 0.5, 1])
    bar.set_label("share of the label's images", **look.lettering())
    bar.ax.set_yticklabels(["0%", "50%", "100%"], **look.lettering())
    bar.outline.set_visible(False)
    return look.png(figure)


def _name(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Write every n-th name at the axes; column names are vertical if they are many or long."""
    places, names = _ticks(columns)
    upright = len(columns) > 4 or max(map(len, names)) > 8
    axes.set_yticks(*_ticks(rows), **look.lettering())
    axes.set_xticks(places, names, rotation=90 if upright else 0, **look.lettering())
    axes.spines[:].set_visible(False)


def _ticks(names: Sequence[str]) -> tuple[range, list[str]]:
    places = range(0, len(names), -(-len(names) // _TICKS))
    return places, [look.shorten(names[place], look.MODEL) for place in places]
