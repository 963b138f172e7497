"""The report of a benchmark: the runs of several models as Markdown or as one HTML page."""

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
from tagger.reporting.benchmark_report.report import html, markdown, plot_files

__all__ = [
    "BenchmarkReport", "Comparison", "Mistakes", "ModelRuns", "Neighbours", "Published", "Run", "by_model", "html",
    "markdown", "plot_files",
]  # fmt: skip
