"""Models side by side: learning curves, reliability, the choice of k, classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from tagger.reporting.plots import look

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

NAMED_CLASSES = 20
_CLASS_TICKS = 40
_STYLES = list(product(("-", (0, (4, 1.5)), ":"), look.COLOURS))


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
        look.log_ticks(axes)
        look.dress(axes, "", title, "" if column else score_name)
        look.percent(axes)
    named = [look.shorten(name, look.MODEL) for name in lines]
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
        look.dress(axes, look.shorten(name, look.MODEL))
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
    look.percent(axes)
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
    labels = [look.shorten(model, look.MODEL) for model in models]
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
