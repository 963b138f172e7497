"""`tag`, `predict`, `models`: checkpoints at work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tagger.cli.app import app
from tagger.cli.options import Json, Model, Quiet
from tagger.cli.printing import headline, print_json, print_prediction, print_table, progress, say, show
from tagger.errors import TooManyFailed, UsageError
from tagger.inference.config import ModelConfig
from tagger.options import Fields, Models, ResultsOut, Source, expand
from tagger.tagging.config import TagConfig

if TYPE_CHECKING:
    from tagger.checkpoint.info import ModelInfo
    from tagger.tagging.plan import Plan


@app.command(epilog="Example: tagger tag ~/photos --model checkpoints/cifar10-speedrun --out results")
@expand
def tag(
    source: Source,
    model: Models,
    out: ResultsOut,
    config: TagConfig,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tag every image of a source whose row is missing or out of date: one Parquet row per file."""
    from tagger.tagging import run

    silent = quiet or as_json
    with progress(silent) as show_step:

        def on_plan(plan: Plan) -> None:
            show_step("listing", 0, 0)
            if not silent:
                show(plan.text())

        def on_progress(now: run.Progress) -> None:
            show_step("tagging", now.done, now.total, f"{now.failed:,} failed")

        summary = run.tag(source, model, out, config, on_plan, on_progress, lambda found: show_step("listing", found))
    if as_json:
        print_json(summary.to_dict())
    elif not quiet:
        show(summary.text())
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

    if folder := next(filter(os.path.isdir, images), None):
        raise UsageError(f"{folder}: is a folder; `tagger tag` tags all images of one")
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

    found, broken = checkpoint.list_checkpoints(folder)
    for error in broken:
        say(f"tagger: {error}")
    if as_json:
        keys = ("name", "model_id", "architecture", "task", "label_names", "metrics", "agreement")
        print_json({"models": [{key: getattr(info, key) for key in keys} for info in found]})
        return
    rows = [
        [info.name, info.task, len(info.label_names), headline(info.metrics), agreement_here(info), info.model_id]
        for info in found
    ]
    if rows or broken:
        print_table(["name", "task", "labels", "number", "agreement here", "model_id"], rows)
    else:
        show(f"no checkpoints in {folder}")


def agreement_here(info: ModelInfo) -> str:
    """Return how far the settings measured on this processor agree with the reference."""
    from tagger import hardware

    records = info.agreement.get(hardware.processor(), {})
    return "\n".join(f"{key}: {record['top1']:.2%}" for key, record in records.items()) or "not measured"
