"""The report of a ladder of models: facts in, Markdown and one self-contained HTML page out."""

from __future__ import annotations

from tagger.reporting.facts import Comparison, Ladder, Mistakes, Neighbours, Published, Run, by_model
from tagger.reporting.page import html, markdown, plot_files

__all__ = [
    "Comparison",
    "Ladder",
    "Mistakes",
    "Neighbours",
    "Published",
    "Run",
    "by_model",
    "html",
    "markdown",
    "plot_files",
]
