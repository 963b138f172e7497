"""Accuracy against cost, with every model named where there is room."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.transforms import Bbox

from tagger.reporting.plots import look

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


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
    accuracy, intervals = np.asarray(accuracy, dtype=float), np.asarray(intervals, dtype=float).reshape(-1, 2)
    fit = {title: np.asarray(cost, dtype=float) for title, cost in costs.items()}
    whole = ~np.array(cut, dtype=bool) if len(cut) else np.ones(len(accuracy), dtype=bool)
    shown = {title: cost for title, cost in fit.items() if (np.isfinite(cost + accuracy) & (cost > 0)).any()}
    if not shown:
        return look.empty("Accuracy against cost")
    figure = look.figure(5.1 * len(shown), 4.6)
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (title, cost) in zip(panels, shown.items(), strict=True):
        _cost_points(axes, cost, accuracy, intervals, whole)
        look.dress(axes, "", title, "test accuracy" if axes is panels[0] else "")
        look.percent(axes)
        if baseline is not None:
            axes.axhline(baseline, color=look.GREY, linestyle=":", linewidth=1)
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, cost in zip(panels, shown.values(), strict=True):
        _label_points(axes, canvas, names, _on_log_axis(cost), accuracy, intervals, _frontier(cost, accuracy, whole))
    return look.png(figure)


def _cost_points(axes: Axes, cost: Floats, accuracy: Floats, intervals: Floats, whole: Array) -> None:
    look.grid(axes)
    axes.set_xscale("log")
    placed, frontier = _on_log_axis(cost), _frontier(cost, accuracy, whole)
    if np.nanmin(placed) == np.nanmax(placed):  # no range that margins could widen
        axes.set_xlim(np.nanmin(placed) / 3, np.nanmax(placed) * 3)
    axes.step(placed[frontier], accuracy[frontier], where="post", color=look.GREY, linewidth=1, zorder=1)
    for index in np.flatnonzero(np.isfinite(placed + accuracy)):
        axes.vlines(placed[index], *intervals[index], color=look.COLOURS[0], linewidth=1.2, zorder=2)
        axes.plot(
            placed[index],
            accuracy[index],
            "o" if cost[index] > 0 else "<",
            color=look.COLOURS[0],
            markerfacecolor=look.COLOURS[0] if whole[index] else "white",
            markersize=7,
            zorder=3,
        )
    axes.margins(0.12, 0.1)
    look.log_ticks(axes)


def _on_log_axis(cost: Floats) -> Floats:
    """Return the costs with zeros moved a little left of the smallest."""
    positive = cost[np.isfinite(cost) & (cost > 0)]
    return np.where(cost > 0, cost, np.where(cost == 0, positive.min() / 3, np.nan))


def _frontier(cost: Floats, accuracy: Floats, whole: Array) -> list[int]:
    """Return the whole models that no other beats at their cost or less, cheapest first."""
    found: list[int] = []
    for index in np.lexsort((-accuracy, cost)):
        if (
            whole[index]
            and np.isfinite(cost[index] + accuracy[index])
            and (not found or accuracy[index] > accuracy[found[-1]])
        ):
            found.append(int(index))
    return found


def _label_points(
    axes: Axes,
    canvas: FigureCanvasAgg,
    names: Sequence[str],
    x: Floats,
    y: Floats,
    intervals: Floats,
    frontier: Sequence[int],
) -> None:
    """Write each name beside its point where it hides nothing, with a thin line to it if that is far."""
    shown = [int(index) for index in np.flatnonzero(np.isfinite(x + y))]
    taken = [_around(axes, (x[index],), (y[index],), 6) for index in shown]
    taken += [_around(axes, (x[index],), intervals[index], 1) for index in shown if np.isfinite(intervals[index]).all()]
    for here, there in pairwise(frontier):  # the steps between them
        taken.append(_around(axes, x[[here, there]], (y[here],), 1))
        taken.append(_around(axes, (x[there],), y[[here, there]], 1))
    renderer: RendererAgg = canvas.get_renderer()  # type: ignore[no-untyped-call]
    room = axes.get_window_extent(renderer)
    for index in sorted(shown, key=lambda index: -y[index]):
        text = axes.annotate(
            look.shorten(names[index], look.MODEL),
            (x[index], y[index]),
            (0, 0),
            textcoords="offset pixels",
            fontsize=look.SMALL,
            color=look.INK,
            **look.lettering(),
        )
        size = text.get_window_extent(renderer)
        centre = axes.transData.transform((x[index], y[index]))
        box, far = _free_place(centre, size.width, size.height, taken, room)
        text.set_position((box.x0 - centre[0], box.y0 - centre[1] + size.height * 0.15))
        taken.append(box)
        if far:
            _leader(axes, centre, box)


def _around(axes: Axes, x: Iterable[float], y: Iterable[float], margin: float) -> Bbox:
    """Return the box in pixels around all points of x and y."""
    corners = axes.transData.transform(list(product(x, y)))
    return Bbox([corners.min(axis=0) - margin, corners.max(axis=0) + margin])


def _free_place(centre: Array, width: float, height: float, taken: list[Bbox], room: Bbox) -> tuple[Bbox, bool]:
    """Return the nearest box that overlaps none of those taken and stays in the room, and whether it is far off."""
    best, least = (Bbox.null(), True), np.inf
    for gap, turn in product((9, 16, 26, 40, 58, 80, 110), np.deg2rad([0, 180, 45, 135, -45, -135, 90, -90, 20, 160])):
        across, up = np.cos(turn), np.sin(turn)
        x = centre[0] + gap * across + (across - 1) * width / 2
        y = centre[1] + gap * up + (up - 1) * height / 2
        box = Bbox.from_bounds(x, y, width, height)
        cost = sum(_shared(box, other) for other in taken) + width * height - _shared(box, room)
        if cost < least - 1:
            best, least = (box, gap > 26), cost
        if cost < 1:
            break
    return best


def _shared(one: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(one, other)
    return both.width * both.height if both else 0.0


def _leader(axes: Axes, centre: Array, box: Bbox) -> None:
    end = np.clip(centre, box.min, box.max)
    (x0, y0), (x1, y1) = axes.transData.inverted().transform([centre, end])
    axes.plot([x0, x1], [y0, y1], color=look.GREY, linewidth=0.7, zorder=1, scalex=False, scaley=False)
