"""ONNX files in fp32 and int8 against the default engine: size, agreement on photographs, images/s of the network.

    python -m benchmarks.exported export WORK PHOTOS MODEL... [--train LABELLED] [--image-size N]
    python -m benchmarks.exported table WORK [MODEL...]

`export` writes the files of each model to a folder in WORK, with their agreement. `random:ARCHITECTURE` is a linear
probe, trained on LABELLED, on a timm network with random weights (seed 0) and the batch-norm statistics of PHOTOS.
`table` measures images/s and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

import tagger
from benchmarks import machine
from benchmarks.throughput import random_model
from tagger import checkpoint
from tagger.checkpoint.info import Json
from tagger.data import manifest
from tagger.errors import TaggerError
from tagger.evaluation import agreement
from tagger.evaluation.onnx import Precision, export_onnx
from tagger.inference import engines
from tagger.inference.engines import Choice, probe_images, rate

SECONDS = 3.0
STATISTICS = 64
"""Number of photographs from which the batch-norm statistics of random networks are computed."""
FACTS = "model.json"
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def export(work: Path, photos: str, model: str, labelled: str | None, image_size: int | None) -> None:
    """Export a model in every precision; write sizes and agreements to a file."""
    folder = work / model.removeprefix("random:").rstrip("/").rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        source = random_probe(model, folder, photos, labelled, image_size) if "random:" in model else model
        facts: Json = {"source": source}
        for precision in PRECISIONS:
            facts[precision] = exported(facts["source"], folder, photos, precision)
    except TaggerError as error:
        print(f"{folder.name}: {error}", flush=True)
        return
    (folder / FACTS).write_text(json.dumps(facts, indent=1))
    print(folder.name, facts, flush=True)


def exported(source: str, folder: Path, photos: str, precision: Precision) -> Json:
    """Export a model in one precision; return size and agreement, or the error."""
    try:
        found = export_onnx(source, folder / f"{precision}.onnx", photos, force=True, precision=precision)
    except TaggerError as error:
        return {"error": str(error)}
    return asdict(found)


def random_probe(model: str, folder: Path, photos: str, labelled: str | None, image_size: int | None) -> str:
    """Train a probe on a timm network with random weights; return its checkpoint."""
    if labelled is None:
        raise SystemExit(f"{model}: needs labelled images; give them with --train")
    backbone, out = random_model(model, folder), folder / "probe"
    settle(backbone, photos)
    tagger.train(labelled, out, tagger.TrainConfig(method="probe", backbone=backbone, image_size=image_size))
    return str(out)


def settle(backbone: str, photos: str) -> None:
    """Set the batch-norm statistics of a saved network to those of photographs, as training would."""
    info = checkpoint.describe(backbone)
    paths = manifest.locations(manifest.read_source(photos).table)
    pixels = agreement.fitted(info, agreement.photographs(paths, STATISTICS, photos))
    net, mean, std = checkpoint.build(info), *map(torch.tensor, (info.preprocessing.mean, info.preprocessing.std))
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)):
        norm.train()
        norm.momentum = None  # the average over all batches
        norm.reset_running_stats()
    with torch.inference_mode():
        for batch in torch.from_numpy(pixels).split(16):
            net(((batch / 255 - mean) / std).permute(0, 3, 1, 2))
    safetensors.torch.save_file(net.state_dict(), Path(info.weights))


def images_per_second(model: str) -> float:
    """Return the rate of a model's default engine on the CPU."""
    info = checkpoint.describe(model)
    engine = engines.load(info, checkpoint.build, Choice("cpu"))
    return rate(engine, probe_images(info.preprocessing.size), seconds=SECONDS)


def row(folder: Path) -> str:
    """Measure the rates of an exported model and return its row of the table."""
    facts = json.loads((folder / FACTS).read_text())
    cells = [folder.name]
    for precision in PRECISIONS:
        found = facts[precision]
        if "error" in found:
            cells += ["-"] * 4
            continue
        agreed, speed = found["agreement"], images_per_second(str(folder / f"{precision}.onnx"))
        cells += [f"{found['bytes'] / 1e6:.1f}", f"{agreed['top1']:.1%}", f"{agreed['max_difference']:.1e}"]
        cells += [f"{speed:,.0f}"]
    return f"| {' | '.join(cells)} | {images_per_second(facts['source']):,.0f} |"


def table(work: Path, names: list[str]) -> None:
    """Print the table of all exported models, or of the named ones."""
    found = {path.parent.name: path.parent for path in sorted(work.glob(f"*/{FACTS}"))}
    columns = ("MB", "top-1", "difference", "images/s")
    titles = [f"{precision} {column}" for precision in PRECISIONS for column in columns]
    print(f"{machine.describe()}\n\n| model | {' | '.join(titles)} | default engine images/s |")
    print("|---|" + "--:|" * (len(titles) + 1))
    for name in names or found:
        print(row(found[name]), flush=True)


def main() -> None:
    """Parse the arguments, and export models or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export")
    for name, count in (("work", None), ("photos", None), ("models", "+")):
        exporting.add_argument(name, nargs=count, type=Path if name == "work" else str)
    exporting.add_argument("--train")
    exporting.add_argument("--image-size", type=int)
    printing = commands.add_parser("table")
    printing.add_argument("work", type=Path)
    printing.add_argument("models", nargs="*")
    options = parser.parse_args()
    if options.command == "table":
        table(options.work, options.models)
        return
    for model in options.models:
        export(options.work, options.photos, model, options.train, options.image_size)


if __name__ == "__main__":
    main()
