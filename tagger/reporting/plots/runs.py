"""Plots of how a model came about: epochs of a training, trials of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tagger.reporting.plots import look

Floats = npt.NDArray[np.float64]
IMPORTANCES = 12


def learning_curves(curve: Sequence[Mapping[str, Any]], score_name: str = "validation score") -> bytes:
    """Draw loss and validation score side by side, and the learning rate where it is known; the best epoch is marked.

    Each epoch may have `epoch`, `train_loss`, `val_loss`, `val_score` (higher is better) and `lr`; what is missing
    leaves a gap. The best epoch has the highest score, or without scores the lowest validation loss.
    """
    epochs = np.array([row.get("epoch", index + 1) for index, row in enumerate(curve)], dtype=float)
    scores, losses = _column(curve, "val_score"), _column(curve, "val_loss")
    panels = {
        "Loss": {"training": _column(curve, "train_loss"), "validation": losses},
        score_name: {"validation": scores},
        "Learning rate": {"": _column(curve, "lr")},
    }
    known = {title: found for title, series in panels.items() if (found := _known(series))}
    if not known:
        return look.empty("Learning curves")
    best = _best(scores, losses)
    figure = look.figure(4.4 * len(known), 3.8)
    for axes, (title, series) in zip(figure.subplots(1, len(known), squeeze=False).flat, known.items(), strict=True):
        _lines(axes, title, epochs, series, best)
    return look.png(figure)


def _known(series: Mapping[str, Floats]) -> dict[str, Floats]:
    return {name: values for name, values in series.items() if np.isfinite(values).any()}


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Floats:
    values = (row.get(name) for row in rows)
    return _finite([np.nan if value is None else value for value in values])


def _finite(values: Any) -> Floats:
    array = np.array(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def _best(scores: Floats, losses: Floats) -> int | None:
    if np.isfinite(scores).any():
        return int(np.nanargmax(scores))
    return int(np.nanargmin(losses)) if np.isfinite(losses).any() else None


def _lines(axes: Axes, title: str, epochs: Floats, series: Mapping[str, Floats], best: int | None) -> None:
    look.dress(axes, title, "epoch")
    look.grid(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    marker = "o" if len(epochs) <= 30 else ""
    colours = {"training": look.COLOURS[1], "validation": look.COLOURS[0], "": look.GREY}
    handles = [
        axes.plot(epochs, values, color=colours[name], marker=marker, markersize=3.5, linewidth=1.7)[0]
        for name, values in series.items()
    ]
    if "" in series:
        return
    named = list(series)
    if best is not None:
        value = series["validation"][best] if "validation" in series else np.nan
        handles.append(axes.axvline(epochs[best], color=look.INK, linestyle="--", linewidth=0.9))
        named.append(f"best epoch {epochs[best]:g}" + (f": {value:.4g}" if np.isfinite(value) else ""))
        axes.plot(epochs[best], value, "o", color=look.COLOURS[0], markeredgecolor=look.INK, markersize=7, zorder=5)
    look.legend_below(axes, handles, named)


def trials(
    values: Sequence[float | None],
    best_so_far: Sequence[float | None],
    states: Sequence[str],
    importances: Mapping[str, float] | None = None,
) -> bytes:
    """Draw the value of every trial with the best so far; importances of the settings as bars beside.

    `states` are Optuna's (COMPLETE, PRUNED, FAIL, in any case). Trials without a value stand as crosses at the foot.
    Raises ValueError when the three lists are not equally long.
    """
    if not len(values) == len(best_so_far) == len(states):
        raise ValueError(f"{len(values)} values, {len(best_so_far)} best so far, {len(states)} states: must be as many")
    if not len(values):
        return look.empty("Trials")
    figure = look.figure(9.6 if importances else 6.2, 3.8)
    axes = figure.subplots(1, 2 if importances else 1, squeeze=False, width_ratios=[1.7, 1][: 2 if importances else 1])
    _trial_points(axes[0, 0], _numbers(values), _numbers(best_so_far), np.array([state.lower() for state in states]))
    if importances:
        _importance_bars(axes[0, 1], importances)
    return look.png(figure)


def _numbers(values: Sequence[float | None]) -> Floats:
    return _finite([np.nan if value is None else value for value in values])


def _trial_points(axes: Axes, values: Floats, best: Floats, states: npt.NDArray[np.str_]) -> None:
    look.dress(axes, "Trials", "trial", "value")
    look.grid(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    number = np.arange(1, len(values) + 1)
    valued, pruned = np.isfinite(values), states == "pruned"
    handles = axes.plot(number, best, color=look.COLOURS[1], linewidth=1.7, drawstyle="steps-post")
    named = ["best so far"]
    kinds: tuple[tuple[str, npt.NDArray[np.bool_], dict[str, Any]], ...] = (
        ("complete", valued & ~pruned, {"marker": "o", "color": look.COLOURS[0]}),
        ("pruned", valued & pruned, {"marker": "v", "color": look.GREY, "markerfacecolor": "white"}),
    )
    for name, chosen, style in kinds:
        if chosen.any():
            handles += axes.plot(number[chosen], values[chosen], linestyle="", markersize=5, **style)
            named.append(f"{name} ({chosen.sum():,})")
    if (~valued).any():
        foot = np.full((~valued).sum(), 0.02)
        where = axes.get_xaxis_transform()
        handles += axes.plot(number[~valued], foot, "x", color=look.INK, markersize=5, transform=where)
        named.append(f"no value ({len(foot):,})")
    axes.set_xlim(0.5, len(values) + 0.5)
    look.legend_below(axes, handles, named)


def _importance_bars(axes: Axes, importances: Mapping[str, float]) -> None:
    most = sorted(importances.items(), key=lambda item: item[1])[-IMPORTANCES:]
    places = range(len(most))
    axes.barh(places, [value for _, value in most], color=look.COLOURS[0], height=0.65)
    look.dress(axes, "Importance", "share of all settings' importance")
    look.grid(axes, "x")
    axes.set_ylim(min(0, len(most) - 5) - 0.6, len(most) - 0.4)  # no bar gets fat for want of company
    axes.set_yticks(places, [look.shorten(name, 24) for name, _ in most], fontsize=look.SMALL, **look.lettering())
