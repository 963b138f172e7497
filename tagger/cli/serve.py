"""`serve`: checkpoints behind a REST server."""

from __future__ import annotations

from typing import Annotated

import typer

from tagger.cli.app import app
from tagger.cli.options import Quiet
from tagger.cli.printing import say, show
from tagger.errors import MissingExtra
from tagger.inference.config import ModelConfig
from tagger.options import Fields, expand
from tagger.serve.config import ServeConfig

_LOOPBACK = ("127.", "localhost", "::1")


@app.command(epilog="Example: tagger serve checkpoints/cifar10-speedrun --port 8000")
@expand
def serve(
    models: Annotated[list[str], typer.Argument(help="Checkpoint folders or URLs, timm/NAME, or .onnx files.")],
    config: ServeConfig,
    model_config: Annotated[
        ModelConfig, Fields(("top_k", "threshold", "device", "engine", "precision", "batch_size", "max_pixels"))
    ],
    quiet: Quiet = False,
) -> None:
    """Serve models over HTTP: the prediction calls of Azure Custom Vision's clients, POST /predict, and a page.

    SIGTERM ends the server once the requests at work are answered. A checkpoint that changes on disk is loaded again.
    """
    try:
        from tagger.serve import server
    except ModuleNotFoundError as error:
        raise MissingExtra("tagger serve", str(error.name), "serve") from error
    if not config.host.startswith(_LOOPBACK) and config.key_file is None:
        say(f"tagger: everyone who reaches {config.host} can use this server; --key-file limits it to those with a key")
    server.serve(
        models, config, model_config, on_start=lambda url: None if quiet else show(f"serving on {url}\nstop: Ctrl-C")
    )
