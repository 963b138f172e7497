"""`serve`: serve checkpoints over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from tagger import hardware
from tagger.cli.app import Quiet, app
from tagger.cli.printing import say, show
from tagger.errors import MissingExtra, UsageError
from tagger.inference.config import ModelConfig
from tagger.options import Fields, expand
from tagger.serving.config import ServeConfig
from tagger.training.config import TrainConfig

_LOOPBACK = ("127.", "localhost", "::1")


@app.command(epilog="Example: tagger serve checkpoints/cifar10-speedrun --port 8000")
@expand
def serve(
    config: ServeConfig,
    model_config: Annotated[
        ModelConfig, Fields(("top_k", "threshold", "device", "engine", "precision", "batch_size", "max_pixels"))
    ],
    train_config: Annotated[TrainConfig, Fields(("backbone", "method", "image_size", "epochs"))],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Checkpoint folders or URLs, timm/NAME, or .onnx files; NAME=MODEL serves one under that name."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Serve models over HTTP.

    The server answers POST /predict and the prediction calls of Azure Custom Vision's clients, and has a page to try
    it. With --projects, it also answers their training calls: images, tags and models are stored in that folder.
    SIGTERM stops the server after the requests in progress. A checkpoint that changes on disk is reloaded.
    """
    try:
        from tagger.serving import server
    except ModuleNotFoundError as error:
        raise MissingExtra("tagger serve", str(error.name), "serve") from error
    if not config.host.startswith(_LOOPBACK) and config.key_file is None:
        say(f"tagger: anyone who can reach {config.host} can use this server; --key-file requires a key")
    if not models and not config.projects:
        raise UsageError("give a model to serve, or a folder of projects with --projects")
    hardware.raise_file_limit()
    hardware.return_large_blocks()
    server.serve(
        models or [], config, model_config, train_config,
        on_start=lambda url: None if quiet else show(f"serving on {url}\nstop: Ctrl-C"),
    )  # fmt: skip
