"""Escape text for Markdown, on one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tagger.redaction import visible


def _line(text: object) -> str:
    return visible(" ".join(str(text).split()))


def escape(text: object) -> str:
    """Return text on one line that Markdown shows literally, even inside a table."""
    escaped = "".join("\\" + letter if letter in "\\`*_[]<>|$~#" else letter for letter in _line(text))
    return escaped.replace("&", "&amp;")


def code(text: object) -> str:
    """Return text as inline code; pipes are escaped, since they would end a cell in a table."""
    line = _line(text)
    if not line:
        return ""
    fence, pad = ("``", " ") if "`" in line else ("`", "")
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def table(header: Sequence[str], sides: str, rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already; `sides` has an l or r per column."""
    rule = [{"l": ":--", "r": "--:"}[side] for side in sides]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
