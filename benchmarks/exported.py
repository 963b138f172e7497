"""ONNX files beside the default engine: size, agreement on photographs, images/s of the network alone.

    python -m benchmarks.exported PHOTOS MODEL... [--precision int8]

A model may be `random:ARCHITECTURE`, of timm or ours, which has random weights. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import safetensors.torch
import torch

from benchmarks import machine
from benchmarks.throughput import random_model
from tagger import checkpoint
from tagger.errors import ModelError
from tagger.evaluation.onnx import Precision, export_onnx
from tagger.inference import engines
from tagger.inference.engines import Choice, probe_images, rate
from tagger.models import FAMILIES, build

SECONDS = 3.0
LABELS = 10


def made(model: str, folder: Path) -> str:
    """Save a network of ours with random weights, for `random:tagger_NAME`; one of timm as `random_model` does."""
    name = model.removeprefix("random:")
    if name not in FAMILIES or name == model:
        return random_model(model, folder)
    torch.manual_seed(0)
    (out := folder / name).mkdir()
    safetensors.torch.save_file(build(name, LABELS, {}).state_dict(), out / "model.safetensors")
    preprocessing = {"input_size": [3, 32, 32], "crop_pct": 1.0, "interpolation": "bilinear"}
    names = [str(number) for number in range(LABELS)]
    config = {"architecture": name, "num_classes": LABELS, "label_names": names, "pretrained_cfg": preprocessing}
    (out / "config.json").write_text(json.dumps(config))
    return f"local-dir:{out}"


def images_per_second(model: str) -> float:
    """Return the rate of a model's default engine on the CPU."""
    info = checkpoint.describe(model)
    engine = engines.load(info, checkpoint.build, Choice("cpu"))
    return rate(engine, probe_images(info.preprocessing.size), seconds=SECONDS)


def row(model: str, photos: str, folder: Path, precision: Precision) -> str:
    """Export a model, and return its line of the table."""
    name, out = model.rstrip("/").rpartition("/")[2], folder / "model.onnx"
    try:
        source = made(model, folder)
        found = export_onnx(source, out, photos, force=True, precision=precision)
    except ModelError as error:
        return f"| {name} | {error} | | | | |"
    rates = f"{images_per_second(str(out)):,.0f} | {images_per_second(source):,.0f}"
    agreement = f"{found.agreement.top1:.2%} | {found.agreement.max_difference:.1e}"
    return f"| {name} | {found.bytes / 1e6:.1f} | {agreement} | {rates} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    options = parser.parse_args()
    print(f"{options.precision}, {machine.describe()}\n")
    print("| model | MB | top-1 agreement | largest difference | onnxruntime images/s | default engine images/s |")
    print("|---|--:|--:|--:|--:|--:|")
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            print(row(model, options.photos, Path(folder), options.precision), flush=True)


if __name__ == "__main__":
    main()
