"""`tag`, `predict`, `models`: checkpoints at work."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from tagger.cli.app import app
from tagger.cli.options import Json, Model, Models, Quiet, Source
from tagger.cli.printing import found_progress, headline, print_json, print_prediction, print_table, tag_progress
from tagger.errors import TooManyFailed
from tagger.inference.config import ModelConfig
from tagger.options import Fields, expand
from tagger.tagging.config import TagConfig

if TYPE_CHECKING:
    from tagger.checkpoint.info import ModelInfo
    from tagger.tagging.plan import Plan


@app.command(epilog="Example: tagger tag ~/photos --model checkpoints/cifar10-speedrun --out results")
@expand
def tag(
    source: Source,
    model: Models,
    out: Annotated[str, typer.Option(help="Results folder or URL; one Parquet row per file is written here.")],
    config: TagConfig,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tag every image of a source whose row is missing or out of date: one Parquet row per file."""
    from tagger.tagging import run

    silent = quiet or as_json
    with contextlib.ExitStack() as stack:
        on_found = stack.enter_context(found_progress(silent))

        def on_plan(plan: Plan) -> None:
            stack.close()
            if not silent:
                typer.echo(plan.text())

        with tag_progress(silent) as on_progress:
            summary = run.tag(source, model, out, config, on_plan, on_progress, on_found)
    if as_json:
        print_json(summary.to_dict())
    elif not quiet:
        typer.echo(summary.text())
    summary.check_failures()


@app.command(epilog="Example: tagger predict cat.jpg --model checkpoints/cifar10-speedrun")
@expand
def predict(
    images: Annotated[list[str], typer.Argument(help="Image files or URLs.")],
    model: Model,
    config: Annotated[ModelConfig, Fields(("top_k", "device", "engine", "precision", "max_pixels"))],
    as_json: Json = False,
) -> None:
    """Show the best tags of single images; nothing is written."""
    from tagger.inference.model import predict

    rows = predict(images, model, config)
    if as_json:
        print_json(
            {"images": [{key: row.get(key) for key in ("uri", "status", "error", "candidates")} for row in rows]}
        )
    else:
        for row in rows:
            print_prediction(row)
    if all(row["candidates"] is None for row in rows):
        raise TooManyFailed(f"no tags for any of {len(rows)} images")


@app.command(epilog="Example: tagger models checkpoints")
def models(
    folder: Annotated[str, typer.Argument(help="Folder of checkpoints.")] = "checkpoints", as_json: Json = False
) -> None:
    """List the checkpoints of a folder with their numbers."""
    from tagger import checkpoint

    found = checkpoint.list_checkpoints(folder)
    if as_json:
        keys = ("name", "model_id", "architecture", "task", "label_names", "metrics", "agreement")
        print_json({"models": [{key: getattr(info, key) for key in keys} for info in found]})
        return
    rows = [
        {
            "name": info.name,
            "task": info.task,
            "labels": len(info.label_names),
            "number": headline(info.metrics),
            "agreement here": agreement_here(info),
            "model_id": info.model_id,
        }
        for info in found
    ]
    if rows:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        typer.echo(f"no checkpoints in {folder}")


def agreement_here(info: ModelInfo) -> str:
    """Return how far the settings measured on this processor agree with the reference."""
    from tagger import hardware

    records = info.agreement.get(hardware.processor(), {})
    return "\n".join(f"{key}: {record['top1']:.2%}" for key, record in records.items()) or "not measured"
