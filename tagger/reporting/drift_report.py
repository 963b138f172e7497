"""The drift page, from its template."""

from __future__ import annotations

from functools import partial

from markupsafe import Markup

from tagger import schema, storage
from tagger.errors import UsageError
from tagger.reporting import pages, render
from tagger.reporting.formatting import count, decimal, listed, percent
from tagger.reporting.pages import Images
from tagger.storage import StrPath
from tagger.tagging import drift
from tagger.tagging.aggregates import Row
from tagger.tagging.drift import Drift, Figure

ROWS = 12
"""Rows of a table."""
HISTOGRAMS = 6


def write(
    url: StrPath,
    out: StrPath,
    reference: str | None = None,
    current: str | None = None,
    model: str | None = None,
    limit: float = drift.LIMIT,
) -> Drift:
    """Write the page OUT and, next to it with the suffix .parquet, its figures; return the comparison."""
    page = storage.absolute(str(out))
    if not page.endswith(".html"):
        raise UsageError(f"--out {out}: must end in .html; the figures are written next to it, in a .parquet file")
    found = drift.compare(url, reference, current, model, limit)
    storage.write_atomic(page, html(found).encode())
    storage.write_atomic(page.removesuffix(".html") + ".parquet", schema.serialise(found.table(), "drift"))
    return found


def html(found: Drift) -> str:
    """Return a self-contained page: images inline, no script, no request. Text is escaped."""
    uris = [row["uri"] for rows in found.telling.values() for row in rows]
    return pages.html(partial(markdown, found), uris, len(uris))


def text(found: Drift) -> str:
    """Return the page as Markdown without its images."""
    return pages.text(partial(markdown, found))


def markdown(found: Drift, images: Images) -> str:
    """Return the page as Markdown; its image files are put into `images`."""
    overall = [each for each in found.figures if each.tag is None]
    of_tags = sorted((each for each in found.figures if each.tag), key=lambda each: (not each.drifted, -each.effect))
    drawn = [each for each in (*overall, *of_tags) if any(each.reference_bins)]
    return render.markdown(
        "drift.md.jinja",
        drift=found,
        summary=summary(found),
        level=drift.LEVEL,
        overall=_figures(overall),
        of_tags=_figures(of_tags[:ROWS]),
        other_tags=max(0, len(of_tags) - ROWS),
        drawn=drawn[:HISTOGRAMS],
        mix=_shares(found.shares, "tag"),
        statuses=_shares(found.statuses, "status"),
        formats=_shares(found.formats, "format"),
        distance=decimal(found.tag_distance),
        images=images,
        score=lambda row: decimal(row["score"]),
        missing=pages.missing(images.thumbnails),
    )


def summary(found: Drift) -> str:
    """Return the verdict as a sentence or two."""
    if not found.figures:
        return "Too few images in one of the periods: nothing is compared."
    drifted = found.drifted
    if not drifted:
        return f"No drift: no figure differs by more than {percent(found.limit)} and more than by chance."
    names = list(dict.fromkeys(_name(each) for each in drifted))
    others = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"Drift: {listed(names[:3]) if not others else ', '.join(names[:3]) + others} differ from the reference."


def _name(figure: Figure) -> str:
    return f"{figure.figure} of {figure.tag}" if figure.tag else figure.figure


def _figures(figures: list[Figure]) -> Markup:
    rows = [
        (
            _name(each), percent(each.effect), _probability(each.p_value), "drift" if each.drifted else "",
            decimal(each.reference_mean), decimal(each.current_mean), count(each.reference_images),
            count(each.current_images),
        )
        for each in figures
    ]  # fmt: skip
    header = ("figure", "effect", "p", "", "mean, reference", "current", "images, reference", "current")
    return pages.table(header, "lrrlrrrr", rows)


def _probability(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _shares(shares: list[Row], header: str) -> Markup:
    """Return the categories whose shares differ most; nothing where there is but one."""
    rows = [(row["name"], percent(row["reference"]), percent(row["current"])) for row in shares[:ROWS]]
    return pages.table((header, "reference", "current"), "lrr", rows if len(rows) > 1 else [])
