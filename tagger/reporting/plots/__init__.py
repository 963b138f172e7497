"""Plots as PNG bytes, from plain numbers and arrays, in one style.

Nothing here touches matplotlib's global state, so that plots are safe in notebooks and threads.
"""

from tagger.reporting.plots.calibration import reliabilities, reliability
from tagger.reporting.plots.cost import accuracy_against_cost
from tagger.reporting.plots.heatmaps import NAMED_CLASSES, confusion_matrix, per_class
from tagger.reporting.plots.images import WEIGHTS, mistakes, neighbours, weights
from tagger.reporting.plots.line_plots import curves, k_curve, learning_curves, precision_recall
from tagger.reporting.plots.search import trials

__all__ = [
    "NAMED_CLASSES", "WEIGHTS", "accuracy_against_cost", "confusion_matrix", "curves", "k_curve", "learning_curves",
    "mistakes", "neighbours", "per_class", "precision_recall", "reliabilities", "reliability", "trials", "weights",
]  # fmt: skip
