"""The page of two periods of a results table, compared."""

from tagger.reporting.drift_report.report import html, summary, text, write

__all__ = ["html", "summary", "text", "write"]
