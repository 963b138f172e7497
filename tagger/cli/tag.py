"""`tag`, `predict`: run models on images."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tagger.cli.app import Json, Quiet, app
from tagger.cli.logs import JsonLines, json_lines, json_progress
from tagger.cli.printing import print_json, print_prediction, progress, show
from tagger.errors import TooManyFailed, UsageError
from tagger.inference.config import ModelConfig
from tagger.options import IMAGENET, Fields, Model, Models, ResultsOut, Source, expand
from tagger.tagging.config import TagConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tagger.tagging.plan import Plan
    from tagger.tagging.summary import Summary

RESULTS = "results"
"""Default results folder."""


@app.command(epilog="Example: tagger tag ~/photos")
@expand
def tag(
    source: Source,
    *,
    model: Models = (IMAGENET,),  # type: ignore[assignment]
    out: ResultsOut = RESULTS,
    config: TagConfig,
    as_json: Json = False,
    quiet: Quiet = False,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="json: progress and warnings on stderr, one JSON object per line.")
    ] = "text",
) -> None:
    """Tag the new and changed images of a source.

    Every file gets a row in the results table, even if it is damaged or not an image.
    """
    with json_lines() if log_format == "json" else nullcontext() as lines:
        _check_place(source, out)
        summary = _tag(source, config, model, out, quiet or as_json, lines)
        if as_json:
            print_json(summary.to_dict())
        elif not quiet:
            show(summary.text())
        summary.check_failures()


def _tag(
    source: str, config: TagConfig, model: Sequence[str], out: str, silent: bool, lines: JsonLines | None
) -> Summary:
    """Tag with progress on stderr, as text or as JSON."""
    from tagger.tagging import run

    with json_progress(lines) if lines else progress(silent) as show_step:

        def on_plan(plan: Plan) -> None:
            show_step("listing", 0, 0)
            if lines:
                lines.event("plan", run_id=plan.run_id, found=plan.found, files_to_tag=len(plan.entries))
            elif not silent:
                show(plan.text())
            if plan.shards:
                show_step("loading the model", 0)

        def on_progress(now: run.Progress) -> None:
            show_step("tagging", now.done, now.total, f"{now.failed:,} failed")

        show_step(f"reading {', '.join(model)}", 0)
        summary = run.tag(source, model, out, config, on_plan, on_progress, lambda found: show_step("listing", found))
    if lines:
        lines.event("finished", **summary.to_dict())
    return summary


def _check_place(source: str, out: str) -> None:
    """Raise UsageError if the default results folder would be inside the source."""
    if out == RESULTS and os.path.isdir(source) and Path(out).resolve().is_relative_to(Path(source).resolve()):
        raise UsageError(f"--out: ./{out} would be inside {source}; choose another folder, such as --out ../{out}")


@app.command(epilog="Example: tagger predict cat.jpg")
@expand
def predict(
    images: Annotated[list[str], typer.Argument(help="Image files or URLs.")],
    *,
    model: Model = IMAGENET,
    config: Annotated[ModelConfig, Fields(("top_k", "device", "engine", "precision", "max_pixels"))],
    as_json: Json = False,
) -> None:
    """Print the tags of single images; no file is written."""
    from tagger.inference.model import predict

    if folder := next(filter(os.path.isdir, images), None):
        raise UsageError(f"{folder}: is a folder; use `tagger tag` to tag all its images")
    with progress(as_json) as show_step:
        show_step(f"loading {model}", 0)
        rows = predict(images, model, config)
    if as_json:
        print_json(
            {
                "images": [
                    {key: row.get(key) for key in ("uri", "status", "error", "unknown", "candidates")} for row in rows
                ]
            }
        )
    else:
        for row in rows:
            print_prediction(row)
    if all(row["candidates"] is None for row in rows):
        raise TooManyFailed("none of the images can be read")
