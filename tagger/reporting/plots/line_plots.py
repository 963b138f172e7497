"""Curves: learning, the choice of k, precision and recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, product
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tagger.reporting.plots import look
from tagger.reporting.plots.look import Floats

Array = npt.NDArray[Any]
Epochs = Sequence[Mapping[str, Any]]

NAMED_CURVES = 12
_STYLES: list[dict[str, Any]] = [
    {"linestyle": dashes, "color": colour} for dashes, colour in product(("-", (0, (4, 1.5)), ":"), look.COLOURS)
]
_PALE: dict[str, Any] = {"color": "#bdbdbd", "linewidth": 0.8}


def learning_curves(curve: Epochs, score_name: str = "validation score") -> bytes:
    """Draw loss and validation score side by side, and the learning rate where it is known; the best epoch is marked.

    Each epoch may have `epoch`, `train_loss`, `val_loss`, `val_score` (higher is better) and `lr`; what is missing
    leaves a gap. The best epoch has the highest score, or without scores the lowest validation loss.
    """
    epochs = look.numbers([row.get("epoch", index) for index, row in enumerate(curve, 1)])
    train_loss, val_loss, scores, rates = (
        _column(curve, each) for each in ("train_loss", "val_loss", "val_score", "lr")
    )
    panels = {
        "Loss": {"training": train_loss, "validation": val_loss},
        score_name[:1].upper() + score_name[1:]: {"validation": scores},
        "Learning rate": {"": rates},
    }
    known = {
        title: {name: line for name, line in lines.items() if np.isfinite(line).any()}
        for title, lines in panels.items()
    }
    known = {title: lines for title, lines in known.items() if lines}
    if not known:
        return look.empty("Learning curves")
    ranks = scores if np.isfinite(scores).any() else -val_loss
    best = int(np.nanargmax(ranks)) if np.isfinite(ranks).any() else None
    figure = look.figure(4.4 * len(known), 3.8)
    for axes, (title, lines) in zip(figure.subplots(1, len(known), squeeze=False).flat, known.items(), strict=True):
        _panel(axes, title, epochs, lines, best)
    return look.png(figure)


def _column(curve: Epochs, name: str) -> Floats:
    return look.numbers([row.get(name) for row in curve])


def _panel(axes: Axes, title: str, epochs: Floats, lines: Mapping[str, Floats], best: int | None) -> None:
    look.dress(axes, title, "epoch")
    look.grid(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    colours = {"training": look.COLOURS[1], "validation": look.COLOURS[0], "": look.GREY}
    style: dict[str, Any] = {"marker": "o" if len(epochs) <= 30 else "", "markersize": 3.5, "linewidth": 1.7}
    handles = [axes.plot(epochs, line, color=colours[name], **style)[0] for name, line in lines.items()]
    if "" in lines:
        return
    named = list(lines)
    if best is not None:
        value = lines["validation"][best] if "validation" in lines else np.nan
        handles.append(axes.axvline(epochs[best], color=look.INK, linestyle="--", linewidth=0.9))
        named.append(f"best epoch {epochs[best]:g}" + (f": {value:.4g}" if np.isfinite(value) else ""))
        axes.plot(epochs[best], value, "o", color=look.COLOURS[0], markeredgecolor=look.INK, markersize=7, zorder=5)
    look.legend_below(axes, handles, named)


def curves(models: Mapping[str, Epochs], score_name: str = "validation accuracy") -> bytes:
    """Draw the validation score of several models, name -> epochs, against epochs and against training time.

    An epoch may have `epoch`, `val_score` (a share) and `seconds` (its own); models without a score are left out.
    """
    scores = {name: line for name, curve in models.items() if np.isfinite(line := _column(curve, "val_score")).any()}
    if not scores:
        return look.empty("Learning curves")
    epochs = [look.numbers([row.get("epoch", k) for k, row in enumerate(models[name], 1)]) for name in scores]
    seconds = [np.cumsum(_column(models[name], "seconds")) for name in scores]
    timed = any(np.isfinite(each).any() for each in seconds)
    figure = look.figure(3.9 * (1 + timed) + 2.4, 4.2)
    panels = figure.subplots(1, 1 + timed, squeeze=False, sharey=True)[0]
    handles: list[Any] = []
    for axes, title, places in zip(panels, ("epoch", "seconds of training"), (epochs, seconds), strict=False):
        look.grid(axes)
        axes.set_xscale("log")
        handles = [
            axes.plot(
                np.where(x > 0, x, np.nan), y, linewidth=1.6, marker="o", markersize=3, **_STYLES[k % len(_STYLES)]
            )[0]
            for k, (x, y) in enumerate(zip(places, scores.values(), strict=True))
        ]
        look.log_ticks(axes)
        look.dress(axes, "", title, score_name if axes is panels[0] else "")
        look.percent(axes)
    named = [look.shorten(name, look.MODEL) for name in scores]
    look.legend(panels[-1], handles, named, loc="upper left", bbox_to_anchor=(1.01, 1))
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
    axes.set_xscale("log")
    handles = [
        axes.plot(list(line), list(line.values()), marker="o", markersize=4, **style)[0]
        for line, style in zip(lines.values(), _STYLES, strict=False)
    ]
    value, k, best = max((value, -k, name) for name, line in lines.items() for k, value in line.items())
    axes.plot(-k, value, "o", markersize=10, markerfacecolor="none", markeredgecolor=look.INK, zorder=5)
    look.log_ticks(axes)
    look.percent(axes)
    found = f": best with k = {-k}, {100 * value:.1f}%"
    look.legend_below(axes, handles, [look.shorten(name, 20) + found * (name == best) for name in lines])
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
    handles, named = [], []
    if precision_target is not None:
        handles.append(axes.axhline(precision_target, color=look.INK, linestyle="--", linewidth=1.1))
        named.append(f"target precision {precision_target:g}")
    for recall, precision in islice(curves.values(), NAMED_CURVES, None):
        axes.plot(recall, precision, zorder=1, drawstyle=_steps(recall), **_PALE)
    for (tag, (recall, precision)), style in zip(curves.items(), _STYLES[:NAMED_CURVES], strict=False):
        handles += axes.plot(recall, precision, linewidth=1.5, drawstyle=_steps(recall), **style)
        score = average_precision.get(tag)
        named.append(look.shorten(tag, 24) + ("" if score is None else f"  {score:.3f}"))
        if point := thresholds.get(tag):
            axes.plot(*point, "o", color=style["color"], markersize=7, markeredgecolor="white", zorder=5, clip_on=False)
    if (rest := len(curves) - NAMED_CURVES) > 0:
        handles += axes.plot([], [], **_PALE)
        named.append(f"{rest:,} more tag{'s' * (rest > 1)}")
    if any(thresholds.get(tag) for tag in islice(curves, NAMED_CURVES)):
        handles += axes.plot([], [], "o", color=look.GREY, markersize=7)
        named.append("at the chosen threshold")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    look.legend(axes, handles, named, loc="upper left", bbox_to_anchor=(1.01, 1), title="tag and average precision")
    return look.png(figure)


def _steps(recall: Array) -> Any:
    """Return how to step between points, so that the area under the line is the average precision."""
    rising = len(recall) < 2 or recall[0] <= recall[-1]
    return "steps-pre" if rising else "steps-post"
