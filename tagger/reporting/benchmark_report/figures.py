"""The figures of the report: a name and a function that draws a PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from tagger.evaluation.metrics import LEAST_IN_BIN
from tagger.reporting import plots
from tagger.reporting.benchmark_report import statistics
from tagger.reporting.benchmark_report.data import BenchmarkReport, ModelRuns, Neighbours
from tagger.reporting.formatting import one_line

Draw = Callable[[], bytes]
COSTS = {"training time in seconds": "train_seconds", "FLOPs per image": "flops"}
"""Title of an axis -> field of `Run`."""


def figures(report: BenchmarkReport) -> dict[str, Draw]:
    """Return name -> drawing of all figures that the report has data for."""
    found = dict(_comparing(report)) if report.models else {}
    for number, model in enumerate(report.models, 1):
        found |= {f"model-{number}-{name}": draw for name, draw in _of_model(report, model)}
    return found


def _comparing(report: BenchmarkReport) -> Iterator[tuple[str, Draw]]:
    models, labels = report.models, [model.label for model in report.models]
    if len(models) > 1:
        yield "accuracy-against-cost", partial(_draw_costs, models, labels, len(report.label_names))
    if curves := {model.label: model.shown.curve for model in models if model.validated}:
        yield "learning", partial(plots.curves, curves)
    shares = np.array([statistics.per_class(report, model) for model in models])
    yield "classes", partial(plots.per_class, shares, labels, report.label_names)
    if len(report.truth) >= 2 * LEAST_IN_BIN:
        bins = {model.label: statistics.reliability(report, model) for model in models}
        yield "reliability", partial(plots.reliabilities, bins)


def _draw_costs(models: Sequence[ModelRuns], labels: Sequence[str], classes: int) -> bytes:
    costs = {axis: np.array([model.mean(field) for model in models]) for axis, field in COSTS.items()}
    accuracy, intervals = (np.array([getattr(model, name) for model in models]) for name in ("accuracy", "interval"))
    return plots.accuracy_against_cost(
        labels, accuracy, intervals, costs, 1 / classes, [bool(model.cut) for model in models]
    )


def _of_model(report: BenchmarkReport, model: ModelRuns) -> Iterator[tuple[str, Draw]]:
    name = model.name
    if curves := report.k_curves.get(name):
        yield "k", partial(plots.k_curve, curves)
    if name in report.neighbours:
        yield "neighbours", partial(_draw_neighbours, report.neighbours[name], report.label_names)
    if name in report.templates:
        yield "templates", partial(plots.weights, report.templates[name], report.label_names)
    if name in report.filters:
        yield "filters", partial(plots.weights, report.filters[name])
    if len(model.shown.curve) > 2:
        yield "curve", partial(plots.learning_curves, model.shown.curve)
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
