"""The page of a results table, from its template."""

from __future__ import annotations

from functools import partial

from markupsafe import Markup

from tagger import storage
from tagger.redaction import public_uri
from tagger.reporting import pages, render
from tagger.reporting.formatting import UNKNOWN, count, decimal, listed, percent, size
from tagger.reporting.pages import Images
from tagger.reporting.results_report.data import SHOWN, ResultsReport, gather
from tagger.storage import StrPath
from tagger.tagging.aggregates import Row
from tagger.tagging.alike import COMPARED, NARROWED, SIMILARITY

THUMBNAILS = 200
"""Default maximum number of images that are read."""


def write(
    url: StrPath, out: StrPath, model: str | None = None, checkpoints: str = "checkpoints", most: int = THUMBNAILS
) -> ResultsReport:
    """Write the page of a results table; return its facts. At most `most` images are read for thumbnails."""
    report = gather(url, model, checkpoints)
    storage.write_atomic(storage.absolute(str(out)), html(report, most).encode())
    return report


def html(report: ResultsReport, most: int = THUMBNAILS) -> str:
    """Return a self-contained page: images inline, no script, no request. Text is escaped."""
    return pages.html(partial(markdown, report), report.uris(), most)


def text(report: ResultsReport) -> str:
    """Return the page as Markdown without its images."""
    return pages.text(partial(markdown, report))


def markdown(report: ResultsReport, images: Images) -> str:
    """Return the page as Markdown; its image files are put into `images`."""
    return render.markdown(
        "results.md.jinja",
        report=report,
        totals=report.totals,
        summary=summary(report),
        facts=_facts(report),
        models=_models(report),
        failures=_failures(report),
        changes=_changes(report),
        switched=pages.table(
            ("before", "now", "files"),
            "llr",
            [(row["before"], row["now"], count(row["files"])) for row in report.switched],
        ),
        shifted=pages.table(
            ("tag", "before", "last run"),
            "lrr",
            [(row["tag"], percent(row["before"]), percent(row["now"])) for row in report.shifted],
        ),
        tags=_tags(report),
        shown=report.tags[:SHOWN],
        images=images,
        score=lambda row: decimal(row["score"]),
        tag_and_score=lambda row: f"{row['tag']} {decimal(row['score'])}",
        copies=lambda row: f"{row['copies']:,} copies",
        compared=_compared(report),
        alike=_alike(report),
        similarity=lambda row: row["caption"],
        groups=[{**group, "uri": group["uris"][0]} for group in report.groups],
        size=size,
        counted=pages.counted,
        missing=pages.missing(images.thumbnails),
    )


def summary(report: ResultsReport) -> str:
    """Return the summary of the report."""
    totals = report.totals
    tagged = f"{count(totals['tagged'])} of {count(totals['files'])} files have been tagged"
    failed = f"{count(totals['failed'])} failed" if totals["failed"] else "none failed"
    most = listed([tag.tag for tag in report.tags[:3]])
    return f"{tagged} by {report.model}; {failed}." + (f" The most frequent tags are {most}." if most else "")


def _compared(report: ResultsReport) -> str:
    """Return sentences about the near-duplicates and the number of images compared."""
    found, tagged = report.alike, report.totals["tagged"]
    if found is None:
        return ""
    what = f"{pages.counted(found.images, 'image')} in {pages.counted(found.groups, 'group')} look alike"
    how = f"the cosine similarity of their embeddings to that of the first in the group is at least {SIMILARITY:g}"
    result = f"{what}: {how}." if found.groups else "No two images look alike."
    if tagged > NARROWED:
        return f"{result} {count(found.compared)} of {count(tagged)} images were compared, the first that were read."
    if tagged > COMPARED:
        return f"{result} {count(found.compared)} of {count(tagged)} images were compared, all those of some best tags."
    return f"{result} {pages.counted(found.compared, 'image')} were compared; exact copies count once."


def _alike(report: ResultsReport) -> list[list[Row]]:
    """Return the images of each group of near-duplicates that is shown, with their captions."""
    return [
        [
            {"uri": uri, "caption": decimal(score) if place else pages.counted(group["images"], "image")}
            for place, (uri, score) in enumerate(zip(group["uris"], group["scores"], strict=True))
        ]
        for group in (report.alike.shown if report.alike else ())
    ]


def _share(part: int, whole: int) -> str:
    return f"{count(part)} ({percent(part / whole)})" if whole else count(part)


def _facts(report: ResultsReport) -> Markup:
    """Return a table of counts."""
    totals = report.totals
    pixels = [f"{value:.3g}" for value in totals["megapixels"] or () if value is not None]
    formats = [f"{row['format']} {count(row['files'])}" for row in report.formats[:6]]
    runs = next(row for row in report.models if row["model"] == report.model)
    rows = [
        ("files", count(totals["files"])),
        (f"rows of {pages.counted(runs['runs'], 'run')}", count(runs["rows"])),
        ("tagged", _share(totals["tagged"], totals["files"])),
        ("of these truncated", _share(totals["truncated"], totals["tagged"])),
        ("failed", _share(totals["failed"], totals["files"])),
        ("no tag over its threshold", _share(totals["untagged"], totals["tagged"])),
        *([] if totals["unknown"] is None else [("unknown", _share(totals["unknown"], totals["tagged"]))]),
        ("best score below 0.5", _share(totals["uncertain"], totals["tagged"])),
        ("exact copies of another file", count(report.duplicates["images"] - report.duplicates["groups"])),
        ("size", size(totals["bytes"])),
        ("formats", ", ".join(formats) or UNKNOWN),
        ("megapixels (5%, median, 95%)", ", ".join(pixels) or UNKNOWN),
        ("first row, UTC", f"{totals['first']:%Y-%m-%d %H:%M}"),
        ("last row, UTC", f"{totals['last']:%Y-%m-%d %H:%M}"),
    ]
    return pages.table(("figure", report.model), "lr", rows)


def _models(report: ResultsReport) -> Markup:
    """Return the models in the results, if there are several."""
    rows = [
        (row["model"], count(row["rows"]), count(row["runs"]), f"{row['last']:%Y-%m-%d %H:%M}") for row in report.models
    ]
    return pages.table(("model", "rows of all runs", "runs", "last tagged, UTC"), "lrrr", rows if len(rows) > 1 else [])


def _failures(report: ResultsReport) -> Markup:
    rows = [
        (
            *((row["status"], count(row["files"])) if first else ("", "")),
            f"{public_uri(each['uri'])}: {each['error'] or ''}",
        )
        for row in report.failures
        for first, each in zip((True, *[False] * len(row["examples"])), row["examples"], strict=False)
    ]
    return pages.table(("status", "files", "for example"), "lrl", rows)


def _changes(report: ResultsReport) -> Markup:
    if report.changes is None:
        return Markup()
    names = {
        "files": "files in the last run",
        "new": "new files",
        "changed": "files whose content changed",
        "same": "unchanged files, tagged again",
        "switched": "different best tag than before",
        "newly_failed": "newly failed",
        "mended": "tagged now, failed before",
    }
    return pages.table(
        ("change", "files"),
        "lr",
        [(name, count(report.changes[key])) for key, name in names.items() if report.changes[key]],
    )


def _tags(report: ResultsReport) -> Markup:
    """Return the most frequent tags, with their metrics in the model card if available."""
    card = report.card.tags if report.card else {}
    known = [name for name in ("precision", "recall", "threshold") if any(row.get(name) for row in card.values())]
    rows = [
        (tag.tag, count(tag.images), percent(tag.images / report.totals["tagged"]), decimal(tag.mean_score),
         *(decimal(card.get(tag.tag, {}).get(name)) for name in known))
        for tag in report.tags
    ]  # fmt: skip
    header = ("tag", "images", "share", "mean score", *(f"{name}, card" for name in known))
    return pages.table(header, "lrrr" + "r" * len(known), rows)
