"""Accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist

from tagger.evaluation.metrics import Array
from tagger.reporting.plots import look

_MARKERS = {"-": "o", "--": "s", ":": "^"}


def accuracy_against_cost(
    names: Sequence[str],
    accuracy: Array,
    intervals: Array,
    costs: Mapping[str, Array],
    baseline: float,
    cut: Sequence[bool],
) -> bytes:
    """Draw accuracy (M,) with intervals (M, 2) against costs, axis title -> (M,), one panel each on a log axis.

    A step line connects the models that no cheaper one beats. `baseline` is the accuracy of guessing. Models with `cut`
    were not trained in full: their markers are hollow, and the line ignores them.
    """
    whole, (low, high) = ~np.array(cut), intervals.T
    figure = look.figure(4.2 * len(costs) + 2.4, 4.6)
    panels = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
    for axes, (title, x) in zip(panels, costs.items(), strict=True):
        best = _frontier(x, accuracy, whole)
        look.dress(axes, "", title, "test accuracy" if axes is panels[0] else "")
        look.grid(axes)
        look.percent(axes)
        axes.set_xscale("log")
        axes.step(x[best], accuracy[best], where="post", color=look.GREY, linewidth=1, zorder=1)
        axes.vlines(x, low, high, colors=look.GREY, linewidth=1.2, zorder=2)
        axes.axhline(baseline, color=look.GREY, linestyle=":", linewidth=1)
        handles: list[Artist] = []
        for k, face in enumerate(whole):
            colour, dashes = look.line_style(k)
            fill = colour if face else "white"
            handles += axes.plot(x[k], accuracy[k], _MARKERS[dashes], color=colour, markerfacecolor=fill, markersize=7)
        look.log_ticks(axes)
    look.legend(panels[-1], handles, [look.shorten(name, look.MODEL) for name in names], "beside")
    return look.png(figure)


def _frontier(cost: Array, accuracy: Array, whole: npt.NDArray[np.bool_]) -> list[int]:
    """Return the whole models that no other beats at their cost or less, cheapest first."""
    found: list[int] = []
    for index in np.lexsort((-accuracy, cost)):
        if whole[index] and (not found or accuracy[index] > accuracy[found[-1]]):
            found.append(int(index))
    return found
