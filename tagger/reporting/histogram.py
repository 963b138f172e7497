"""Histograms of scores as SVG: small and sharp, without matplotlib, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

BINS = 20
"""Bins of a score from 0 to 1."""
COLOURS = ("#0072B2", "#D55E00")
"""The first two colours of reporting.plots.look."""
WIDTH, HEIGHT = 420, 130
_LEFT, _TOP, _FOOT = 6, 8, 22
_FONT = 'font-family="system-ui, sans-serif" font-size="12" fill="#222"'


def svg(series: Mapping[str, Sequence[float]], ends: tuple[str, str] = ("0", "1")) -> bytes:
    """Return a histogram; of two series, each is scaled to its own sum, and the second is drawn as a line.

    `ends` name the left and the right end of the axis.
    """
    shares = [[value / (sum(values) or 1) for value in values] for values in series.values()]
    top = max((value for values in shares for value in values), default=0) or 1
    parts = [_bars(shares[0], top)] if shares else []
    parts += [_line(values, top) for values in shares[1:2]]
    foot, right = HEIGHT - _FOOT, WIDTH - _LEFT
    parts.append(f'<path d="M{_LEFT} {foot}H{right}" stroke="#8c8c8c"/>')
    names = list(series) if len(series) > 1 else []
    texts = [(_LEFT, "start", ends[0]), (right, "end", ends[1])]
    parts += [f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{side}" {_FONT}>{text}</text>' for x, side, text in texts]
    parts += [
        f'<text x="{WIDTH / 2 + 90 * (2 * place - 1):g}" y="{HEIGHT - 6}" text-anchor="middle" {_FONT}>'
        f'<tspan fill="{COLOURS[place]}">{"■—"[place]}</tspan> {name}</text>'
        for place, name in enumerate(names)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
    return "".join([head, *parts, "</svg>"]).encode()


def _edges(bins: int) -> list[float]:
    return [round(_LEFT + (WIDTH - 2 * _LEFT) * place / bins, 1) for place in range(bins + 1)]


def _height(share: float, top: float) -> float:
    return round((HEIGHT - _FOOT - _TOP) * share / top, 1)


def _bars(shares: Sequence[float], top: float) -> str:
    foot = HEIGHT - _FOOT
    bars = (
        f"M{low + 1:g} {foot}V{foot - _height(share, top):g}H{high - 1:g}V{foot}Z"
        for share, (low, high) in zip(shares, pairwise(_edges(len(shares))), strict=True)
    )
    return f'<path d="{"".join(bars)}" fill="{COLOURS[0]}" fill-opacity=".75"/>'


def _line(shares: Sequence[float], top: float) -> str:
    steps = (
        f"V{HEIGHT - _FOOT - _height(share, top):g}H{high:g}"
        for share, high in zip(shares, _edges(len(shares))[1:], strict=True)
    )
    path = f"M{_LEFT} {HEIGHT - _FOOT}{''.join(steps)}V{HEIGHT - _FOOT}"
    return f'<path d="{path}" fill="none" stroke="{COLOURS[1]}" stroke-width="2"/>'
