"""The summary of the report: the best of the models trained in full, and what its accuracy costs."""

from __future__ import annotations

from collections.abc import Sequence

from tagger.reporting.benchmark_report import statistics
from tagger.reporting.benchmark_report.data import BenchmarkReport, ModelRuns
from tagger.reporting.formatting import (
    count,
    duration,
    interval,
    joined,
    listed,
    percent,
    rate,
    sentence,
    spread,
)


def summary(report: BenchmarkReport) -> str:
    """Return the summary. Models that were cut by the budget are named, but not compared with the others."""
    whole = [model for model in report.models if not model.cut]
    cut = [model for model in report.models if model.cut]
    if not report.models:
        return "No model has been evaluated yet."
    if (top := best(report)) is None:
        return joined(_all_cut(report, cut), sentence(report.note))
    answer = _verdict(report, top, whole, cut), _ahead(top, cut), _price(report, top, whole)
    return joined(*answer, sentence(report.note))


def best(report: BenchmarkReport) -> ModelRuns | None:
    """Return the most accurate model trained in full; of equal ones, the fastest to train."""
    whole = [model for model in report.models if not model.cut]
    return max(whole, key=lambda model: (model.accuracy, -model.train_seconds), default=None)


def _verdict(report: BenchmarkReport, best: ModelRuns, whole: Sequence[ModelRuns], cut: Sequence[ModelRuns]) -> str:
    seeds = len(best.runs)
    mean = f"; mean of {seeds} seeds, {spread(best.spread)} points" if seeds > 1 else ""
    result = f"{_right(best)} of {_images(report)} (95% interval {interval(best.interval)}{mean})"
    equals = [model.title for model in whole if model is not best and model.accuracy == best.accuracy]
    rank = f"the best{f' (with {listed(equals)})' if equals else ''} of the {len(whole)} models"
    if not cut:
        return f"{result}, {rank}." if len(whole) > 1 else f"{result}."
    rank = rank if len(whole) > 1 else "the only model"
    were, are = ("were", "are") if len(cut) > 1 else ("was", "is")
    amounts = "; ".join(model.cut for model in cut)
    names = listed([model.title for model in cut])
    return f"{result}, {rank} trained in full; {names} {were} cut by the budget ({amounts}) and {are} not compared."


def _ahead(best: ModelRuns, cut: Sequence[ModelRuns]) -> str:
    """Return a sentence about a cut model that is more accurate than the best whole one; "" without one."""
    ahead = max(cut, key=lambda model: model.accuracy, default=best)
    return f"Even cut ({ahead.cut}), {_right(ahead)}." if ahead.accuracy > best.accuracy else ""


def _all_cut(report: BenchmarkReport, cut: Sequence[ModelRuns]) -> str:
    opening = f"All {len(cut)} models were cut by the budget and are not compared"
    if len(cut) == 1:
        opening = "The only model was cut by the budget"
    first, *others = cut
    results = [f"{first.title} ({first.cut}) is right on {percent(first.accuracy)} of {_images(report)}"]
    results += [f"{model.title} ({model.cut}) on {percent(model.accuracy)}" for model in others]
    return f"{opening}: {listed(results)}."


def _right(model: ModelRuns) -> str:
    return f"{model.title} is right on {percent(model.accuracy)}"


def _images(report: BenchmarkReport) -> str:
    return f"{count(len(report.truth))} test images"


def _price(report: BenchmarkReport, best: ModelRuns, whole: Sequence[ModelRuns]) -> str:
    """Compare the best model with the best of those that train faster."""
    if len(whole) < 2:
        return ""
    faster = [model for model in whole if model.train_seconds < best.train_seconds]
    if not faster:
        return "It is also the fastest of them to train: no larger model pays off."
    other = max(faster, key=lambda model: model.accuracy)
    points, more = 100 * (best.accuracy - other.accuracy), best.train_seconds - other.train_seconds
    gain = f"It gains {points:.1f} points over {other.title}, the best of those that train faster,"
    price = f"for {duration(more)} more training ({duration(more / points)} per point{_flops_ratio(other, best)})"
    return f"{gain} {price}{_doubt(report, other, best)}."


def _flops_ratio(small: ModelRuns, large: ModelRuns) -> str:
    ratio = rate(large.shown.flops / small.shown.flops)
    return f", {ratio} times the FLOPs per image" if ratio != "1" else ""


def _doubt(report: BenchmarkReport, one: ModelRuns, other: ModelRuns) -> str:
    p = statistics.mcnemar(report, one, other)
    return f"; the difference may be chance (McNemar's test, p = {p:.2f})" if p > 0.05 else ""
