"""Throughput of every stage with a GPU, the bound, and the share of it that a whole run reaches.

    python -m benchmarks.gpu [--photos FOLDER] [--limit 4000] [--device cuda] [--models mobilenetv2_100 resnet50 ...]

Networks of timm with random weights (which do not change the speed), compiled, in fp32 and bf16: images/s of storage,
decoding, copying and the model alone, the bound, the rate of a whole run, and the engine. `--device cpu` tries the
script without a GPU.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.throughput import random_model
from tagger.benchmark.throughput import measure
from tagger.tagging.config import TagConfig

MODELS = ("mobilenetv2_100", "resnet50", "vit_base_patch16_224")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", help="photographs [default: generated, of a photograph's size]")
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precisions", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    arguments = parser.parse_args()
    print(f"{machine.describe()}{_gpu(arguments.device)}, up to {arguments.limit:,} images\n")
    print("| model | precision | storage | decode | copy | model alone | bound | achieved | of the bound | engine |")
    print("|---|---|" + "--:|" * 7 + "---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            model = random_model(f"random:{name}", Path(folder))
            for precision in arguments.precisions:
                config = TagConfig(device=arguments.device, engine="torch", precision=precision)
                print(row(name, precision, model, arguments.photos, config, arguments.limit), flush=True)


def row(name: str, precision: str, model: str, photos: str | None, config: TagConfig, limit: int) -> str:
    """Measure one setting; return its line of the table."""
    found = measure(model, photos, config, limit)
    bound = (found.ceilings.bound() or (0.0, ""))[0]
    rates = (found.ceilings.storage, found.ceilings.decode, found.copy, found.ceilings.model, bound, found.achieved)
    shown = " | ".join(f"{rate or 0:,.0f}" for rate in rates)
    return f"| {name} | {precision} | {shown} | {found.achieved / bound if bound else 0:.0%} | {found.engine} |"


def _gpu(device: str) -> str:
    return f", {torch.cuda.get_device_name()}" if device == "cuda" else ""


if __name__ == "__main__":
    main()
