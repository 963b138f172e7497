"""The report of a results table: one self-contained page."""

from tagger.reporting.results_report.data import ResultsReport, gather
from tagger.reporting.results_report.report import THUMBNAILS, html, summary, text, write

__all__ = ["THUMBNAILS", "ResultsReport", "gather", "html", "summary", "text", "write"]
