"""Accuracy against cost, with the models' names beside their points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from tagger.reporting.plots import look
from tagger.reporting.plots.look import Floats

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

_OFFSETS = [
    (gap * np.cos(turn), gap * np.sin(turn))
    for gap, turn in product((7, 12, 20, 32, 48, 70), np.deg2rad([0, 180, 45, 135, -45, -135, 90, -90, 20, 160]))
]
"""Places of a name around its point, in typographic points, the best first."""
_FAR = 18


def accuracy_against_cost(
    names: Sequence[str],
    accuracy: Array,
    intervals: Array,
    costs: Mapping[str, Array],
    baseline: float | None = None,
    cut: Sequence[bool] = (),
) -> bytes:
    """Draw accuracy (M,) with intervals (M, 2) against costs, axis title -> (M,), one panel each on a log axis.

    Steps join the models that no cheaper one beats. A cost of 0 stands at the left edge as an arrow head; models whose
    cost or accuracy is unknown are left out. `baseline` is the accuracy of guessing. Models with `cut` were not trained
    in full: they are hollow, and the steps pass them by.
    """
    accuracy, intervals = look.numbers(accuracy), look.numbers(intervals).reshape(-1, 2)
    whole = ~np.array(cut, dtype=bool) if len(cut) else np.full(len(accuracy), True)
    shown = {title: look.numbers(cost) for title, cost in costs.items()}
    shown = {title: cost for title, cost in shown.items() if (np.isfinite(cost + accuracy) & (cost > 0)).any()}
    if not shown:
        return look.empty("Accuracy against cost")
    figure = look.figure(5.1 * len(shown), 4.6)
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (title, cost) in zip(panels, shown.items(), strict=True):
        _draw_points(axes, cost, accuracy, intervals, whole)
        look.dress(axes, "", title, "test accuracy" if axes is panels[0] else "")
        look.percent(axes)
        if baseline is not None:
            axes.axhline(baseline, color=look.GREY, linestyle=":", linewidth=1)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, cost in zip(panels, shown.values(), strict=True):
        _name_points(axes, names, _on_log_axis(cost), accuracy)
    return look.png(figure)


def _draw_points(axes: Axes, cost: Floats, accuracy: Floats, intervals: Floats, whole: Bools) -> None:
    look.grid(axes)
    axes.set_xscale("log")
    placed, frontier = _on_log_axis(cost), _frontier(cost, accuracy, whole)
    if np.nanmin(placed) == np.nanmax(placed):  # no range that margins could widen
        axes.set_xlim(np.nanmin(placed) / 3, np.nanmax(placed) * 3)
    for here, there in pairwise(frontier):  # a line each, so that names can stand in the corners
        axes.plot(placed[[here, there]], accuracy[[here, here]], color=look.GREY, linewidth=1, zorder=1)
        axes.plot(placed[[there, there]], accuracy[[here, there]], color=look.GREY, linewidth=1, zorder=1)
    blue = look.COLOURS[0]
    for index in np.flatnonzero(np.isfinite(placed + accuracy)):
        x, marker, face = placed[index], "o" if cost[index] > 0 else "<", blue if whole[index] else "white"
        if np.isfinite(intervals[index]).all():
            axes.plot([x, x], intervals[index], color=blue, linewidth=1.2, zorder=2)
        axes.plot(x, accuracy[index], marker, color=blue, markerfacecolor=face, markersize=7, zorder=3)
    axes.margins(0.12, 0.1)
    look.log_ticks(axes)


def _on_log_axis(cost: Floats) -> Floats:
    """Return the costs with zeros moved a little left of the smallest."""
    positive = cost[np.isfinite(cost) & (cost > 0)]
    return np.where(cost > 0, cost, np.where(cost == 0, positive.min() / 3, np.nan))


def _frontier(cost: Floats, accuracy: Floats, whole: Bools) -> list[int]:
    """Return the whole models that no other beats at their cost or less, cheapest first."""
    found: list[int] = []
    candidates = whole & np.isfinite(cost + accuracy)
    for index in np.lexsort((-accuracy, cost)):
        if candidates[index] and (not found or accuracy[index] > accuracy[found[-1]]):
            found.append(int(index))
    return found


def _name_points(axes: Axes, names: Sequence[str], x: Floats, y: Floats) -> None:
    """Write each name beside its point where it covers least, with a thin line to it if that is far."""
    taken = [line.get_window_extent() for line in axes.lines]
    for index in sorted(map(int, np.flatnonzero(np.isfinite(x + y))), key=lambda index: -y[index]):
        name, point = look.shorten(names[index], look.MODEL), (x[index], y[index])
        text = axes.annotate(name, point, (0, 0), "data", "offset points", va="center", **look.lettering())
        offset = min(_OFFSETS, key=lambda each: _covered(axes, text, each, taken))
        _covered(axes, text, offset, taken)
        taken.append(text.get_window_extent().padded(2))
        if np.hypot(*offset) > _FAR:
            line = {"arrowstyle": "-", "color": look.GREY, "linewidth": 0.7, "shrinkA": 0}
            axes.annotate("", point, offset, "data", "offset points", line, zorder=1)


def _covered(axes: Axes, text: Annotation, offset: tuple[float, float], taken: Sequence[Bbox]) -> float:
    """Move the text, and return how many boxes it covers; 100 more when it leaves the axes."""
    text.set_position(offset)
    text.set_horizontalalignment("center" if abs(offset[0]) < 1 else "left" if offset[0] > 0 else "right")
    box, room = text.get_window_extent(), axes.get_window_extent()
    inside = room.contains(*box.min) and room.contains(*box.max)
    return box.count_overlaps(taken) + 100 * (not inside)
