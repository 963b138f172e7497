"""Curves: learning, the choice of k, precision and recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tagger.evaluation.metrics import Array
from tagger.reporting.plots import look
from tagger.reporting.plots.look import Floats

Epochs = Sequence[Mapping[str, float | None]]

NAMED_CURVES = 12
_PALE = "#bdbdbd"


def learning_curves(curve: Epochs, score_name: str = "validation score") -> bytes:
    """Draw loss and validation score side by side, and the learning rate if known; the best epoch is marked.

    Each epoch may have `epoch`, `train_loss`, `val_loss`, `val_score` (higher is better) and `lr`; what is missing
    leaves a gap. The best epoch has the highest score, or without scores the lowest validation loss.
    """
    val_loss, scores = _column(curve, "val_loss"), _column(curve, "val_score")
    panels = {
        "Loss": {"training": _column(curve, "train_loss"), "validation": val_loss},
        score_name[:1].upper() + score_name[1:]: {"validation": scores},
        "Learning rate": {"": _column(curve, "lr")},
    }
    known = {title: {n: line for n, line in lines.items() if _any(line)} for title, lines in panels.items()}
    known = {title: lines for title, lines in known.items() if lines}
    if not known:
        return look.empty("Learning curves")
    ranks = scores if _any(scores) else -val_loss
    best = int(np.nanargmax(ranks)) if _any(ranks) else None
    figure = look.figure(4.4 * len(known), 3.8)
    for axes, (title, lines) in zip(figure.subplots(1, len(known), squeeze=False).flat, known.items(), strict=True):
        _panel(axes, title, _epochs(curve), lines, best)
    return look.png(figure)


def _epochs(curve: Epochs) -> Floats:
    return look.numbers([row.get("epoch", index) for index, row in enumerate(curve, 1)])


def _column(curve: Epochs, name: str) -> Floats:
    return look.numbers([row.get(name) for row in curve])


def _any(line: Floats) -> bool:
    """Return whether a line has a point."""
    return bool(np.isfinite(line).any())


def _panel(axes: Axes, title: str, epochs: Floats, lines: Mapping[str, Floats], best: int | None) -> None:
    look.dress(axes, title, "epoch")
    look.grid(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    colours = {"training": look.COLOURS[1], "validation": look.COLOURS[0], "": look.GREY}
    marker = "o" if len(epochs) <= 30 else ""
    handles: list[Artist] = []
    for name, line in lines.items():
        handles += axes.plot(epochs, line, color=colours[name], marker=marker, markersize=3.5, linewidth=1.7)
    if "" in lines:
        return
    named = list(lines)
    if best is not None:
        value = lines["validation"][best] if "validation" in lines else np.nan
        handles.append(axes.axvline(epochs[best], color=look.INK, linestyle="--", linewidth=0.9))
        named.append(f"best epoch {epochs[best]:g}" + (f": {value:.4g}" if np.isfinite(value) else ""))
        axes.plot(epochs[best], value, "o", color=look.COLOURS[0], markeredgecolor=look.INK, markersize=7, zorder=5)
    look.legend(axes, handles, named, "below")


def curves(models: Mapping[str, Epochs], score_name: str = "validation accuracy") -> bytes:
    """Draw the validation score of several models, name -> epochs, against epochs and against training time.

    An epoch may have `epoch`, `val_score` (a share) and `seconds` (its own).
    """
    scores = [_column(curve, "val_score") for curve in models.values()]
    panels = {
        "epoch": [_epochs(curve) for curve in models.values()],
        "seconds of training": [np.cumsum(_column(curve, "seconds")) for curve in models.values()],
    }
    shown = {title: lines for title, lines in panels.items() if any(map(_any, lines))}
    figure = look.figure(3.9 * len(shown) + 2.4, 4.2)
    every = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (title, places) in zip(every, shown.items(), strict=True):
        look.grid(axes)
        axes.set_xscale("log")
        for k, (x, y) in enumerate(zip(places, scores, strict=True)):
            colour, dashes = look.line_style(k)
            axes.plot(np.where(x > 0, x, np.nan), y, "o", linestyle=dashes, color=colour, linewidth=1.6, markersize=3)
        look.log_ticks(axes)
        look.dress(axes, "", title, score_name if axes is every[0] else "")
        look.percent(axes)
    look.legend(every[-1], list(every[-1].lines), [look.shorten(name, look.MODEL) for name in models], "beside")
    return look.png(figure)


def k_curve(metrics: Mapping[str, Mapping[int, float]]) -> bytes:
    """Draw the validation accuracy of nearest neighbours, metric -> k -> accuracy; the best is marked."""
    points = [(value, -k, name) for name, line in metrics.items() for k, value in line.items() if np.isfinite(value)]
    value, k, best = max(points)  # of equal ones the smallest k
    figure = look.figure(5.4, 3.8)
    axes = figure.subplots()
    look.dress(axes, "Choosing k", "neighbours that vote (k)", "validation accuracy")
    look.grid(axes, "y")
    axes.set_xscale("log")
    for index, line in enumerate(metrics.values()):
        colour, dashes = look.line_style(index)
        axes.plot(sorted(line), [line[k] for k in sorted(line)], "o", linestyle=dashes, color=colour, markersize=4)
    handles = list(axes.lines)
    axes.plot(-k, value, "o", markersize=10, markerfacecolor="none", markeredgecolor=look.INK, zorder=5)
    look.log_ticks(axes)
    look.percent(axes)
    found = f": best with k = {-k}, {100 * value:.1f}%"
    look.legend(axes, handles, [look.shorten(name, 20) + found * (name == best) for name in metrics], "below")
    return look.png(figure)


def precision_recall(
    curves: Mapping[str, tuple[Array, Array]],
    average_precision: Mapping[str, float],
    thresholds: Mapping[str, tuple[float, float] | None],
    precision_target: float | None = None,
) -> bytes:
    """Draw tag -> (recall, precision): the first 12 tags in colour with their average precision, the rest in grey.

    A dot marks the (recall, precision) at the chosen threshold, a dashed line the target precision.
    """
    if not curves:
        return look.empty("Precision and recall")
    figure = look.figure(8.4, 5.2)
    axes = figure.subplots()
    look.dress(axes, "Precision and recall per tag", "recall", "precision")
    look.grid(axes)
    handles: list[Artist] = []
    named: list[str] = []
    if precision_target is not None:
        handles.append(axes.axhline(precision_target, color=look.INK, linestyle="--", linewidth=1.1))
        named.append(f"target precision {precision_target:g}")
    for recall, precision in islice(curves.values(), NAMED_CURVES, None):
        axes.plot(recall, precision, zorder=1, drawstyle=_steps(recall), color=_PALE, linewidth=0.8)
    for index, (tag, (recall, precision)) in enumerate(islice(curves.items(), NAMED_CURVES)):
        colour, dashes = look.line_style(index)
        handles += axes.plot(recall, precision, linewidth=1.5, drawstyle=_steps(recall), color=colour, linestyle=dashes)
        score = average_precision.get(tag)
        named.append(look.shorten(tag, 24) + ("" if score is None else f"  {score:.3f}"))
        if point := thresholds.get(tag):
            axes.plot(*point, "o", color=colour, markersize=7, markeredgecolor="white", zorder=5, clip_on=False)
    if (rest := len(curves) - NAMED_CURVES) > 0:
        handles += axes.plot([], [], color=_PALE, linewidth=0.8)
        named.append(f"{rest:,} more tag{'s' * (rest > 1)}")
    if any(thresholds.get(tag) for tag in islice(curves, NAMED_CURVES)):
        handles += axes.plot([], [], "o", color=look.GREY, markersize=7)
        named.append("at the chosen threshold")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    look.legend(axes, handles, named, "beside", "tag and average precision")
    return look.png(figure)


def _steps(recall: Array) -> Literal["steps-pre", "steps-post"]:
    """Return how to step between points, so that the area under the line is the average precision."""
    rising = len(recall) < 2 or recall[0] <= recall[-1]
    return "steps-pre" if rising else "steps-post"
