"""The parts of a report: what `render` turns into Markdown or HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

from tagger.reporting.formatting import UNKNOWN


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    words: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Listing:
    """Lines of code."""

    code: str
    kind: ClassVar[str] = "listing"


@dataclass(frozen=True)
class Bullets:
    """A list of names, each with a text."""

    lines: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    header: Sequence[str]
    sides: str
    """One l or r per column."""
    rows: Sequence[Sequence[str]]
    caption: str = ""
    best: int | None = None
    """Index of the highlighted row."""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A plot, drawn on demand."""

    name: str
    """File name without suffix."""
    alt: str
    draw: Callable[[], bytes]
    """Return a PNG."""
    caption: str = ""
    photographs: bool = False
    """Shows images, whose colours stay as they are in dark mode."""
    kind: ClassVar[str] = "figure"


Block = Text | Listing | Bullets | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading with its blocks."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A report: title, a summary of a few sentences, sections."""

    title: str
    summary: str
    sections: Sequence[Section]


Column = tuple[str, str, Sequence[str]]
"""Header, side (l or r), cells."""


def table(columns: Sequence[Column], caption: str = "", best: int | None = None) -> Table:
    """Return a table; columns without a known cell are left out, short ones are filled up with empty cells."""
    shown = [column for column in columns if any(cell not in ("", UNKNOWN) for cell in column[2])]
    header, sides, cells = zip(*shown, strict=True) if shown else ((), (), ())
    return Table(header, "".join(sides), list(zip_longest(*cells, fillvalue="")), caption, best)
