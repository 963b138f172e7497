"""The trials of a hyperparameter search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tagger.reporting.plots import look
from tagger.reporting.plots.look import Floats

IMPORTANCES = 12


def trials(
    values: Sequence[float | None],
    best_so_far: Sequence[float | None],
    states: Sequence[str],
    importances: Mapping[str, float] | None = None,
) -> bytes:
    """Draw the value of every trial with the best so far, and next to it the importances of the settings as bars.

    `states` are Optuna's (COMPLETE, PRUNED, FAIL, in any case). Trials without a value are crosses at the bottom.
    """
    ratios = [1.7, 1] if importances else [1]
    figure = look.figure(9.6 if importances else 6.2, 3.8)
    panels = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
    pruned = np.array([state.lower() == "pruned" for state in states])
    _points(panels[0], look.numbers(values), look.numbers(best_so_far), pruned)
    if importances:
        _bars(panels[1], importances)
    return look.png(figure)


def _points(axes: Axes, values: Floats, best: Floats, pruned: npt.NDArray[np.bool_]) -> None:
    look.dress(axes, "Trials", "trial", "value")
    look.grid(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    number, valued = np.arange(1, len(values) + 1), np.isfinite(values)
    handles: list[Artist] = [*axes.plot(number, best, color=look.COLOURS[1], linewidth=1.7, drawstyle="steps-post")]
    named = ["best so far"]
    foot = np.full(len(values), 0.02)
    for name, chosen, places, marker, colour, transform in (
        ("complete", valued & ~pruned, values, "o", look.COLOURS[0], axes.transData),
        ("pruned", valued & pruned, values, "v", look.GREY, axes.transData),
        ("no value", ~valued, foot, "x", look.INK, axes.get_xaxis_transform()),
    ):
        if chosen.any():
            handles += axes.plot(number[chosen], places[chosen], marker, ms=5, color=colour, transform=transform)
            named.append(f"{name} ({chosen.sum():,})")
    axes.set_xlim(0.5, len(values) + 0.5)
    look.legend(axes, handles, named, "below")


def _bars(axes: Axes, importances: Mapping[str, float]) -> None:
    most = sorted(importances.items(), key=lambda item: item[1])[-IMPORTANCES:]
    axes.barh(range(len(most)), [value for _, value in most], color=look.COLOURS[0], height=0.65)
    look.dress(axes, "Importance", "share of all settings' importance")
    look.grid(axes, "x")
    axes.set_ylim(min(0, len(most) - 5) - 0.6, len(most) - 0.4)  # few bars stay slim
    axes.set_yticks(range(len(most)), [look.shorten(name, 24) for name, _ in most], **look.lettering())
