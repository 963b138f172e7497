"""Plots as PNG bytes: plain numbers and arrays in, one look for all.

Nothing here touches matplotlib's global state, so that plots are safe in notebooks and threads.
"""

from __future__ import annotations

from tagger.reporting.plots.calibration import reliabilities, reliability
from tagger.reporting.plots.cost import accuracy_against_cost
from tagger.reporting.plots.heatmaps import NAMED_CLASSES, confusion_matrix, per_class
from tagger.reporting.plots.images import FILTERS, filters, mistakes, neighbours, templates
from tagger.reporting.plots.line_plots import curves, k_curve, learning_curves, precision_recall
from tagger.reporting.plots.search import trials

__all__ = [
    "FILTERS",
    "NAMED_CLASSES",
    "accuracy_against_cost",
    "confusion_matrix",
    "curves",
    "filters",
    "k_curve",
    "learning_curves",
    "mistakes",
    "neighbours",
    "per_class",
    "precision_recall",
    "reliabilities",
    "reliability",
    "templates",
    "trials",
]
