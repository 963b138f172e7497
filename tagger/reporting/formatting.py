"""Format numbers and lists for reading; an unknown number is a dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import wraps

from tagger.redaction import visible

Number = float | None
"""None and NaN both mean an unknown number."""
UNKNOWN = "–"


def known(values: Iterable[Number]) -> list[float]:
    """Return the finite values."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def _or_dash(write: Callable[[float], str]) -> Callable[[Number], str]:
    @wraps(write)
    def written(value: Number) -> str:
        return write(value) if value is not None and math.isfinite(value) else UNKNOWN

    return written


@_or_dash
def percent(share: float) -> str:
    """Return a share as 89.5%."""
    return f"{100 * share:.1f}%"


def interval(ends: tuple[float, float]) -> str:
    """Return a pair of shares as 88.9–90.1%."""
    return f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}%"


@_or_dash
def spread(share: float) -> str:
    """Return a standard deviation of shares as ± 0.21, in percentage points."""
    return f"± {100 * share:.2f}"


@_or_dash
def decimal(value: float) -> str:
    """Return a value as 0.345."""
    return f"{value:.3f}"


@_or_dash
def count(value: float) -> str:
    """Return a whole number as 10,000."""
    return f"{value:,.0f}"


@_or_dash
def quantity(value: float) -> str:
    """Return a large number as 1.16 million."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f}"


@_or_dash
def rate(value: float) -> str:
    """Return images/s, or a ratio, without insignificant digits."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


@_or_dash
def size(value: float) -> str:
    """Return bytes as 85 kB, 512 MB or 1.2 GB."""
    if 0 < value < 1e6:
        return f"{value / 1e3:,.0f} kB"
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:,.0f} MB"


@_or_dash
def duration(seconds: float) -> str:
    """Return seconds as 0.8 s, 45 s, 2 min 20 s, 12 min or 3 h 20 min."""
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2g} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    if seconds < 599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def listed(words: list[str]) -> str:
    """Return a, b and c; words with commas as a, b; c and d."""
    by = "; " if any("," in word for word in words) else ", "
    return joined(by.join(words[:-1]), *words[-1:], by=" and ")


def joined(*parts: str, by: str = " ") -> str:
    """Return the parts that are not empty, joined."""
    return by.join(filter(None, parts))


def one_line(text: str) -> str:
    """Return the text without line breaks and other control characters."""
    return visible(" ".join(text.split()))


def sentence(text: str) -> str:
    """Return the text on one line, capitalised and with a full stop."""
    line = one_line(text)
    line = line[:1].upper() + line[1:]
    return line if not line or line[-1] in ".!?" else line + "."
