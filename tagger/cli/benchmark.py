"""`benchmark`: what models reach on the same images, and what this machine can do."""

from __future__ import annotations

from statistics import mean, stdev
from typing import Annotated, Any

import typer

from tagger.cli.app import STYLE, Commands, app
from tagger.cli.options import BatchSize, Device, Engine, Json, Model, Precision, Quiet
from tagger.cli.printing import print_json, print_table, say


class Benchmarks(Commands):
    """Take `benchmark DATASET`, wherever its options stand, for `benchmark ladder DATASET`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Find the command that was named; what is no command is a dataset or an option of it."""
        known = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        return list(super().parse_args(ctx, args if known else ["ladder", *args]))


HELP = "Compare models on the same images (`benchmark cifar10`, `benchmark DATASET`), or measure this machine."
benchmark = typer.Typer(cls=Benchmarks, no_args_is_help=True, help=HELP, **STYLE)
app.add_typer(benchmark, name="benchmark")


@benchmark.command(
    epilog="Example: tagger benchmark ladder cifar10 --models knn,linear,speedrun --budget 5m --out report"
)
def ladder(
    dataset: Annotated[str, typer.Argument(help="cifar10, or a manifest with labels or a folder of labelled images.")],
    out: Annotated[str, typer.Option(help="Folder for the report and every model; called again, it goes on.")],
    models: Annotated[
        str,
        typer.Option(
            help="knn, linear, mlp, convnet, resnet20 to resnet110, speedrun, knn-features, probe, finetune, ..."
        ),
    ] = "knn,linear,mlp,convnet,resnet20,speedrun,probe,finetune",
    budget: Annotated[str, typer.Option(help="Time on two CPU cores for all models, as 10m or 90s; or full.")] = "10m",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each model that chance has a part in.")] = 1,
    data: Annotated[str | None, typer.Option(help="Where CIFAR-10 is: archive or folder; else downloaded.")] = None,
    preparation: Annotated[
        str | None,
        typer.Option(
            help="none, scale, mean, standardise, single-mean, pixel-mean or mean-file:PATH (CNTK's XML); by default "
            "as each recipe says."
        ),
    ] = None,
    image_size: Annotated[int, typer.Option(min=16, help="Side in pixels for models on pixels.")] = 32,
    backbone: Annotated[
        str, typer.Option(help="For knn-features, probe, finetune: timm/NAME, local-dir:FOLDER or a checkpoint.")
    ] = "timm/mobilenetv3_large_100.ra_in1k",
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Climb from nearest neighbours to fine-tuning on the same images, and report what each step pays."""
    from tagger.benchmark import Climb, LadderConfig, climb

    names = tuple(name.strip() for name in models.split(",") if name.strip())
    config = LadderConfig(names, budget, seeds, preparation, image_size, backbone, device)
    silent = quiet or as_json
    rows = climb(Climb(dataset, out, config, data), (lambda line: None) if silent else say)
    if as_json:
        print_json({"out": out, "models": rows})
    elif not quiet:
        print_table(_COLUMNS, [*map(_ladder_row, rows), *_means(rows)])
        typer.echo(f"report: {out}/report.html")


_COLUMNS = ["model", "seed", "test accuracy", "95%", "training, s", "images/s", "parameters", "cut", "note"]


def _means(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """Return a line for every model that was trained with several seeds."""
    accuracies = {row["model"]: [each["accuracy"] for each in rows if each["model"] == row["model"]] for row in rows}
    return [
        [model, "mean", f"{mean(found):.2%}", f"spread {100 * stdev(found):.2f}", "", "", "", "", ""]
        for model, found in accuracies.items()
        if len(found) > 1
    ]


def _ladder_row(row: dict[str, Any]) -> list[Any]:
    low, high = row["interval"]
    return [
        row["model"], row["seed"], f"{row['accuracy']:.2%}", f"{low:.1%} to {high:.1%}", f"{row['train_seconds']:.0f}",
        f"{row['infer_all_cores']:,.0f}", f"{row['parameters']:,}", row["cut"], row["note"],
    ]  # fmt: skip


@benchmark.command(epilog="Example: tagger benchmark throughput --model timm/resnet50.a1_in1k --source ~/photos")
def throughput(
    model: Model = "checkpoints/cifar10-speedrun",
    source: Annotated[
        str | None, typer.Option(help="Images to measure with; by default photo-sized pictures made on the spot.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Images used, at most.")] = 1000,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = None,
    as_json: Json = False,
) -> None:
    """Measure what each stage of tagging could do alone, what a run achieves, and which stage binds."""
    from tagger.benchmark.throughput import measure
    from tagger.tagging.config import TagConfig

    config = TagConfig(device=device, engine=engine, precision=precision, batch_size=batch_size)
    found = measure(model, source, config, limit)
    if as_json:
        print_json(found.to_dict())
    else:
        print_table(["stage", "images/s", ""], found.rows())
        typer.echo(found.text())


@benchmark.command(epilog="Example: tagger benchmark agreement --model timm/resnet50.a1_in1k --source ~/photos")
def agreement(
    model: Model,
    source: Annotated[str, typer.Option(help="Photographs like those to be tagged; 500 or more prove most.")],
    limit: Annotated[int, typer.Option(help="Photographs used, at most.")] = 1000,
    device: Device = "auto",
    engine: Engine = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Measure how far every engine and precision agrees with eager fp32 and timm's transform, and how fast it is.

    What is found is kept with the checkpoint; `auto` then takes the fastest setting that agrees on 99.5%.
    """
    from tagger.evaluation.agreement import measure
    from tagger.inference.engines import Choice

    found = measure(model, source, Choice(device, engine, precision), limit, None if as_json else say)
    if as_json:
        print_json(found.to_dict())
    else:
        print_table(found.columns, found.rows())
        typer.echo(found.text())
