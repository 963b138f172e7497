"""Plots of what a model says against what is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, product
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from PIL import Image

from tagger.evaluation import metrics
from tagger.reporting.plots import look

Array = npt.NDArray[Any]
Bins = tuple[Array, Array, Array]
"""Confidence, accuracy and weight per bin."""

NAMED_CURVES = 12
NAMED_CELLS = 20
PICTURES = 60
_TICKS = 34
_THUMBNAIL = 240


def confusion_matrix(counts: Array, names: Sequence[str]) -> bytes:
    """Draw counts (K, K), label in the row and tag in the column; shades are shares of the row.

    Up to 20 names the counts stand in the cells; beyond, only every n-th name is written and the shades follow the
    square root of the share, so that rare confusions show. Raises ValueError when counts and names do not fit.
    """
    size = len(names)
    if np.shape(counts) != (size, size):
        raise ValueError(f"counts must be ({size}, {size}) for {size} names, got {np.shape(counts)}")
    if not size:
        return look.empty("Confusion matrix")
    counts = np.asarray(counts)
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    side = min(9.5, max(3.8, 2.2 + 0.4 * size))
    figure = look.figure(side + 0.9, side)
    axes = figure.subplots()
    shades = PowerNorm(1.0 if size <= NAMED_CELLS else 0.5, 0, 1)
    drawn = axes.imshow(shares, cmap="Blues", norm=shades, interpolation="antialiased", aspect="equal")
    look.dress(axes, "Confusion matrix", "tag", "label")
    _name_ticks(axes, names)
    if size <= NAMED_CELLS:
        _write_cells(axes, counts, shares)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.7, aspect=30, pad=0.02, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.set_label("share of the label's images", fontsize=look.SMALL, color=look.INK)
    bar.ax.tick_params(labelsize=look.SMALL, colors=look.INK)
    bar.outline.set_visible(False)
    return look.png(figure)


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    step = -(-len(names) // _TICKS)
    size = look.SMALL if len(names) <= NAMED_CELLS else 7.0
    places = range(0, len(names), step)
    short = [look.shorten(names[place], 22) for place in places]
    upright = len(names) > 4 or max(map(len, short)) > 8
    axes.set_yticks(places, short, fontsize=size, **look.lettering())
    axes.set_xticks(places, short, fontsize=size, rotation=90 if upright else 0, **look.lettering())


def _write_cells(axes: Axes, counts: Array, shares: Array) -> None:
    for row, column in zip(*np.nonzero(counts), strict=True):
        count = counts[row, column]
        axes.text(
            column,
            row,
            f"{count:,.0f}" if count < 10_000 else f"{count / 1000:,.0f}k",
            ha="center",
            va="center",
            fontsize=look.BODY if len(counts) <= 10 else 7.0,
            color="white" if shares[row, column] > 0.55 else look.INK,
        )


def reliability(confidence: Array, accuracy: Array, weight: Array, before: Bins | None = None) -> bytes:
    """Draw the reliability diagram of bins (B,), their weights below, the expected calibration error in the title.

    `weight` counts the images of a bin, from which come the bars, Wilson's 95%; empty bins are left out. `before` is
    the same three arrays without calibration. The error is the weighted mean of |accuracy - confidence| (Naeini et al.
    2015).
    """
    after = _filled(confidence, accuracy, weight)
    if not after[2].size:
        return look.empty("Reliability")
    figure = look.figure(5.2, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    title = f"expected calibration error {_calibration_error(after):.3f}"
    handles = upper.plot([0, 1], [0, 1], color=look.GREY, linestyle="--", linewidth=1)
    named = ["perfectly calibrated"]
    if before is not None and (raw := _filled(*before))[2].size:
        title += f" (before {_calibration_error(raw):.3f})"
        handles += upper.plot(raw[0], raw[1], "s:", color=look.COLOURS[1], markersize=4, linewidth=1.4)
        named.append("before calibration")
    low, high = np.transpose([metrics.wilson_interval(round(a * n), round(n)) for _, a, n in zip(*after, strict=True)])
    upper.vlines(after[0], low, high, color=look.COLOURS[0], alpha=0.45, linewidth=1.4)
    handles += upper.plot(after[0], after[1], "o-", color=look.COLOURS[0], markersize=5, linewidth=1.8)
    named.append("this model" if before is None else "after calibration")
    look.dress(upper, title[0].upper() + title[1:], "", "share that is right")
    look.legend(upper, handles, named, loc="upper left")
    width = 0.8 / max(10, len(weight))
    lower.bar(after[0], after[2] / after[2].sum(), width=width, color=look.COLOURS[0], alpha=0.8)
    look.dress(lower, "", "confidence", "share of images")
    for axes in (upper, lower):
        look.grid(axes)
        axes.set_xlim(-0.02, 1.02)
    upper.set_ylim(-0.02, 1.02)
    return look.png(figure)


def _filled(confidence: Array, accuracy: Array, weight: Array) -> Bins:
    bins = np.broadcast_arrays(*(np.asarray(values, dtype=float) for values in (confidence, accuracy, weight)))
    kept = np.isfinite(bins).all(axis=0) & (bins[2] > 0)
    return bins[0][kept], bins[1][kept], bins[2][kept]


def _calibration_error(bins: Bins) -> float:
    return float(np.average(np.abs(bins[1] - bins[0]), weights=bins[2]))


def precision_recall(
    curves: Mapping[str, tuple[Array, Array]],
    average_precision: Mapping[str, float],
    thresholds: Mapping[str, tuple[float, float] | None],
    precision_target: float | None = None,
) -> bytes:
    """Draw tag -> (recall, precision): the first 12 tags in colour with their average precision, the rest in grey.

    A dot marks the (recall, precision) at the chosen threshold, a dashed line the precision asked for.
    """
    if not curves:
        return look.empty("Precision and recall")
    figure = look.figure(8.4, 5.2)
    axes = figure.subplots()
    look.dress(axes, "Precision and recall per tag", "recall", "precision")
    look.grid(axes)
    for recall, precision in islice(curves.values(), NAMED_CURVES, None):
        axes.plot(recall, precision, color="#bdbdbd", linewidth=0.6, zorder=1, drawstyle=_steps(recall))
    handles, named = [], []
    if precision_target is not None:
        handles.append(axes.axhline(precision_target, color=look.INK, linestyle="--", linewidth=1.1))
        named.append(f"precision asked for: {precision_target:g}")
    styles = product(("-", (0, (4, 1.5))), look.COLOURS)
    for (tag, (recall, precision)), (line, colour) in zip(curves.items(), styles, strict=False):
        handles += axes.plot(recall, precision, color=colour, linestyle=line, linewidth=1.5, drawstyle=_steps(recall))
        score = average_precision.get(tag)
        named.append(look.shorten(tag, 24) + ("" if score is None else f"  {score:.3f}"))
        if point := thresholds.get(tag):
            axes.plot(*point, "o", color=colour, markersize=7, markeredgecolor="white", zorder=5, clip_on=False)
    if (rest := len(curves) - NAMED_CURVES) > 0:
        handles += axes.plot([], [], color="#bdbdbd", linewidth=0.8)
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


def mistakes(pictures: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str], columns: int = 6) -> bytes:
    """Draw pictures (H, W, 3) uint8 in a grid, each in its own shape; no more than the first 60.

    A caption has a line or several, each cut to what fits.
    Raises ValueError when there are not as many captions as pictures.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"{len(pictures)} pictures but {len(captions)} captions")
    if not pictures:
        return look.empty("Mistakes")
    shown = list(zip(pictures, captions, strict=True))[:PICTURES]
    columns = max(1, min(columns, len(shown)))
    rows = -(-len(shown) // columns)
    lines = max(len(caption.splitlines()) for _, caption in shown)
    figure = look.figure(1.75 * columns + 0.1, (1.8 + 0.18 * lines) * rows + 0.1)
    cells = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (picture, caption) in zip(cells, shown, strict=False):
        small = Image.fromarray(picture)
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        axes.imshow(np.asarray(small), aspect="equal", interpolation="antialiased")
        axes.set_title(
            "\n".join(look.shorten(line, 24) for line in caption.splitlines()),
            fontsize=look.SMALL,
            color=look.INK,
            **look.lettering(),
        )
        axes.set_anchor("N")
    for axes in figure.axes:
        axes.set_axis_off()
    return look.png(figure)
