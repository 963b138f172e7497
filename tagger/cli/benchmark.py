"""`benchmark`: compare models on the same images, and measure this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tagger.benchmark.config import BenchmarkConfig
from tagger.cli.app import STYLE, Commands, Json, Quiet, app
from tagger.cli.printing import print_json, print_table, say, show
from tagger.inference.config import ModelConfig
from tagger.options import Cifar10, Fields, Images, Model, ReportOut, expand
from tagger.tagging.config import TagConfig

if TYPE_CHECKING:
    from tagger.checkpoint import info


class Benchmarks(Commands):
    """Command group that runs `benchmark DATASET` as `benchmark models DATASET`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `models`, unless the first argument is a command or --help."""
        known = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        return list(super().parse_args(ctx, args if known else ["models", *args]))


HELP = """Compare models on the same images, or measure this machine.

`tagger benchmark DATASET` is short for `tagger benchmark models DATASET`."""
benchmark = typer.Typer(cls=Benchmarks, no_args_is_help=True, help=HELP, **STYLE)
app.add_typer(benchmark, name="benchmark")


@benchmark.command(epilog="Example: tagger benchmark models cifar10 --models knn,linear --budget 5m --out report")
@expand
def models(
    dataset: Images,
    out: ReportOut,
    config: BenchmarkConfig,
    data: Cifar10 = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train several models and report their accuracy and cost.

    All are trained on the same images. They range from nearest neighbours to fine-tuning.
    """
    from tagger import hardware
    from tagger.benchmark.run import Benchmark

    hardware.keep_freed_memory()
    silent = quiet or as_json
    rows = Benchmark(dataset, out, config, data, (lambda line: None) if silent else say).run()
    if as_json:
        print_json({"out": out, "models": rows})
    elif not quiet:
        print_table(_COLUMNS, [*map(_row, rows), *_means(rows)])
        show(f"report: {out}/report.html")


_COLUMNS = ["model", "seed", "test accuracy", "95%", "training, s", "images/s", "parameters", "cut", "note"]


def _means(rows: list[info.Json]) -> list[list[object]]:
    """Return a row for every model that was trained with several seeds."""
    import pandas as pd

    accuracies = pd.DataFrame(rows).groupby("model", sort=False)["accuracy"]
    means, deviations = accuracies.mean().to_dict(), accuracies.std().dropna()
    return [
        [model, "mean", f"{means[model]:.2%}", f"std {100 * deviation:.2f}", *[""] * 5]
        for model, deviation in deviations.items()
    ]


def _row(row: info.Json) -> list[object]:
    low, high = row["interval"]
    return [
        row["model"], row["seed"], f"{row['accuracy']:.2%}", f"{low:.1%} to {high:.1%}", f"{row['train_seconds']:.0f}",
        f"{row['infer_all_cores']:,.0f}", f"{row['parameters']:,}", row["cut"], row["note"],
    ]  # fmt: skip


@benchmark.command(epilog="Example: tagger benchmark throughput --model timm/resnet50.a1_in1k --source ~/photos")
@expand
def throughput(
    config: Annotated[ModelConfig, Fields(("device", "engine", "precision", "batch_size"))],
    model: Model = "checkpoints/cifar10-speedrun",
    source: Annotated[
        str | None, typer.Option(help="Images to measure with [default: generated images of a photograph's size].")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of images.")] = 1000,
    as_json: Json = False,
) -> None:
    """Measure each stage of tagging, and a whole run.

    It names the stage that limits the rate.
    """
    from tagger.benchmark.throughput import measure

    found = measure(model, source, TagConfig(**asdict(config)), limit)
    if as_json:
        print_json(found.to_dict())
    else:
        print_table(["stage", "images/s", ""], found.rows())
        show(found.text())


@benchmark.command(epilog="Example: tagger benchmark agreement --model timm/resnet50.a1_in1k --source ~/photos")
@expand
def agreement(
    model: Model,
    source: Annotated[str, typer.Option(help="Photographs like those to be tagged; 500 or more are best.")],
    config: Annotated[ModelConfig, Fields(("device", "engine", "precision"))],
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of photographs.")] = 1000,
    as_json: Json = False,
) -> None:
    """Measure agreement and speed of engines and precisions.

    The reference is eager fp32 with timm's transform. The result is stored with the checkpoint; `auto` then uses the
    fastest setting that agrees on 99.5%.
    """
    from tagger.evaluation.agreement import measure

    found = measure(model, source, config.choice, limit, None if as_json else say)
    if as_json:
        print_json(asdict(found))
    else:
        print_table(found.columns, found.rows())
        show(found.text())
