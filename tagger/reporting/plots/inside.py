"""Pictures that show what a model has learnt: neighbours, templates, filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tagger.reporting.plots import look

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

QUERIES, NEIGHBOURS, TEMPLATES, FILTERS = 12, 10, 60, 64
"""How many of each are drawn at most."""
_RIGHT, _WRONG = look.COLOURS[2], look.COLOURS[1]


def neighbours(
    queries: Array | Sequence[Array],
    captions: Sequence[str],
    images: Array | Sequence[Sequence[Array]],
    labels: Sequence[Sequence[str]],
    right: Array | Sequence[Sequence[bool]],
    distances: Array | Sequence[Sequence[float]],
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
