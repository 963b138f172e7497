"""The figures of the report: a name and a function that draws a PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from tagger.evaluation.metrics import LEAST_IN_BIN, Array
from tagger.reporting import plots
from tagger.reporting.benchmark_report import statistics
from tagger.reporting.benchmark_report.data import BenchmarkReport, ModelRuns, Neighbours
from tagger.reporting.formatting import known, one_line

Draw = Callable[[], bytes]
COSTS = {"training time in seconds": "train_seconds", "FLOPs per image": "flops"}
"""Title of an axis -> field of `Run`."""


def figures(report: BenchmarkReport) -> dict[str, Draw]:
    """Return name -> drawing of all figures that the report has data for.

    Raises ValueError when scores, truth and label names do not fit.
    """
    scored = statistics.with_scores(report)
    found = dict(_comparing(report, scored))
    for number, model in enumerate(report.models, 1):
        found |= {f"model-{number}-{name}": draw for name, draw in _of_model(report, model, model in scored)}
    return found


def _comparing(report: BenchmarkReport, scored: Sequence[ModelRuns]) -> Iterator[tuple[str, Draw]]:
    evaluated = [model for model in report.models if model.values("accuracy")]
    costs = {axis: cost for axis, field in COSTS.items() if ((cost := _means(evaluated, field)) > 0).any()}
    if len(evaluated) > 1 and costs:
        yield "accuracy-against-cost", partial(_draw_costs, evaluated, costs, len(report.label_names))
    if curves := {model.label: model.shown.curve for model in report.models if model.validated}:
        yield "learning", partial(plots.curves, curves)
    labels = [model.label for model in scored]
    if scored:
        shares = np.array([statistics.per_class(report, model) for model in scored])
        yield "classes", partial(plots.per_class, shares, labels, list(report.label_names))
    if scored and report.truth is not None and len(report.truth) >= 2 * LEAST_IN_BIN:
        bins = [statistics.reliability(report, model) for model in scored]
        points = {label: (each.confidence, each.right) for label, each in zip(labels, bins, strict=True)}
        yield "reliability", partial(plots.reliabilities, points)


def _means(models: Sequence[ModelRuns], field: str) -> Array:
    return np.array([model.mean(field) for model in models], dtype=float)


def _draw_costs(models: Sequence[ModelRuns], costs: dict[str, Array], classes: int) -> bytes:
    intervals = np.array([model.interval or (np.nan, np.nan) for model in models])
    chance, cut = 1 / classes if classes else None, [bool(model.cut) for model in models]
    labels = [model.label for model in models]
    return plots.accuracy_against_cost(labels, _means(models, "accuracy"), intervals, costs, chance, cut)


def _of_model(report: BenchmarkReport, model: ModelRuns, scored: bool) -> Iterator[tuple[str, Draw]]:
    name, curves = model.name, report.k_curves.get(model.name, {})
    if known(value for curve in curves.values() for value in curve.values()):
        yield "k", partial(plots.k_curve, curves)
    if name in report.neighbours and len(report.neighbours[name].queries):
        yield "neighbours", partial(_draw_neighbours, report.neighbours[name], report.label_names)
    if name in report.templates:
        yield "templates", partial(plots.weights, report.templates[name], report.label_names)
    if name in report.filters:
        yield "filters", partial(plots.weights, report.filters[name])
    if len(model.shown.curve) > 2 and known(row.get("train_loss") for row in model.shown.curve):
        yield "curve", partial(plots.learning_curves, model.shown.curve)
    if scored:
        yield "confusion", lambda: plots.confusion_matrix(statistics.confusion(report, model), report.label_names)
    if name in report.mistakes and len(report.mistakes[name].images):
        yield "mistakes", partial(plots.mistakes, report.mistakes[name].images, report.mistakes[name].captions)


def _draw_neighbours(found: Neighbours, names: Sequence[str]) -> bytes:
    names = [one_line(name) for name in names]
    captions = [
        f"{names[label]}\ntagged {names[tag]}" for label, tag in zip(found.labels, found.predicted, strict=True)
    ]
    labels = [[names[label] for label in row] for row in found.neighbour_labels]
    right = found.neighbour_labels == found.labels[:, None]
    return plots.neighbours(found.queries, captions, found.images, labels, right, found.distances)
