"""`migrate`: copy images, labels and metrics from other services."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tagger.cli.app import STYLE, Commands, Json, Quiet, app
from tagger.cli.printing import print_json, progress, show
from tagger.errors import MissingExtra, SourceError, UsageError

HELP = "Copy images and labels from Azure Custom Vision."
migrate = typer.Typer(cls=Commands, no_args_is_help=True, help=HELP, **STYLE)
app.add_typer(migrate, name="migrate")


@migrate.callback()
def services() -> None:
    """Copy images and labels from Azure Custom Vision."""


@migrate.command(
    epilog="Example: tagger migrate customvision --endpoint https://NAME.cognitiveservices.azure.com --key-file key "
    "--project trees --out trees"
)
def customvision(
    endpoint: Annotated[str, typer.Option(help="URL of the training resource.")],
    key_file: Annotated[str, typer.Option(help="File with its training key.")],
    project: Annotated[str, typer.Option(help="Name or id of the project.")],
    out: Annotated[str, typer.Option(help="Folder to write; run again to continue.")],
    downloads: Annotated[int, typer.Option(min=1, max=32, help="Number of concurrent downloads.")] = 4,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy a project of Azure Custom Vision.

    It copies images, tags, negatives, and the metrics of the iterations. To train on the copy: `tagger train
    OUT/manifest.parquet`. Existing images are not downloaded again.
    """
    try:
        from tagger.migrate.customvision import migrate
    except ModuleNotFoundError as error:
        raise MissingExtra("tagger migrate", str(error.name), "migrate") from error
    with progress(quiet or as_json) as show_step:
        key = _key(key_file)
        found = migrate(endpoint, key, project, out, downloads, lambda done, total: show_step("images", done, total))
    if as_json:
        print_json({"out": out, **asdict(found)})
    elif not quiet:
        show(f"{found.text()}\nmanifest: {out}/manifest.parquet")
    if found.failed:
        listed = "; ".join(found.failed[:3])
        raise SourceError(f"{len(found.failed):,} images are missing ({listed}); run the command again to fetch them")


def _key(path: str) -> str:
    from tagger import storage

    try:
        lines = storage.read_bytes(storage.absolute(path)).decode("utf-8", "replace").split()
    except SourceError as error:
        raise UsageError(f"--key-file {path}: cannot be read; write the training key into it") from error
    if not lines:
        raise UsageError(f"--key-file {path}: is empty; write the training key into it")
    return lines[0]
