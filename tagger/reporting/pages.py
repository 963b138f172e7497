"""Elements of the pages about a results table: tables, strips of thumbnails, file names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from tagger.checkpoint import markdown
from tagger.redaction import public_uri
from tagger.reporting import histogram, render, thumbnails
from tagger.reporting.formatting import one_line
from tagger.reporting.thumbnails import Thumbnails
from tagger.tagging.aggregates import Row

NAME = 60
"""Maximum number of characters of a file name below a thumbnail."""


@dataclass
class Images:
    """Image files of a page by name, and the Markdown that shows them."""

    thumbnails: Thumbnails
    files: dict[str, bytes] = field(default_factory=dict)

    def histogram(self, title: str, series: Mapping[str, Sequence[float]], *ends: str) -> Markup:
        """Return a histogram; nothing if all bins are empty."""
        if not any(any(values) for values in series.values()):
            return Markup()
        return self._image(f"{len(self.files)}.svg", histogram.svg(series, *([ends] if ends else [])), title)  # type: ignore[arg-type]

    def strip(self, rows: Sequence[Row], caption: Callable[[Row], str]) -> Markup:
        """Return a row of thumbnails, each between its caption and the name of its file; nothing without rows."""
        if not rows:
            return Markup()
        shown = [self._thumbnail(row["uri"]) for row in rows]
        return table([caption(row) for row in rows], "l" * len(rows), [shown, [name_of(row["uri"]) for row in rows]])

    def _thumbnail(self, uri: str) -> Markup | str:
        content = self.thumbnails.made.get(uri)
        if content is None:
            return "no image"
        known = next((file for file, other in self.files.items() if other is content), None)
        return self._image(known or f"{len(self.files)}.jpg", content, name_of(uri))

    def _image(self, file: str, content: bytes, title: str) -> Markup:
        self.files[file] = content
        return Markup(f"![{markdown.escape(title)}]({file})")


def html(markdown: Callable[[Images], str], uris: Sequence[str], most: int) -> str:
    """Return a self-contained page: thumbnails of the first `most` uris inline, no script, no request."""
    images = Images(thumbnails.read(uris, most))
    return render.html(markdown(images), images.files.__getitem__)


def text(markdown: Callable[[Images], str]) -> str:
    """Return a page as Markdown without its images."""
    return re.sub(r"!\[.*?(?<!\\)\]\([^)]*\)", "", markdown(Images(Thumbnails())))


def counted(count: int, noun: str) -> str:
    """Return 1 image, or 1,234 images."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def table(header: Sequence[object], sides: str, rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table, every cell but Markup escaped; nothing without rows."""
    cells = [[cell if isinstance(cell, Markup) else markdown.escape(cell) for cell in row] for row in rows]
    return Markup(markdown.table([markdown.escape(name) for name in header], sides, cells)) if cells else Markup()


def name_of(uri: str) -> str:
    """Return the last part of a uri, shortened in the middle."""
    name = one_line(public_uri(uri).rstrip("/").rpartition("/")[2])
    return name if len(name) <= NAME else f"{name[: NAME * 3 // 5]}…{name[1 - NAME * 2 // 5 :]}"


def missing(found: Thumbnails) -> str:
    """Return how many thumbnails are missing, and one reason."""
    count = len(found.missing)
    if not count:
        return ""
    reason = one_line(next(iter(found.missing.values())))
    return f"{count:,} of {count + len(found.made):,} thumbnails are missing; the first: {reason}"
