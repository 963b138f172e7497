"""The tables of the report, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

import numpy as np
from markupsafe import Markup

from tagger.checkpoint import markdown
from tagger.reporting.benchmark_report import statistics
from tagger.reporting.benchmark_report.data import BenchmarkReport, Comparison, ModelRuns
from tagger.reporting.benchmark_report.summary import best
from tagger.reporting.formatting import (
    UNKNOWN,
    Number,
    count,
    decimal,
    duration,
    interval,
    joined,
    listed,
    percent,
    quantity,
    rate,
    size,
    spread,
)

Column = tuple[str, str, Sequence[str]]
"""Header, alignment (l or r), cells."""
HARDEST = 10
_COSTS: tuple[tuple[str, str, Callable[[Number], str]], ...] = (
    ("parameters", "parameters", quantity),
    ("FLOPs per image", "flops", quantity),
    ("epochs", "epochs", count),
    ("training time", "train_seconds", duration),
    ("training images/s", "train_images_per_second", rate),
    ("images/s, one core", "infer_one_core", rate),
    ("images/s, all cores", "infer_all_cores", rate),
    ("memory", "memory_bytes", size),
)
"""Header, field of `Run`, format."""


def table(*columns: Column, best: int | None = None) -> Markup:
    """Return a table; columns without a known value are omitted, short ones are padded with empty cells."""
    shown = [column for column in columns if any(cell not in ("", UNKNOWN) for cell in column[2])]
    if not shown:
        return Markup()
    header, sides, cells = zip(*shown, strict=True)
    rows = [list(map(markdown.escape, row)) for row in zip_longest(*cells, fillvalue="")]
    if best is not None:
        rows[best] = [f"**{cell}**" if cell else "" for cell in rows[best]]
    return Markup(markdown.table(list(map(markdown.escape, header)), "".join(sides), rows))


def _means(models: Sequence[ModelRuns], header: str, field: str, write: Callable[[Number], str]) -> Column:
    return header, "r", [write(model.mean(field)) for model in models]


def accuracy(report: BenchmarkReport) -> Markup:
    """Return the accuracy of all models next to the published ones; the best model is bold."""
    models, top = report.models, best(report)
    others = [each for each in report.published if each.model not in {model.name for model in models}]
    published = [[each for each in report.published if each.model == model.name] for model in models]
    published += [[other] for other in others]
    seeds = [count(len(model.runs)) for model in models]
    return table(
        ("model", "l", [*(model.label for model in models), *(other.model for other in others)]),
        ("seeds", "r", seeds if len(set(seeds)) > 1 else []),
        _means(models, "test accuracy", "accuracy", percent),
        ("spread", "r", [spread(model.spread) for model in models]),
        ("95% interval", "r", [interval(model.interval) for model in models]),
        _means(models, "with TTA", "accuracy_tta", percent),
        ("† cut by the budget", "l", [model.cut for model in models]),
        ("published", "r", [" / ".join(percent(each.accuracy) for each in cell) for cell in published]),
        ("source", "l", [" / ".join(joined(each.conditions, each.source, by="; ") for each in c) for c in published]),
        _means(models, "log-loss", "log_loss", decimal),
        _means(models, "calibration error", "calibration_error", decimal),
        best=models.index(top) if top else None,
    )


def costs(report: BenchmarkReport) -> Markup:
    """Return the costs of all models."""
    models = report.models
    devices = [listed(model.texts("device")) for model in models] if len(report.texts("device")) > 1 else []
    labels: Column = ("model", "l", [model.label for model in models])
    return table(labels, *(_means(models, *cost) for cost in _COSTS), ("device", "l", devices))


def hardest(report: BenchmarkReport) -> tuple[Markup, str]:
    """Return the classes with the lowest accuracy of the best model, preferably one not cut, and its name."""
    models = report.models
    shares = [statistics.per_class(report, model) for model in models]
    row = max(range(len(models)), key=lambda k: (not models[k].cut, models[k].accuracy))
    ranked = np.argsort(shares[row], kind="stable")[:HARDEST]  # a class without images is NaN: last
    columns: list[Column] = [
        (model.label, "r", [percent(share) for share in each[ranked]])
        for model, each in zip(models, shares, strict=True)
    ]
    return table(("class", "l", [report.label_names[k] for k in ranked]), *columns), models[row].label


def comparison(found: Comparison) -> Markup:
    """Return variants of a model with their accuracies."""
    names, shares, remarks = zip(*found.rows, strict=True)
    accuracies = [percent(share) for share in shares]
    return table((found.title, "l", names), ("test accuracy", "r", accuracies), ("remark", "l", remarks))


def every_run(report: BenchmarkReport) -> Markup:
    """Return a row per model and seed."""
    runs = [run for model in report.models for run in model.runs]
    return table(
        ("model", "l", [model.label for model in report.models for _ in model.runs]),
        ("seed", "r", [str(run.seed) for run in runs]),
        ("test accuracy", "r", [percent(run.accuracy) for run in runs]),
        ("95% interval", "r", [interval(run.interval) for run in runs]),
        ("epochs", "r", [count(run.epochs) for run in runs]),
        ("training time", "r", [duration(run.train_seconds) for run in runs]),
    )
