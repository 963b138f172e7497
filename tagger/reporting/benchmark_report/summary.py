"""Title and first sentences: the best of the models trained in full, and what its accuracy cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tagger.reporting.benchmark_report import statistics
from tagger.reporting.benchmark_report.data import BenchmarkReport, ModelRuns
from tagger.reporting.formatting import (
    count,
    duration,
    interval,
    joined,
    listed,
    one_line,
    percent,
    rate,
    sentence,
    spread,
)


def title(report: BenchmarkReport) -> str:
    """Return the question that the report answers."""
    return f"Does a bigger model pay on {one_line(report.dataset)}?"


def summary(report: BenchmarkReport) -> str:
    """Return the answer. Like is compared with like: models that the budget cut are named, and not compared."""
    models = [model for model in report.models if model.values("accuracy")]
    whole, cut = [model for model in models if not model.cut], [model for model in models if model.cut]
    if not models:
        return "No model has been evaluated yet."
    if (top := best(report)) is None:
        return joined(_all_cut(report, cut), sentence(report.note))
    answer = _verdict(report, top, whole, cut), _ahead(top, cut), _price(report, top, whole)
    return joined(*answer, sentence(report.note))


def best(report: BenchmarkReport) -> ModelRuns | None:
    """Return the most accurate of the models trained in full; of equals the one that trains fastest."""
    whole = [model for model in report.models if model.values("accuracy") and not model.cut]
    return max(whole, key=lambda model: (score(model), -_seconds(model)), default=None)


def score(model: ModelRuns) -> float:
    """Return the mean accuracy, -1 where it is unknown."""
    accuracy = model.mean("accuracy")
    return -1.0 if accuracy is None else accuracy


def _seconds(model: ModelRuns) -> float:
    seconds = model.mean("train_seconds")
    return math.inf if seconds is None else seconds


def _verdict(report: BenchmarkReport, best: ModelRuns, whole: Sequence[ModelRuns], cut: Sequence[ModelRuns]) -> str:
    seeds = len(best.values("accuracy"))
    aside = joined(
        f"95% interval {interval(best.interval)}" if best.interval else "",
        f"mean of {seeds} seeds, {spread(best.spread)} points" if seeds > 1 else "",
        by="; ",
    )
    result = f"{_right(best)} of {_images(report)}" + (f" ({aside})" if aside else "")
    equals = [model.title for model in whole if model is not best and score(model) == score(best)]
    rank = f"the best{f' (with {listed(equals)})' if equals else ''} of the {len(whole)} models"
    if not cut:
        return f"{result}, {rank}." if len(whole) > 1 else f"{result}."
    rank = rank if len(whole) > 1 else "the only model"
    were, are = ("were", "are") if len(cut) > 1 else ("was", "is")
    amounts = "; ".join(model.cut for model in cut)
    names = listed([model.title for model in cut])
    return f"{result}, {rank} trained in full; {names} {were} cut by the budget ({amounts}) and {are} not compared."


def _ahead(best: ModelRuns, cut: Sequence[ModelRuns]) -> str:
    """Name the cut model, if any, that the table shows ahead of the best whole one."""
    ahead = max(cut, key=score, default=best)
    return f"Even cut ({ahead.cut}), {_right(ahead)}." if score(ahead) > score(best) else ""


def _all_cut(report: BenchmarkReport, cut: Sequence[ModelRuns]) -> str:
    opening = f"All {len(cut)} models were cut by the budget and are not compared"
    if len(cut) == 1:
        opening = "The only model was cut by the budget"
    first, *others = cut
    results = [f"{first.title} ({first.cut}) is right on {percent(first.mean('accuracy'))} of {_images(report)}"]
    results += [f"{model.title} ({model.cut}) on {percent(model.mean('accuracy'))}" for model in others]
    return f"{opening}: {listed(results)}."


def _right(model: ModelRuns) -> str:
    return f"{model.title} is right on {percent(model.mean('accuracy'))}"


def _images(report: BenchmarkReport) -> str:
    return "the test images" if report.truth is None else f"{count(len(report.truth))} test images"


def _price(report: BenchmarkReport, best: ModelRuns, whole: Sequence[ModelRuns]) -> str:
    """Compare the best model with the best of those that train faster."""
    if math.isinf(_seconds(best)) or len(whole) < 2:
        return ""
    faster = [model for model in whole if _seconds(model) < _seconds(best)]
    if not faster:
        return "It is also the fastest of them to train: no bigger one pays."
    other = max(faster, key=score)
    points, more = 100 * (score(best) - score(other)), _seconds(best) - _seconds(other)
    gain = f"It gains {points:.1f} points over {other.title}, the best of those that train faster,"
    price = f"for {duration(more)} more training ({duration(more / points)} per point{_flops_ratio(other, best)})"
    return f"{gain} {price}{_doubt(report, other, best)}."


def _flops_ratio(small: ModelRuns, large: ModelRuns) -> str:
    few, many = small.mean("flops"), large.mean("flops")
    ratio = rate(many / few) if few and many else "1"
    return f", {ratio} times the FLOPs per image" if ratio != "1" else ""


def _doubt(report: BenchmarkReport, one: ModelRuns, other: ModelRuns) -> str:
    p = statistics.mcnemar(report, one, other)
    return f"; the difference may be chance (McNemar's test, p = {p:.2f})" if p is not None and p > 0.05 else ""
