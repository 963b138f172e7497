"""Reliability diagrams: the share of right tags against the score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tagger.evaluation import metrics
from tagger.evaluation.metrics import Array
from tagger.reporting.plots import look

Bins = tuple[Array, Array, Array]
"""Confidence, accuracy and weight per bin."""


def reliability(confidence: Array, accuracy: Array, weight: Array, before: Bins | None = None) -> bytes:
    """Draw the reliability diagram of bins (B,), their weights below, the expected calibration error in the title.

    `weight` is the number of images in a bin, which gives the bars, Wilson's 95%; empty bins are left out. `before` has
    the same three arrays without calibration. The error is the weighted mean of |accuracy - confidence| (Naeini et al.
    2015).
    """
    after = _filled(confidence, accuracy, weight)
    if not after[2].size:
        return look.empty("Reliability")
    figure = look.figure(5.2, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    title = f"Expected calibration error {_calibration_error(after):.3f}"
    handles, named = _diagonal(upper), ["perfectly calibrated"]
    if before is not None and (raw := _filled(*before))[2].size:
        title += f" (before {_calibration_error(raw):.3f})"
        handles += upper.plot(raw[0], raw[1], "s:", color=look.COLOURS[1], markersize=4, linewidth=1.4)
        named.append("before calibration")
    low, high = np.transpose([metrics.wilson_interval(round(a * n), round(n)) for _, a, n in zip(*after, strict=True)])
    upper.vlines(after[0], low, high, color=look.COLOURS[0], alpha=0.45, linewidth=1.4)
    handles += upper.plot(after[0], after[1], "o-", color=look.COLOURS[0], markersize=5, linewidth=1.8)
    named.append("this model" if before is None else "after calibration")
    look.dress(upper, title, "", "share that is right")
    look.legend(upper, handles, named)
    lower.bar(after[0], after[2] / after[2].sum(), width=0.8 / max(10, len(weight)), color=look.COLOURS[0], alpha=0.8)
    look.dress(lower, "", "confidence", "share of images")
    look.grid(lower)
    return look.png(figure)


def reliabilities(models: Mapping[str, tuple[Array, Array]]) -> bytes:
    """Draw the reliability of several models side by side, name -> (mean score, share right) of bins (B,)."""
    columns = min(4, len(models))
    rows = -(-len(models) // columns)
    figure = look.figure(2.55 * columns + 0.3, 2.7 * rows + 0.2)
    figure.set_layout_engine("constrained", h_pad=0.09)  # room for the titles of the next row
    for index, (name, (confidence, right)) in enumerate(models.items(), 1):
        axes = figure.add_subplot(rows, columns, index)
        _diagonal(axes)
        axes.plot(confidence, right, "o-", color=look.COLOURS[0], markersize=3.5, linewidth=1.5)
        look.dress(axes, look.shorten(name, look.MODEL))
        axes.title.set_fontsize(look.BODY)
        axes.set_aspect("equal")
    figure.supxlabel("mean score of the best tag", fontsize=look.BODY, color=look.INK)
    figure.supylabel("share that is right", fontsize=look.BODY, color=look.INK)
    return look.png(figure)


def _diagonal(axes: Axes) -> list[Line2D]:
    """Draw the line of perfect calibration on axes from 0 to 1."""
    look.grid(axes)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return axes.plot([0, 1], [0, 1], color=look.GREY, linestyle="--", linewidth=1)


def _filled(confidence: Array, accuracy: Array, weight: Array) -> Array:
    """Return the bins that are not empty, (3, B)."""
    bins = np.array([confidence, accuracy, weight], dtype=float)
    return bins[:, np.isfinite(bins).all(axis=0) & (bins[2] > 0)]


def _calibration_error(bins: Array) -> float:
    return float(np.average(np.abs(bins[1] - bins[0]), weights=bins[2]))
