"""Arguments and options that several commands share, under one name."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Source = Annotated[str, typer.Argument(help="Folder, file, glob, URL, .txt/.csv/.parquet list of URLs, or a manifest.")]
Results = Annotated[str, typer.Argument(help="Results folder or URL, as written by `tagger tag --out`.")]
Model = Annotated[str, typer.Option(help="Checkpoint folder or URL, timm/NAME, or local-dir:FOLDER.")]
Models = Annotated[
    list[str],
    typer.Option(
        help="Checkpoint folder or URL, timm/NAME, or local-dir:FOLDER; repeat it to tag with several at once."
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
