"""Arguments and options that several commands share, under one name."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Results = Annotated[str, typer.Argument(help="Results folder or URL, as written by `tagger tag --out`.")]
Model = Annotated[
    str,
    typer.Option(
        help="imagenet, imagenet-lite2, a checkpoint folder or URL, timm/NAME, local-dir:FOLDER, or an .onnx file."
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
