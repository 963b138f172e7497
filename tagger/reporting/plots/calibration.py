"""Reliability diagrams: accuracy against the score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tagger.evaluation import metrics
from tagger.evaluation.metrics import Reliability
from tagger.reporting.plots import look


def reliability(after: Reliability, before: Reliability) -> bytes:
    """Draw the reliability diagram of a model, with the images per bin below it; `before` is without calibration.

    Bars are Wilson 95% intervals. The title has the expected calibration errors.
    """
    if not len(after.count):
        return look.empty("Reliability")
    figure = look.figure(5.2, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    handles = _diagonal(upper)
    handles += upper.plot(before.confidence, before.right, "s:", color=look.COLOURS[1], markersize=4, linewidth=1.4)
    pairs = zip(after.right, after.count, strict=True)
    low, high = np.transpose([metrics.wilson_interval(round(right * count), count) for right, count in pairs])
    upper.vlines(after.confidence, low, high, color=look.COLOURS[0], alpha=0.45, linewidth=1.4)
    handles += upper.plot(after.confidence, after.right, "o-", color=look.COLOURS[0], markersize=5, linewidth=1.8)
    title = f"Expected calibration error {after.error:.3f} (before {before.error:.3f})"
    look.dress(upper, title, "", "accuracy")
    look.legend(upper, handles, ["perfectly calibrated", "before calibration", "after calibration"])
    shares, width = after.count / after.count.sum(), 0.8 / max(10, len(after.count))
    lower.bar(after.confidence, shares, width=width, color=look.COLOURS[0], alpha=0.8)
    look.dress(lower, "", "confidence", "share of images")
    look.grid(lower)
    return look.png(figure)


def reliabilities(models: Mapping[str, Reliability]) -> bytes:
    """Draw the reliability of several models side by side."""
    columns = min(4, len(models))
    rows = -(-len(models) // columns)
    figure = look.figure(2.55 * columns + 0.3, 2.7 * rows + 0.2)
    figure.set_layout_engine("constrained", h_pad=0.09)  # room for the titles of the next row
    for index, (name, bins) in enumerate(models.items(), 1):
        axes = figure.add_subplot(rows, columns, index)
        _diagonal(axes)
        axes.plot(bins.confidence, bins.right, "o-", color=look.COLOURS[0], markersize=3.5, linewidth=1.5)
        look.dress(axes, look.shorten(name, look.MODEL))
        axes.title.set_fontsize(look.BODY)
        axes.set_aspect("equal")
    figure.supxlabel("mean score of the best tag", fontsize=look.BODY, color=look.INK)
    figure.supylabel("accuracy", fontsize=look.BODY, color=look.INK)
    return look.png(figure)


def _diagonal(axes: Axes) -> list[Line2D]:
    """Draw the line of perfect calibration on axes from 0 to 1."""
    look.grid(axes)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    return axes.plot([0, 1], [0, 1], color=look.GREY, linestyle="--", linewidth=1)
