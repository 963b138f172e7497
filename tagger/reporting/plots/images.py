"""Sheets of images: mistakes, neighbours, weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tagger.evaluation.metrics import Array
from tagger.reporting.plots import look

Images = Array | Sequence[Array]

MISTAKES, WEIGHTS = 60, 64
"""Maximum number of images of each kind."""
_RIGHT, _WRONG = look.COLOURS[2], look.COLOURS[1]
_LINE = 0.145
"""Height of a line of a caption in inches."""


class _Tile(NamedTuple):
    image: Array
    caption: str = ""
    frame: str = ""
    """Colour; empty: no frame."""


def mistakes(images: Images, captions: Sequence[str], columns: int = 6) -> bytes:
    """Draw images (H, W, 3) uint8, each in its own shape above its caption of one or more lines; at most 60."""
    tiles = [_Tile(*each) for each in zip(images, captions, strict=True)][:MISTAKES]
    return _grid(tiles, columns, 1.75)


def neighbours(
    queries: Images,
    captions: Sequence[str],
    images: Array | Sequence[Images],
    labels: Sequence[Sequence[str]],
    right: Array | Sequence[Sequence[bool]],
    distances: Array | Sequence[Sequence[float]],
) -> bytes:
    """Draw each query (H, W, 3) uint8 with its caption, and next to it its neighbours, nearest first.

    A neighbour whose label is the query's has a green frame and a tick, others an orange frame.
    """
    rows: list[list[_Tile | None]] = []
    for query, caption, *found in zip(queries, captions, images, labels, right, distances, strict=True):
        tiles = [
            _Tile(image, f"{'✓ ' * bool(same)}{label}\n{distance:,.4g}", _RIGHT if same else _WRONG)
            for image, label, same, distance in zip(*found, strict=True)
        ]
        rows.append([_Tile(query, caption), None, *tiles])
    return _sheet(rows, 0.85)


def weights(images: Array, names: Sequence[str] = ()) -> bytes:
    """Draw weights (n, h, w, 3) or (n, h, w) as images, each scaled to its own range; at most the first 64."""
    captions = names or [""] * len(images)
    tiles = [_Tile(_scaled(image), name) for image, name in zip(images, captions, strict=True)][:WEIGHTS]
    if names:
        return _grid(tiles, *((5, 1.55) if len(tiles) <= 10 else (10, 0.95)))
    return _grid(tiles, 16 if len(tiles) > 10 else 10, 0.56)


def _scaled(weights: Array) -> look.Floats:
    """Return weights as an image from 0 to 1; flat weights and those that are not finite become mid-grey."""
    values = look.numbers(weights)
    span = np.nanmax(values) - np.nanmin(values) if np.isfinite(values).any() else 0.0
    return np.nan_to_num((values - np.nanmin(values)) / span, nan=0.5) if span else np.full(values.shape, 0.5)


def _grid(tiles: Sequence[_Tile], columns: int, side: float) -> bytes:
    return _sheet([tiles[first : first + columns] for first in range(0, len(tiles), columns)], side)


def _sheet(rows: Sequence[Sequence[_Tile | None]], side: float) -> bytes:
    """Draw rows of tiles `side` inches wide; None leaves a gap."""
    lines = max(len(tile.caption.splitlines()) for row in rows for tile in row if tile)
    columns, height = max(map(len, rows)), 1.06 + lines * _LINE / side
    figure = look.figure(side * columns, side * height * len(rows))
    axes = figure.subplots()
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            if tile:
                _draw(axes, tile, column, row * height, round(16 * side))
    axes.set_axis_off()
    axes.set(xlim=(0, columns), ylim=(height * len(rows), 0), aspect="equal")
    return look.png(figure)


def _draw(axes: Axes, tile: _Tile, x: float, y: float, characters: int) -> None:
    """Draw an image, in its own shape, at the foot of the unit square at (x, y), and its caption below."""
    height, width = np.array(tile.image.shape[:2]) * 0.92 / max(tile.image.shape[:2])
    left, bottom = x + 0.48 - width / 2, y + 0.94
    extent = (left, left + width, bottom, bottom - height)
    axes.imshow(tile.image, "gray", extent=extent, interpolation="antialiased", zorder=2)
    if tile.frame:
        axes.add_patch(Rectangle((left, bottom - height), width, height, fill=False, ec=tile.frame, lw=2.4, zorder=3))
    caption = "\n".join(look.shorten(line, characters) for line in tile.caption.splitlines())
    axes.text(x + 0.48, bottom + 0.04, caption, ha="center", va="top", **look.lettering())
