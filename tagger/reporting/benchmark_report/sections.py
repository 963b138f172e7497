"""The sections of the report that compare all models, and the whole document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from tagger.evaluation.metrics import LEAST_IN_BIN
from tagger.reporting import plots
from tagger.reporting.benchmark_report import statistics
from tagger.reporting.benchmark_report.data import Array, BenchmarkReport, ModelRuns, Published
from tagger.reporting.benchmark_report.models import comparisons, model_section
from tagger.reporting.benchmark_report.summary import best, score, summary, title
from tagger.reporting.document import Block, Bullets, Column, Document, Figure, Listing, Section, Table, Text, table
from tagger.reporting.formatting import (
    Number,
    count,
    decimal,
    duration,
    interval,
    joined,
    known,
    listed,
    one_line,
    percent,
    quantity,
    rate,
    sentence,
    size,
    spread,
)

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


def document(report: BenchmarkReport) -> Document:
    """Return the whole report; figures are drawn on demand. Raises ValueError when arrays do not fit each other."""
    scored = statistics.with_scores(report)
    names = {model.name for model in report.models}
    sections = (
        Section("accuracy", "Accuracy", list(_accuracy(report))),
        Section("cost", "Cost", list(_cost(report))),
        Section("learning", "Learning curves", list(_learning(report))),
        Section("classes", "Accuracy per class", list(_classes(report, scored))),
        Section("reliability", "Calibration", list(_reliability(report, scored))),
        *(model_section(report, model, f"model-{k}", model in scored) for k, model in enumerate(report.models, 1)),
        Section("variants", "Variants", list(comparisons(report, {each.model for each in report.comparisons} - names))),
        Section("reproduction", "Reproducing this report", list(_reproduction(report))),
    )
    return Document(title(report), summary(report), [section for section in sections if section.blocks])


def _accuracy(report: BenchmarkReport) -> Iterator[Table]:
    models, top = report.models, best(report)
    if not models:
        return
    others = [each for each in report.published if each.model not in {model.name for model in models}]
    published = [[each for each in report.published if each.model == model.name] for model in models]
    published += [[other] for other in others]
    seeds = {len(model.runs) for model in models}
    yield table(
        (
            _labels(models, [one_line(other.model) for other in others]),
            ("seeds", "r", [count(len(model.runs)) for model in models] if len(seeds) > 1 else []),
            _means(models, "test accuracy", "accuracy", percent),
            ("spread", "r", [spread(model.spread) for model in models]),
            ("95% interval", "r", [interval(model.interval) for model in models]),
            _means(models, "with TTA", "accuracy_tta", percent),
            ("† cut by the budget", "l", [model.cut for model in models]),
            ("published", "r", [" / ".join(percent(each.accuracy) for each in cell) for cell in published]),
            ("source", "l", [" / ".join(map(_source, cell)) for cell in published]),
            _means(models, "log-loss", "log_loss", decimal),
            _means(models, "calibration error", "calibration_error", decimal),
        ),
        caption=_accuracy_caption(report, seeds),
        best=models.index(top) if top else None,
    )


def _labels(models: Sequence[ModelRuns], others: Sequence[str] = ()) -> Column:
    return "model", "l", [*(model.label for model in models), *others]


def _means(models: Sequence[ModelRuns], header: str, field: str, write: Callable[[Number], str]) -> Column:
    return header, "r", [write(model.mean(field)) for model in models]


def _source(published: Published) -> str:
    return joined(one_line(published.conditions), one_line(published.source), by="; ")


def _accuracy_caption(report: BenchmarkReport, seeds: set[int]) -> str:
    over = f"{min(seeds)} seeds" if len(seeds) == 1 else "seeds"
    mean = f"Accuracy is the mean over {over}, spread the sample standard deviation in percentage points."
    tta = "TTA, test-time augmentation, is the mean over six views of an image, mirrored and shifted by a pixel."
    return joined(
        sentence(report.note),
        mean if max(seeds) > 1 else "",
        "Intervals are Wilson's, for the choice of test images.",
        tta if any(model.values("accuracy_tta") for model in report.models) else "",
    )


def _dagger(models: Sequence[ModelRuns]) -> str:
    return "† Cut by the budget." if any(model.cut for model in models) else ""


def _cost(report: BenchmarkReport) -> Iterator[Block]:
    models = report.models
    if not any(model.values(field) for model in models for field in ("parameters", "flops", "train_seconds")):
        return
    devices = list(dict.fromkeys(device for model in models for device in model.texts("device")))
    each = [listed(model.texts("device")) for model in models] if len(devices) > 1 else []
    measured = f"Measured on {devices[0]}." if len(devices) == 1 else ""
    columns = (_labels(models), *(_means(models, *cost) for cost in _COSTS), ("device", "l", each))
    yield table(columns, joined(measured, _dagger(models)))
    yield from _cost_plot([model for model in models if model.values("accuracy")], len(report.label_names))


def _cost_plot(models: Sequence[ModelRuns], classes: int) -> Iterator[Figure]:
    axes = {"training time in seconds": "train_seconds", "FLOPs per image": "flops"}
    costs = {axis: cost for axis, field in axes.items() if ((cost := _numbers(models, field)) > 0).any()}
    if len(models) < 2 or not costs:
        return
    labels = [model.label for model in models]
    yield Figure(
        "accuracy-against-cost",
        f"Test accuracy of {listed(labels)} against {listed(list(costs))}",
        partial(
            plots.accuracy_against_cost,
            labels,
            _numbers(models, "accuracy"),
            np.array([model.interval or (np.nan, np.nan) for model in models]),
            costs,
            1 / classes if classes else None,
            [bool(model.cut) for model in models],
        ),
        joined(
            "The line joins the models trained in full that no cheaper one beats. Bars are 95% intervals; the dotted "
            "line is random guessing.",
            "† Cut by the budget: hollow, and not on the line." if any(model.cut for model in models) else "",
        ),
    )


def _numbers(models: Sequence[ModelRuns], field: str) -> Array:
    return np.array([model.mean(field) for model in models], dtype=float)


def _learning(report: BenchmarkReport) -> Iterator[Figure]:
    models = [model for model in report.models if model.shown.curve]
    scored = [model for model in models if known(row.get("val_score") for row in model.shown.curve)]
    others = [model.label for model in models if model not in scored]
    missing = f"Not shown, because they use no validation images: {listed(others)}." if others else ""
    if scored:
        curves = {model.label: model.shown.curve for model in scored}
        yield Figure(
            "learning",
            f"Validation accuracy of {listed(list(curves))} after each epoch",
            partial(plots.curves, curves),
            joined("Accuracy on the validation images after each epoch.", missing, _dagger(models)),
        )


def _classes(report: BenchmarkReport, models: Sequence[ModelRuns]) -> Iterator[Block]:
    if not models:
        return
    shares = np.array([statistics.per_class(report, model) for model in models])
    labels, names = [model.label for model in models], list(report.label_names)
    few = len(names) <= plots.NAMED_CLASSES
    yield Figure(
        "classes",
        f"Accuracy of {listed(labels)} on each of {len(names):,} class{'es' * (len(names) != 1)}",
        partial(plots.per_class, shares, labels, names),
        joined("Percentage of each class's test images that are right." if few else "", _dagger(models)),
    )
    if not few:
        yield _hardest(names, models, shares)


def _hardest(names: Sequence[str], models: Sequence[ModelRuns], shares: Array) -> Table:
    """Return the classes that the most accurate model, whole rather than cut, gets wrong most often."""
    row = max(range(len(models)), key=lambda k: (not models[k].cut, score(models[k])))
    ranked = np.argsort(shares[row], kind="stable")[:HARDEST]  # a class without images is NaN: last
    columns: list[Column] = [
        (model.label, "r", [percent(share) for share in each[ranked]])
        for model, each in zip(models, shares, strict=True)
    ]
    hardest = [names[k] for k in ranked]
    return table(
        (("class", "l", hardest), *columns),
        f"The {len(ranked)} classes with the lowest accuracy of {models[row].label}.",
    )


def _reliability(report: BenchmarkReport, models: Sequence[ModelRuns]) -> Iterator[Block]:
    if not models or report.truth is None or len(report.truth) < 2 * LEAST_IN_BIN:
        return
    bins = {model.label: statistics.reliability(report, model) for model in models}
    yield Text(
        "A calibrated model is right on 80% of the images that it tags with a score of 0.8: its points lie on the "
        "dashed line. Points below the line mean overconfidence, points above it underconfidence."
    )
    yield Figure(
        "reliability",
        f"Accuracy against score for {listed(list(bins))}",
        partial(plots.reliabilities, {name: (each.confidence, each.right) for name, each in bins.items()}),
        joined(
            "Each point stands for about the same number of test images; equal scores share a point.", _dagger(models)
        ),
    )


def _reproduction(report: BenchmarkReport) -> Iterator[Block]:
    if report.command.strip():
        yield Listing(report.command.strip())
    top = best(report) or max(report.models, key=score, default=None)
    if report.checkpoints and top:
        yield Text(
            f"Each model is a checkpoint in the report's folder. To tag other images with {top.label}, copy its "
            "checkpoint (the command above may replace it) and run:"
        )
        yield Listing(f"tagger tag FOLDER --model {report.checkpoints}/{top.name}-{top.shown.seed} --out RESULTS")
    versions = {name: version for run in report.runs for name, version in run.versions.items()}
    facts = {
        "Data": report.data,
        "Note": sentence(report.note),
        "Machine": report.machine,
        "Devices": listed(sorted({device for model in report.models for device in model.texts("device")})),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "Seeds": listed([str(seed) for seed in sorted({run.seed for run in report.runs})]),
    }
    lines = [(name, one_line(text)) for name, text in facts.items() if text.strip()]
    if lines:
        yield Bullets(lines)
    if len(report.runs) > len(report.models):
        yield _every_run(report)


def _every_run(report: BenchmarkReport) -> Table:
    runs = [(model, run) for model in report.models for run in model.runs]
    return table(
        (
            ("model", "l", [model.label for model, _ in runs]),
            ("seed", "r", [str(run.seed) for _, run in runs]),
            ("test accuracy", "r", [percent(run.accuracy) for _, run in runs]),
            ("95% interval", "r", [interval(run.interval) for _, run in runs]),
            ("epochs", "r", [count(run.epochs) for _, run in runs]),
            ("training time", "r", [duration(run.train_seconds) for _, run in runs]),
        ),
        "All runs.",
    )
