"""The parts of a report: what `render` turns into Markdown or HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tagger.reporting.formatting import UNKNOWN


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    words: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Listing:
    """Lines to type, as they are."""

    code: str
    kind: ClassVar[str] = "listing"


@dataclass(frozen=True)
class Bullets:
    """Short lines, each with what it is about."""

    lines: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    header: Sequence[str]
    sides: str
    """An l or r per column."""
    rows: Sequence[Sequence[str]]
    caption: str = ""
    best: int | None = None
    """The row that stands out."""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A picture, drawn when it is needed."""

    name: str
    """Of its file, without suffix."""
    alt: str
    draw: Callable[[], bytes]
    """Return a PNG."""
    caption: str = ""
    photographs: bool = False
    """Holds pictures whose colours must stay as they are."""
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


def table(columns: Sequence[tuple[str, str, Sequence[str]]], caption: str = "", best: int | None = None) -> Table:
    """Return a table of columns (header, side, cells); columns in which nothing is known are left out."""
    told = [column for column in columns if any(cell not in ("", UNKNOWN) for cell in column[2])]
    header, sides, cells = zip(*told, strict=True) if told else ((), (), ())
    return Table(header, "".join(sides), list(zip(*cells, strict=True)), caption, best)
