"""What a model does and how it was made, as PNG bytes: plain numbers in, one consistent look out.

Nothing here touches matplotlib's global state, so it is safe beside a notebook's own plots and in threads.
"""

from __future__ import annotations

from tagger.reporting.plots.comparison import NAMED_CLASSES, curves, k_curve, per_class, reliabilities
from tagger.reporting.plots.cost import accuracy_against_cost
from tagger.reporting.plots.inside import FILTERS, filters, neighbours, templates
from tagger.reporting.plots.predictions import confusion_matrix, mistakes, precision_recall, reliability
from tagger.reporting.plots.runs import learning_curves, trials

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
