"""The whole report, from its template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tagger.reporting import plots, render
from tagger.reporting.benchmark_report import statistics, tables
from tagger.reporting.benchmark_report.data import BenchmarkReport, ModelRuns
from tagger.reporting.benchmark_report.figures import figures
from tagger.reporting.benchmark_report.summary import best, summary
from tagger.reporting.formatting import count, duration, interval, joined, listed, percent, quantity, sentence


def html(report: BenchmarkReport, drawn: Mapping[str, bytes] | None = None) -> str:
    """Return a self-contained page: images inline, no script, no request. Text is escaped.

    `drawn` has the PNGs of `plot_files`; without it the figures are drawn.
    """
    drawings, made = figures(report), drawn or {}
    return render.html(markdown(report, "plots"), lambda file: made.get(file) or drawings[file.removesuffix(".png")]())


def markdown(report: BenchmarkReport, folder: str | None = None) -> str:
    """Return Markdown; `folder` has the files of `plot_files`; without it, figures are omitted."""
    return render.markdown(
        "benchmark.md.jinja",
        report=report,
        summary=summary(report),
        tables=tables,
        top=best(report) or max(report.models, key=lambda model: model.accuracy, default=None),
        results=_results,
        commonest=statistics.commonest(report),
        facts=_facts(report),
        drawn=figures(report) if folder else {},
        plots=folder,
        named_classes=plots.NAMED_CLASSES,
        most_weights=plots.WEIGHTS,
    )


def plot_files(report: BenchmarkReport) -> Iterator[tuple[str, bytes]]:
    """Yield the file name and PNG of each figure, drawn one at a time."""
    return ((f"{name}.png", draw()) for name, draw in figures(report).items())


def _results(model: ModelRuns) -> str:
    """Return the results of a model as a sentence."""
    parameters, epochs = model.mean("parameters"), model.mean("epochs")
    results = joined(
        f"{percent(model.accuracy)} of the test images classified correctly (95% interval {interval(model.interval)})",
        f"{quantity(parameters)} parameters" if parameters else "",
        f"trained in {duration(model.train_seconds)}",
        f"{count(epochs)} epoch{'s' * (epochs != 1)}" if epochs else "",
        by=", ",
    )
    return sentence(results)


def _facts(report: BenchmarkReport) -> list[tuple[str, str]]:
    """Return the provenance of the report: data, machine, versions and seeds."""
    versions = {name: version for run in report.runs for name, version in run.versions.items()}
    return [
        ("Data", report.data),
        ("Note", sentence(report.note)),
        ("Machine", report.machine),
        ("Devices", listed(sorted(report.texts("device")))),
        ("Versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))),
        ("Seeds", listed([str(seed) for seed in sorted({run.seed for run in report.runs})])),
    ]
