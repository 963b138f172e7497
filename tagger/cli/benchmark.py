"""`benchmark`: what this machine can do."""

from __future__ import annotations

from typing import Annotated

import typer

from tagger.cli.app import STYLE, app
from tagger.cli.options import BatchSize, Device, Engine, Json, Model, Precision
from tagger.cli.printing import print_json, print_table, say

benchmark = typer.Typer(no_args_is_help=True, help="Measure this machine: how fast, and how exactly.", **STYLE)
app.add_typer(benchmark, name="benchmark")


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
    from tagger.tagging import TagConfig
    from tagger.tagging.throughput import measure

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
    from tagger.engines import Choice
    from tagger.tagging.agreement import measure

    found = measure(model, source, Choice(device, engine, precision), limit, None if as_json else say)
    if as_json:
        print_json(found.to_dict())
    else:
        print_table(found.columns, found.rows())
        typer.echo(found.text())
