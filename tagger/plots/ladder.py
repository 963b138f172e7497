"""Plots that compare models, and the pictures that show what a model has learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from tagger.plots import look

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

QUERIES, NEIGHBOURS, TEMPLATES, FILTERS = 12, 10, 60, 64
"""How many of each are drawn at most."""
NAMED_CLASSES = 20
_CLASS_TICKS = 40
_RIGHT, _WRONG = look.COLOURS[2], look.COLOURS[1]
_STYLES = list(product(("-", (0, (4, 1.5)), ":"), look.COLOURS))


def accuracy_against_cost(
    names: Sequence[str], accuracy: Array, intervals: Array, costs: Mapping[str, Array], baseline: float | None = None
) -> bytes:
    """Draw accuracy (M,) with intervals (M, 2) against costs, axis title -> (M,), one panel each on a log axis.

    What is better or cheaper than all others is filled and joined by steps. A cost of 0 stands at the left edge as an
    arrow head; models whose cost or accuracy is not known are left out. `baseline` is the accuracy of guessing.
    """
    accuracy, intervals = np.asarray(accuracy, dtype=float), np.asarray(intervals, dtype=float).reshape(-1, 2)
    fit = {title: np.asarray(cost, dtype=float) for title, cost in costs.items()}
    shown = {title: cost for title, cost in fit.items() if (np.isfinite(cost + accuracy) & (cost > 0)).any()}
    if not shown:
        return look.empty("Accuracy against cost")
    figure = look.figure(5.1 * len(shown), 4.6)
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (title, cost) in zip(panels, shown.items(), strict=True):
        _cost_points(axes, cost, accuracy, intervals)
        look.dress(axes, "", title, "test accuracy" if axes is panels[0] else "")
        _percent(axes)
        if baseline is not None:
            axes.axhline(baseline, color=look.GREY, linestyle=":", linewidth=1)
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes, cost in zip(panels, shown.values(), strict=True):
        _label_points(axes, canvas, names, _on_log_axis(cost), accuracy, intervals, _frontier(cost, accuracy))
    return look.png(figure)


def _cost_points(axes: Axes, cost: Floats, accuracy: Floats, intervals: Floats) -> None:
    look.grid(axes)
    axes.set_xscale("log")
    placed, frontier = _on_log_axis(cost), _frontier(cost, accuracy)
    if np.nanmin(placed) == np.nanmax(placed):  # no range that margins could widen
        axes.set_xlim(np.nanmin(placed) / 3, np.nanmax(placed) * 3)
    axes.step(placed[frontier], accuracy[frontier], where="post", color=look.GREY, linewidth=1, zorder=1)
    for index in np.flatnonzero(np.isfinite(placed + accuracy)):
        best = index in frontier
        axes.vlines(placed[index], *intervals[index], color=look.COLOURS[0], linewidth=1.2, zorder=2)
        axes.plot(
            placed[index],
            accuracy[index],
            "o" if cost[index] > 0 else "<",
            color=look.COLOURS[0],
            markerfacecolor=look.COLOURS[0] if best else "white",
            markersize=7,
            zorder=3,
        )
    axes.margins(0.12, 0.1)
    _log_ticks(axes)


def _log_ticks(axes: Axes) -> None:
    """Name 1, 2, 5, 10 … on a short log axis, powers of ten on a long one."""
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 800 else (1,), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _on_log_axis(cost: Floats) -> Floats:
    """Return the costs with zeros moved a little left of the smallest."""
    positive = cost[np.isfinite(cost) & (cost > 0)]
    return np.where(cost > 0, cost, np.where(cost == 0, positive.min() / 3, np.nan))


def _frontier(cost: Floats, accuracy: Floats) -> list[int]:
    """Return the models that no other beats at their cost or less, cheapest first."""
    found: list[int] = []
    for index in np.lexsort((-accuracy, cost)):
        if np.isfinite(cost[index] + accuracy[index]) and (not found or accuracy[index] > accuracy[found[-1]]):
            found.append(int(index))
    return found


def short_number(value: float) -> str:
    """Return a number as people write it on an axis: 0.5, 20, 3k, 40M, 2G, 5T."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


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
            look.shorten(names[index], 26),
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


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def curves(models: Mapping[str, Sequence[Mapping[str, Any]]], score_name: str = "validation accuracy") -> bytes:
    """Draw the validation score of several models, name -> epochs, against epochs and against training time.

    An epoch may have `epoch`, `val_score` (a share) and `seconds` (its own); models without a score are left out.
    """
    lines = {name: line for name, curve in models.items() if np.isfinite((line := _line(curve))[2]).any()}
    if not lines:
        return look.empty("Learning curves")
    timed = any(np.nanmax(seconds, initial=0) > 0 for _, seconds, _ in lines.values())
    figure = look.figure(3.9 * (1 + timed) + 2.4, 4.2)
    panels = figure.subplots(1, 1 + timed, squeeze=False, sharey=True)[0]
    handles: list[Any] = []
    for column, (axes, title) in enumerate(zip(panels, ("epoch", "seconds of training"), strict=False)):
        look.grid(axes)
        axes.set_xscale("log")
        handles = [
            axes.plot(line[column], line[2], color=colour, linestyle=dashes, linewidth=1.6, marker="o", markersize=3)[0]
            for line, (dashes, colour) in zip(lines.values(), _STYLES * (1 + len(lines) // len(_STYLES)), strict=False)
        ]
        _log_ticks(axes)
        look.dress(axes, "", title, "" if column else score_name)
        _percent(axes)
    named = [look.shorten(name, 26) for name in lines]
    look.legend(panels[-1], handles, named, loc="upper left", bbox_to_anchor=(1.01, 1))
    return look.png(figure)


def _line(curve: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats, Floats]:
    """Return epochs, seconds since the start and scores."""
    columns = [
        np.array([np.nan if (value := row.get(name, other)) is None else value for row, other in rows], dtype=float)
        for name, rows in (
            ("epoch", list(zip(curve, range(1, len(curve) + 1), strict=True))),
            ("seconds", [(row, np.nan) for row in curve]),
            ("val_score", [(row, np.nan) for row in curve]),
        )
    ]
    epochs, seconds, scores = columns
    return np.where(epochs > 0, epochs, np.nan), np.cumsum(seconds), np.where(np.isfinite(scores), scores, np.nan)


def reliabilities(models: Mapping[str, tuple[Array, Array]]) -> bytes:
    """Draw the reliability of several models side by side, name -> (mean score, share right) of bins (B,)."""
    bins = {name: np.array(each, dtype=float) for name, each in models.items()}
    bins = {name: found for name, each in bins.items() if (found := each[:, np.isfinite(each).all(axis=0)]).size}
    if not bins:
        return look.empty("Reliability")
    columns = min(4, len(bins))
    rows = -(-len(bins) // columns)
    figure = look.figure(2.55 * columns + 0.3, 2.65 * rows + 0.2)
    cells = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
    for axes, (name, (confidence, right)) in zip(cells, bins.items(), strict=False):
        look.grid(axes)
        axes.plot([0, 1], [0, 1], color=look.GREY, linestyle="--", linewidth=1)
        axes.plot(confidence, right, "o-", color=look.COLOURS[0], markersize=3.5, linewidth=1.5)
        look.dress(axes, look.shorten(name, 26))
        axes.title.set_fontsize(look.BODY)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    for axes in figure.axes[len(bins) :]:
        axes.set_axis_off()
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(h_pad=0.09)  # type: ignore[call-arg]
    figure.supxlabel("mean score of the best tag", fontsize=look.BODY, color=look.INK)
    figure.supylabel("share that is right", fontsize=look.BODY, color=look.INK)
    return look.png(figure)


def k_curve(metrics: Mapping[str, Mapping[int, float]]) -> bytes:
    """Draw the validation accuracy of nearest neighbours, metric -> k -> accuracy; the best is marked."""
    lines = {name: {k: v for k, v in sorted(line.items()) if np.isfinite(v)} for name, line in metrics.items()}
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return look.empty("Accuracy for each k")
    figure = look.figure(5.4, 3.8)
    axes = figure.subplots()
    look.dress(axes, "Choosing k", "neighbours that vote (k)", "validation accuracy")
    look.grid(axes, "y")
    axes.set_xscale("log", base=2)
    handles = [
        axes.plot(list(line), list(line.values()), color=colour, linestyle=dashes, marker="o", markersize=4)[0]
        for line, (dashes, colour) in zip(lines.values(), _STYLES, strict=False)
    ]
    ks = sorted({k for line in lines.values() for k in line})
    axes.set_xticks(_apart(ks), [f"{k}" for k in _apart(ks)])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    name, k, value = max(((n, k, v) for n, line in lines.items() for k, v in line.items()), key=lambda each: each[2])
    axes.plot(k, value, "o", markersize=10, markerfacecolor="none", markeredgecolor=look.INK, zorder=5)
    named = [
        look.shorten(each, 20) + (f": best with k = {k}, {100 * value:.1f}%" if each == name else "") for each in lines
    ]
    _percent(axes)
    look.legend_below(axes, handles, named)
    return look.png(figure)


def _apart(ks: Sequence[int]) -> list[int]:
    """Return those whose names on a log axis do not touch."""
    places = np.log2(np.maximum(ks, 1))
    chosen = [0]
    for index in range(1, len(ks)):
        if places[index] - places[chosen[-1]] > np.ptp(places) / 14:
            chosen.append(index)
    return [ks[index] for index in chosen]


def per_class(shares: Array, models: Sequence[str], names: Sequence[str]) -> bytes:
    """Draw the accuracy of models (rows) on each class (columns), shares (M, K); NaN where a class has no images.

    Up to 20 classes the percentage stands in the cell; beyond, every n-th class is named.
    """
    shares = np.asarray(shares, dtype=float)
    if shares.shape != (len(models), len(names)):
        raise ValueError(f"shares must be {(len(models), len(names))} for these models and names, got {shares.shape}")
    if not shares.size:
        return look.empty("Accuracy per class")
    named = len(names) <= NAMED_CLASSES
    width = min(10.4, 2.6 + 0.62 * len(names))
    figure = look.figure(width, 1.9 + 0.36 * len(models))
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    look.dress(axes)
    step = 1 if named else -(-len(names) // _CLASS_TICKS)
    places = range(0, len(names), step)
    short = [look.shorten(names[place], 18) for place in places]
    turn = 90 if not named else 45 if max(map(len, short)) > 5 and len(names) > 2 else 0
    anchor: dict[str, Any] = {"ha": "left", "rotation_mode": "anchor"} if turn == 45 else {}
    axes.xaxis.tick_top()
    size = look.SMALL if named else 7.0
    axes.set_xticks(places, short, fontsize=size, rotation=turn, **anchor, **look.lettering())
    labels = [look.shorten(model, 26) for model in models]
    axes.set_yticks(range(len(models)), labels, fontsize=look.SMALL, **look.lettering())
    for spine in axes.spines.values():
        spine.set_visible(False)
    if named:
        _write_shares(axes, shares)
        return look.png(figure)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.9, aspect=12, pad=0.02, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0%", "50%", "100%"], fontsize=look.SMALL, color=look.INK)
    bar.outline.set_visible(False)
    return look.png(figure)


def _write_shares(axes: Axes, shares: Floats) -> None:
    for (row, column), share in np.ndenumerate(shares):
        text = f"{100 * share:.0f}" if np.isfinite(share) else "–"
        colour = "white" if share > 0.6 else look.INK
        axes.text(column, row, text, ha="center", va="center", fontsize=look.BODY, color=colour)


def neighbours(
    queries: Sequence[Array],
    captions: Sequence[str],
    images: Sequence[Sequence[Array]],
    labels: Sequence[Sequence[str]],
    right: Sequence[Sequence[bool]],
    distances: Sequence[Sequence[float]],
) -> bytes:
    """Draw each query (H, W, 3) uint8 under its caption, beside it its neighbours, nearest first.

    A neighbour whose label is the query's has a green frame and a tick, others an orange frame. At most 12 rows of 10.
    Raises ValueError when there are not as many of each as there are queries.
    """
    if len({len(each) for each in (queries, captions, images, labels, right, distances)}) > 1:
        raise ValueError("queries, captions, images, labels, right and distances must be equally many")
    if not len(queries):
        return look.empty("Neighbours")
    rows, columns = min(len(queries), QUERIES), min(max(map(len, images)), NEIGHBOURS)
    height = 1.75
    figure = look.figure(0.88 * (columns + 1.35), 0.88 * height * rows)
    axes = _sheet(figure.subplots(), columns + 1.35, height * rows)
    for row in range(rows):
        top = height * row
        _write(axes, 0.05, top + 0.2, captions[row], 60, "left", look.BODY)
        _place(axes, queries[row], 0, top + 0.33, None)
        for column in range(min(len(images[row]), columns)):
            good, x = bool(right[row][column]), column + 1.35
            _place(axes, images[row][column], x, top + 0.33, _RIGHT if good else _WRONG)
            _write(axes, x + 0.48, top + 1.38, ("✓ " if good else "") + labels[row][column], 13, "center", 7.5)
            _write(axes, x + 0.48, top + 1.56, _distance(distances[row][column]), 10, "center", 7, look.GREY)
    return look.png(figure)


def _distance(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _sheet(axes: Axes, width: float, height: float) -> Axes:
    """Return axes to lay pictures on: a unit is a cell, y goes down."""
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    return axes


def _place(axes: Axes, picture: Array, x: float, y: float, frame: str | None, side: float = 0.92) -> None:
    """Lay a picture, in its own shape, in the middle of a square cell."""
    height, width = picture.shape[:2]
    across, down = side * width / max(height, width), side * height / max(height, width)
    left, top = x + (side - across) / 2, y + (side - down) / 2
    limits = axes.get_xlim(), axes.get_ylim()
    grey = {"cmap": "gray"} if picture.ndim == 2 else {}
    axes.imshow(picture, extent=(left, left + across, top + down, top), interpolation="antialiased", zorder=2, **grey)  # type: ignore[arg-type]
    axes.set(xlim=limits[0], ylim=limits[1])
    if frame:
        axes.add_patch(Rectangle((left, top), across, down, fill=False, edgecolor=frame, linewidth=2.4, zorder=3))


def _write(
    axes: Axes, x: float, y: float, text: str, most: int, side: str, size: float, colour: str = look.INK
) -> None:
    axes.text(x, y, look.shorten(text, most), ha=side, fontsize=size, color=colour, **look.lettering())


def templates(weights: Array, names: Sequence[str]) -> bytes:
    """Draw the weights of a linear model (K, H, W, 3) or (K, H, W) as pictures, each scaled to its own range.

    The class name stands below; no more than the first 60. Raises ValueError when weights and names do not fit.
    """
    if len(weights) != len(names):
        raise ValueError(f"{len(weights)} templates but {len(names)} names")
    if not len(names):
        return look.empty("Templates")
    shown = min(len(names), TEMPLATES)
    columns = min(shown, 5 if shown <= 10 else 10)
    cell, height = (1.55, 1.17) if columns <= 5 else (0.95, 1.28)
    rows = -(-shown // columns)
    figure = look.figure(cell * columns, cell * height * rows)
    axes = _sheet(figure.subplots(), columns, height * rows)
    for index in range(shown):
        x, y = index % columns, height * (index // columns)
        _place(axes, _scaled(weights[index]), x + 0.04, y + 0.02, None)
        _write(axes, x + 0.5, y + height - 0.08, names[index], 20 if columns <= 5 else 14, "center", look.SMALL)
    return look.png(figure)


def filters(weights: Array) -> bytes:
    """Draw filters (n, h, w, 3) or (n, h, w), each scaled to its own range; of more than 64 those of largest norm."""
    weights = np.nan_to_num(np.asarray(weights, dtype=float))
    if not weights.size:
        return look.empty("Filters")
    norms = np.linalg.norm(weights.reshape(len(weights), -1), axis=1)
    chosen = np.sort(np.argsort(-norms, kind="stable")[:FILTERS])
    columns = min(len(chosen), 16 if len(chosen) > 10 else 10)
    rows = -(-len(chosen) // columns)
    side = 0.56
    figure = look.figure(side * columns, side * rows)
    axes = _sheet(figure.subplots(), columns, rows)
    for place, index in enumerate(chosen):
        _place(axes, _scaled(weights[index]), place % columns + 0.04, place // columns + 0.04, None)
    return look.png(figure)


def _scaled(weights: Array) -> Floats:
    """Return weights as a picture from 0 to 1; what is flat or not finite becomes mid-grey."""
    values = np.asarray(weights, dtype=float)
    finite = values[np.isfinite(values)]
    span = np.ptp(finite) if finite.size else 0.0
    if not span:
        return np.full(values.shape, 0.5)
    return np.where(np.isfinite(values), (values - finite.min()) / span, 0.5)
