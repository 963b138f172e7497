"""Numbers as people read them; what is not known is a dash."""

from __future__ import annotations

from tagger.reporting.benchmark_report.data import Number, known

UNKNOWN = "–"


def percent(share: Number) -> str:
    """Return a share as 89.5%."""
    return f"{100 * share:.1f}%" if share is not None and known([share]) else UNKNOWN


def interval(ends: tuple[float, float] | None) -> str:
    """Return a pair of shares as 88.9–90.1%."""
    return f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}%" if ends and len(known(ends)) == 2 else UNKNOWN


def spread(share: Number) -> str:
    """Return a standard deviation of shares as ± 0.21, in points."""
    return f"± {100 * share:.2f}" if share is not None and known([share]) else UNKNOWN


def decimal(value: Number) -> str:
    """Return a value as 0.345."""
    return f"{value:.3f}" if value is not None and known([value]) else UNKNOWN


def count(value: Number) -> str:
    """Return a whole number as 10,000."""
    return f"{value:,.0f}" if value is not None and known([value]) else UNKNOWN


def quantity(value: Number) -> str:
    """Return a large number as 1.16 million."""
    if value is None or not known([value]):
        return UNKNOWN
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f}"


def rate(value: Number) -> str:
    """Return images/s, or a ratio, with no more digits than a measurement has."""
    if value is None or not known([value]):
        return UNKNOWN
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def size(value: Number) -> str:
    """Return bytes as 512 MB or 1.2 GB."""
    if value is None or not known([value]):
        return UNKNOWN
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:,.0f} MB"


def duration(seconds: Number) -> str:
    """Return seconds as 0.8 s, 45 s, 2 min 20 s, 12 min or 3 h 20 min."""
    if seconds is None or not known([seconds]):
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds else "0 s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    if seconds < 599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def plural(number: int, noun: str) -> str:
    """Return 1 seed, 5 seeds."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def listed(words: list[str]) -> str:
    """Return a, b and c."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def one_line(text: str) -> str:
    """Return the text without line breaks."""
    return " ".join(text.split())
