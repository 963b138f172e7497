"""The report of a benchmark: the runs of several models as Markdown or as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tagger.reporting import render
from tagger.reporting.benchmark_report.data import (
    BenchmarkReport,
    Comparison,
    Mistakes,
    ModelRuns,
    Neighbours,
    Published,
    Run,
    by_model,
)
from tagger.reporting.benchmark_report.sections import document

__all__ = [
    "BenchmarkReport",
    "Comparison",
    "Mistakes",
    "ModelRuns",
    "Neighbours",
    "Published",
    "Run",
    "by_model",
    "html",
    "markdown",
    "plot_files",
]


def html(report: BenchmarkReport, drawn: Mapping[str, bytes] | None = None) -> str:
    """Return a self-contained page: images inline, no script, no request. Text is escaped.

    `drawn` has the PNGs of `plot_files`; without it the figures are drawn. Raises ValueError when scores, truth and
    label names do not fit.
    """
    return render.html(document(report), drawn)


def markdown(report: BenchmarkReport, plots: str | None = None) -> str:
    """Return Markdown; `plots` is the folder with the files of `plot_files`, without it figures are left out."""
    return render.markdown(document(report), plots)


def plot_files(report: BenchmarkReport) -> Iterator[tuple[str, bytes]]:
    """Yield the file name and PNG of each figure, drawn one at a time."""
    return render.plot_files(document(report))
