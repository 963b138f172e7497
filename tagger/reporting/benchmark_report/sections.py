"""The sections of the report."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from tagger.evaluation.metrics import LEAST_IN_BIN
from tagger.reporting import plots
from tagger.reporting.benchmark_report import statistics
from tagger.reporting.benchmark_report.data import Array, BenchmarkReport, ModelRuns, Number, Published, known
from tagger.reporting.benchmark_report.models import comparisons, model_section
from tagger.reporting.document import Block, Bullets, Document, Figure, Listing, Section, Text, table
from tagger.reporting.formatting import (
    UNKNOWN,
    count,
    decimal,
    duration,
    interval,
    listed,
    one_line,
    percent,
    plural,
    quantity,
    rate,
    size,
    spread,
)

HARDEST = 10
_NAMES_IN_TABLE = 20


def title(report: BenchmarkReport) -> str:
    """Return the question that the report answers."""
    return f"Does a bigger model pay on {one_line(report.dataset)}?"


def answer(report: BenchmarkReport) -> str:
    """Return the answer: the best model, how good it is, and what the last step up to it cost."""
    best = _best(report)
    if best is None:
        return "No model has been evaluated yet."
    return " ".join(filter(None, (_verdict(report, best), _last_step(report, best), _sentence(report.note))))


def document(report: BenchmarkReport) -> Document:
    """Return the whole report; figures are drawn later. Raises ValueError when arrays do not fit each other."""
    return Document(title(report), answer(report), sections(report))


def sections(report: BenchmarkReport) -> list[Section]:
    """Return what there is to say; nothing is drawn yet. Raises ValueError when arrays do not fit each other."""
    evaluated = statistics.evaluated(report)
    made = (
        Section("accuracy", "How good they are", list(_accuracy(report))),
        Section("cost", "What they cost", list(_cost(report))),
        Section("learning", "How they learn", list(_learning(report))),
        Section("classes", "Class by class", list(_classes(report, evaluated))),
        Section("reliability", "Whether their scores can be believed", list(_reliability(report, evaluated))),
        *(
            model_section(report, model, number, model.name in _models(evaluated))
            for number, model in enumerate(report.models, 1)
        ),
        Section("variants", "Variants", list(comparisons(report, _strangers(report)))),
        Section("making", "How this was made", list(_making(report))),
    )
    return [section for section in made if section.blocks]


def _models(models: list[ModelRuns]) -> set[str]:
    return {model.name for model in models}


def _strangers(report: BenchmarkReport) -> set[str]:
    """Return what comparisons belong to that is not a model."""
    return {each.model for each in report.comparisons} - _models(report.models)


def _sentence(text: str) -> str:
    line = one_line(text)
    line = line[:1].upper() + line[1:]
    return line if not line or line[-1] in ".!?" else line + "."


def _best(report: BenchmarkReport) -> ModelRuns | None:
    rated = [model for model in report.models if model.values("accuracy")]
    return max(rated, key=_accuracy_of, default=None)


def _accuracy_of(model: ModelRuns) -> float:
    accuracy = model.mean("accuracy")
    return -1.0 if accuracy is None else accuracy


def _verdict(report: BenchmarkReport, best: ModelRuns) -> str:
    images = "the test images" if report.truth is None else f"{len(report.truth):,} test images"
    sure = f"95% interval {interval(best.interval)}" if best.interval else ""
    seeds = len(best.values("accuracy"))
    several = f"mean of {seeds} seeds, {spread(best.spread)} points" if seeds > 1 else ""
    aside = "; ".join(filter(None, (sure, several)))
    told = f"{one_line(best.title)} is right on {percent(best.mean('accuracy'))} of {images}"
    return f"{told} ({aside})." if aside else f"{told}."


def _last_step(report: BenchmarkReport, best: ModelRuns) -> str:
    """Say what the best model costs over the best of those that are quicker to train."""
    cost = best.mean("train_seconds")
    if cost is None or len(report.models) < 2:
        return ""
    timed = [(each, model) for model in report.models if (each := model.mean("train_seconds")) is not None]
    quicker = [(each, model) for each, model in timed if each < cost and model.values("accuracy")]
    if not quicker:
        return "It is the quickest to train as well: no bigger model pays."
    before_cost, before = max(quicker, key=lambda each: _accuracy_of(each[1]))
    points = 100 * (_accuracy_of(best) - _accuracy_of(before))
    if points <= 0:
        return f"{one_line(before.title)} is as good and quicker to train."
    flops = _flops_ratio(before, best)
    paid = f"{duration(cost - before_cost)} more training ({duration((cost - before_cost) / points)} a point{flops})"
    step = f"The last step up, from {one_line(before.title)}, brought {points:.1f} points for {paid}"
    return step + (f"; {doubt}." if (doubt := _doubt(report, before, best)) else ".")


def _flops_ratio(before: ModelRuns, best: ModelRuns) -> str:
    small, large = before.mean("flops"), best.mean("flops")
    ratio = rate(large / small) if small and large else "1"
    return f", {ratio} times the FLOPs per image" if ratio != "1" else ""


def _doubt(report: BenchmarkReport, before: ModelRuns, best: ModelRuns) -> str:
    chance = statistics.probability_by_chance(report, before, best)
    return f"it may be chance (McNemar's test: p = {chance:.2f})" if chance is not None and chance > 0.05 else ""


def _accuracy(report: BenchmarkReport) -> Iterator[Block]:
    models, best = report.models, _best(report)
    if not models:
        return
    others = [each for each in report.published if each.model not in {model.name for model in models}]
    published = [[each for each in report.published if each.model == model.name] for model in models]
    seeds = {len(model.runs) for model in models}
    blank, tta = [""] * len(others), any(model.values("accuracy_tta") for model in models)
    notes = ["; ".join(_notes(model)) for model in models]
    yield table(
        (
            ("model", "l", [model.title for model in models] + [each.model for each in others]),
            ("seeds", "r", [count(len(model.runs)) for model in models] + blank if len(seeds) > 1 else []),
            ("test accuracy", "r", [percent(model.mean("accuracy")) for model in models] + blank),
            ("spread", "r", [spread(model.spread) for model in models] + blank),
            ("95% interval", "r", [interval(model.interval) for model in models] + blank),
            ("with TTA", "r", [percent(model.mean("accuracy_tta")) for model in models] + blank if tta else []),
            ("note", "l", notes + blank if any(notes) else []),
            ("published", "r", [_share_of(each) for each in (*published, *([other] for other in others))]),
            ("where", "l", [_where(each) for each in (*published, *([other] for other in others))]),
            ("log-loss", "r", [decimal(model.mean("log_loss")) for model in models] + blank),
            ("calibration error", "r", [decimal(model.mean("calibration_error")) for model in models] + blank),
        ),
        caption=_accuracy_caption(report, seeds),
        best=models.index(best) if best else None,
    )


def _accuracy_caption(report: BenchmarkReport, seeds: set[int]) -> str:
    over = f"{min(seeds)} seeds" if len(seeds) == 1 else "seeds"
    mean = f"Accuracy is the mean over {over}, spread their sample standard deviation in points."
    sure = "The interval is Wilson's: what drawing other test images would change."
    tta = "TTA, test-time augmentation, is the mean over an image mirrored and shifted by a pixel: six looks at each."
    told = any(model.values("accuracy_tta") for model in report.models)
    return " ".join(filter(None, (_sentence(report.note), mean if max(seeds) > 1 else "", sure, tta if told else "")))


def _share_of(published: list[Published]) -> str:
    return " / ".join(percent(each.accuracy) for each in published)


def _where(published: list[Published]) -> str:
    return " / ".join("; ".join(filter(None, (one_line(each.conditions), one_line(each.source)))) for each in published)


def _cost(report: BenchmarkReport) -> Iterator[Block]:
    models = report.models
    if not any(
        model.values(name) for model in models for name in ("parameters", "flops", "train_seconds", "memory_bytes")
    ):
        return
    devices = {device for model in models for device in _devices(model)}
    columns: list[tuple[str, str, list[str]]] = [
        ("model", "l", [model.title for model in models]),
        ("parameters", "r", [quantity(model.mean("parameters")) for model in models]),
        ("FLOPs per image", "r", [quantity(model.mean("flops")) for model in models]),
        ("epochs", "r", [count(model.mean("epochs")) for model in models]),
        ("training time", "r", [duration(model.mean("train_seconds")) for model in models]),
        ("training images/s", "r", [rate(model.mean("train_images_per_second")) for model in models]),
        ("images/s, one core", "r", [rate(model.mean("infer_one_core")) for model in models]),
        ("images/s, all cores", "r", [rate(model.mean("infer_all_cores")) for model in models]),
        ("memory", "r", [size(model.mean("memory_bytes")) for model in models]),
        ("device", "l", [listed(_devices(model)) for model in models] if len(devices) > 1 else []),
    ]
    yield table(columns, f"Measured on {listed(sorted(devices))}." if len(devices) == 1 else "")
    yield from _cost_plot(report)


def _devices(model: ModelRuns) -> list[str]:
    return list(dict.fromkeys(one_line(run.device) for run in model.runs if run.device.strip()))


def _cost_plot(report: BenchmarkReport) -> Iterator[Figure]:
    models = [model for model in report.models if model.values("accuracy")]
    names = {"train_seconds": "training time in seconds", "flops": "FLOPs per image, forward"}
    costs = {title: _column(models, name) for name, title in names.items()}
    costs = {title: cost for title, cost in costs.items() if (cost > 0).any()}
    if len(models) < 2 or not costs:
        return
    intervals = np.array([model.interval or (np.nan, np.nan) for model in models])
    classes = len(report.label_names)
    yield Figure(
        "accuracy-against-cost",
        f"Test accuracy of {listed([model.title for model in models])} against {listed(list(costs))}",
        partial(
            plots.accuracy_against_cost,
            [model.title for model in models],
            _column(models, "accuracy"),
            intervals,
            costs,
            1 / classes if classes else None,
        ),
        "The line joins the models that nothing as cheap beats; hollow ones are beaten. Bars are 95% intervals, the "
        "dotted line is guessing.",
    )


def _column(models: list[ModelRuns], name: str) -> Array:
    return np.array([np.nan if (value := model.mean(name)) is None else value for model in models])


def _learning(report: BenchmarkReport) -> Iterator[Block]:
    curves = {_label(model): model.shown.curve for model in report.models if model.shown.curve}
    scored = {name: curve for name, curve in curves.items() if known(row.get("val_score") for row in curve)}
    others = [name for name in curves if name not in scored]
    without = f" Not shown, for nothing is held out for them: {listed(others)}." if others else ""
    if scored:
        yield Figure(
            "learning",
            f"Validation accuracy of {listed(list(scored))} after each epoch",
            partial(plots.curves, scored),
            f"Accuracy on validation images, which training does not see, after each epoch.{without}",
        )


def _label(model: ModelRuns) -> str:
    return one_line(model.title)


def _classes(report: BenchmarkReport, evaluated: list[ModelRuns]) -> Iterator[Block]:
    if not evaluated:
        return
    shares = np.array([statistics.per_class(report, model) for model in evaluated])
    models, names = [model.title for model in evaluated], list(report.label_names)
    yield Figure(
        "classes",
        f"Accuracy of {listed(models)} on each of {plural(len(names), 'class').replace('classs', 'classes')}",
        partial(plots.per_class, shares, models, names),
        "Percentage of each class's test images that are right." if len(names) <= _NAMES_IN_TABLE else "",
    )
    if len(names) > _NAMES_IN_TABLE:
        yield from _hardest(report, evaluated, shares)


def _hardest(report: BenchmarkReport, evaluated: list[ModelRuns], shares: Array) -> Iterator[Block]:
    best = max(range(len(evaluated)), key=lambda index: _accuracy_of(evaluated[index]))
    ranked = np.argsort(np.where(np.isfinite(shares[best]), shares[best], np.inf), kind="stable")[:HARDEST]
    columns = [(model.title, "r", [percent(shares[row, k]) for k in ranked]) for row, model in enumerate(evaluated)]
    names = [report.label_names[k] for k in ranked]
    yield table(
        (("class", "l", names), *columns), f"The {len(ranked)} classes that {evaluated[best].title} finds hardest."
    )


def _reliability(report: BenchmarkReport, evaluated: list[ModelRuns]) -> Iterator[Block]:
    if not evaluated or report.truth is None or len(report.truth) < 2 * LEAST_IN_BIN:
        return
    bins = {_label(model): statistics.reliability(report, model) for model in evaluated}
    yield Text(
        "Of the images that a model tags with a score of 0.8, eight in ten should be right: then its points lie on the "
        "dashed line. Below the line it is surer than it should be, above it less sure."
    )
    yield Figure(
        "reliability",
        f"Share that is right against score for {listed(list(bins))}",
        partial(plots.reliabilities, {name: (each.confidence, each.right) for name, each in bins.items()}),
        "Every point stands for about as many test images; equal scores stay together.",
    )


def _making(report: BenchmarkReport) -> Iterator[Block]:
    if report.command.strip():
        yield Listing(report.command.strip())
    if report.checkpoints and (best := _best(report)):
        yield Text(
            "Every model is a checkpoint in the report's folder. The best of them tags other images; copy it to where "
            "another call of the command above does not replace it:"
        )
        yield Listing(f"tagger tag FOLDER --model {report.checkpoints}/{best.name}-{best.shown.seed} --out RESULTS")
    versions = {name: version for run in report.runs for name, version in run.versions.items()}
    seeds = sorted({run.seed for run in report.runs})
    facts = {
        "Data": report.data,
        "Mind": _sentence(report.note),
        "Machine": report.machine,
        "Devices": listed(sorted({device for model in report.models for device in _devices(model)})),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "Seeds": listed([str(seed) for seed in seeds]),
    }
    notes = [(model.title, note) for model in report.models for note in _notes(model)]
    lines = [(name, one_line(text)) for name, text in (*facts.items(), *notes) if text.strip()]
    if lines:
        yield Bullets(lines)
    if len(report.runs) > len(report.models):
        yield _every_run(report)


def _notes(model: ModelRuns) -> list[str]:
    return list(dict.fromkeys(one_line(run.note) for run in model.runs if run.note.strip()))


def _every_run(report: BenchmarkReport) -> Block:
    runs = [run for model in report.models for run in model.runs]
    ends: list[tuple[Number, Number]] = [run.interval for run in runs]
    sure = [interval((low, high)) if low is not None and high is not None else UNKNOWN for low, high in ends]
    return table(
        (
            ("model", "l", [run.title or run.model for run in runs]),
            ("seed", "r", [str(run.seed) for run in runs]),
            ("test accuracy", "r", [percent(run.accuracy) for run in runs]),
            ("95% interval", "r", sure),
            ("epochs", "r", [count(run.epochs) for run in runs]),
            ("training time", "r", [duration(run.train_seconds) for run in runs]),
        ),
        "Every run.",
    )
