"""Style of all plots: size, colours, fonts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tagger.evaluation.metrics import Array

Floats = npt.NDArray[np.float64]

DPI = 120
INK, GREY, PALE = "#222222", "#8c8c8c", "#e4e4e4"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito 2008: distinguishable with any colour vision; without their yellow, too light on white, and black."""
_DASHES = ("-", "--", ":")
TITLE, BODY, SMALL = 11.0, 9.0, 8.0
MODEL = 34
"""Maximum number of characters of a model's name."""

_FONTS = (
    "DejaVu Sans",  # comes with matplotlib
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Arial Unicode MS", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
)


def figure(width: float, height: float) -> Figure:
    """Return an empty white figure of width x height inches with an automatic layout."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout="constrained")


def png(drawn: Figure) -> bytes:
    """Return the figure as the bytes of a PNG, the same bytes for the same numbers."""
    sink = io.BytesIO()
    drawn.savefig(sink, format="png", bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})
    return sink.getvalue()


def dress(axes: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """Set the title and axis labels, and draw only the left and bottom spines."""
    axes.set_facecolor("white")
    axes.set_title(clean(title), loc="left", **lettering(TITLE))
    axes.set_xlabel(clean(x), **lettering(BODY))
    axes.set_ylabel(clean(y), **lettering(BODY))
    axes.tick_params(labelsize=SMALL, colors=INK, length=3)
    for side, spine in axes.spines.items():
        spine.set_color(GREY)
        spine.set_visible(side in ("left", "bottom"))


def grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Draw pale lines behind the data."""
    axes.set_axisbelow(True)
    axes.grid(True, axis=axis, color=PALE, linewidth=0.8, linestyle="-")


def empty(title: str) -> bytes:
    """Return a small plot with the text "nothing to show"."""
    drawn = figure(5, 2.5)
    axes = drawn.subplots()
    dress(axes, title)
    axes.set_axis_off()
    axes.text(0.5, 0.5, "nothing to show", ha="center", va="center", fontsize=TITLE, color=GREY)
    return png(drawn)


def line_style(index: int) -> tuple[str, str]:
    """Return the colour and the dashes of the n-th line."""
    return COLOURS[index % len(COLOURS)], _DASHES[index // len(COLOURS) % len(_DASHES)]


class Placement(TypedDict, total=False):
    """Place of a legend."""

    bbox_to_anchor: tuple[float, float]
    ncols: int
    borderaxespad: float


_PLACES: dict[str, Placement] = {
    "inside": {},
    "beside": {"bbox_to_anchor": (1.01, 1)},
    "below": {"bbox_to_anchor": (0, -0.15), "ncols": 4, "borderaxespad": 0},
}


def legend(
    axes: Axes,
    handles: Sequence[Artist],
    names: Sequence[str],
    place: Literal["inside", "beside", "below"] = "inside",
    title: str | None = None,
) -> None:
    """Draw a legend, including names that start with an underscore."""
    # matplotlib omits a name that starts with _, but not one that starts with a space
    names = [f" {name}" for name in names]
    made = axes.legend(
        handles, names, loc="upper left", title=title, frameon=False, title_fontsize=BODY, alignment="left",
        **_PLACES[place],
    )  # fmt: skip
    for text in made.get_texts():
        text.set(**lettering())


class Lettering(TypedDict):
    """Properties of a text."""

    fontsize: float
    color: str
    parse_math: bool
    fontfamily: list[str]


def lettering(size: float = SMALL) -> Lettering:
    """Return text properties for names: $ is not math, and all installed scripts are drawn."""
    return {"fontsize": size, "color": INK, "parse_math": False, "fontfamily": list(_fonts())}


def numbers(values: Array | Sequence[float | None]) -> Floats:
    """Return an array in which None and infinities are NaN."""
    array = np.array(values, dtype=float)
    return np.where(np.isfinite(array), array, np.nan)


def log_ticks(axes: Axes) -> None:
    """Label 1, 2, 5, 10 … on a short log axis, powers of ten on a long one."""
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 800 else (1,), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def percent(axes: Axes) -> None:
    """Label the y axis in percent."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def short_number(value: float) -> str:
    """Return a number in the short form of axis labels: 0.5, 20, 3k, 40M, 2G, 5T."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def clean(text: str) -> str:
    """Return the text on one line, with boxes for control characters and characters without an installed font."""
    line = " ".join(text.split())
    return "".join(letter if " " <= letter <= "~" or ord(letter) in _letters() else "□" for letter in line)


def shorten(name: str, most: int) -> str:
    """Return the cleaned name, shortened in the middle to `most` characters, since names often differ at the end."""
    name = clean(name)
    head = most * 3 // 5
    return name if len(name) <= most else name[:head] + "…" + name[head + 1 - most :]


@lru_cache
def _fonts() -> tuple[str, ...]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return tuple(name for name in _FONTS if name in installed)


@lru_cache
def _letters() -> frozenset[int]:
    paths = (font_manager.findfont(name) for name in _fonts())
    return frozenset(code for path in paths for code in font_manager.get_font(path).get_charmap())
