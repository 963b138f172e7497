"""ONNX files beside the default engine: size, agreement on photographs, images/s of the network alone.

    python -m benchmarks.exported PHOTOS MODEL...

Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import machine
from tagger import checkpoint
from tagger.evaluation.onnx import export_onnx
from tagger.inference import engines
from tagger.inference.engines import Choice, probe_images, rate


def images_per_second(model: str) -> float:
    """Return the rate of a model's default engine on the CPU."""
    info = checkpoint.describe(model)
    engine = engines.load(info, checkpoint.build, Choice("cpu"))
    return rate(engine, probe_images(info.preprocessing.size), seconds=3)


def row(model: str, photos: str, out: Path) -> str:
    """Export a model, and return its line of the table."""
    found = export_onnx(model, out, photos, force=True)
    rates = f"{images_per_second(str(out)):,.1f} | {images_per_second(model):,.1f}"
    agreement = f"{found.agreement.top1:.2%} | {found.agreement.max_difference:.1e}"
    return f"| {model.rstrip('/').rpartition('/')[2]} | {found.bytes / 1e6:.1f} | {agreement} | {rates} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("models", nargs="+")
    options = parser.parse_args()
    print(f"{machine.describe()}\n")
    print("| model | MB | top-1 agreement | largest difference | onnxruntime images/s | default engine images/s |")
    print("|---|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            print(row(model, options.photos, Path(folder) / "model.onnx"), flush=True)


if __name__ == "__main__":
    main()
