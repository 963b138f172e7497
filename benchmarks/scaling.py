"""Time per image and peak memory as the number of files grows.

    python -m benchmarks.scaling [--counts 10000 200000] [--model checkpoints/cifar10-speedrun]

Tags hard links to small images with a small network, so that the overhead per file dominates. Prints a Markdown table:
seconds, milliseconds per image after start-up and peak memory, and seconds and peak memory of a rerun that finds
nothing to do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import machine


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="*", default=[10_000, 200_000])
    parser.add_argument("--model", default="checkpoints/cifar10-speedrun")
    arguments = parser.parse_args()
    print(f"{machine.describe()}\n")
    print(
        "| files | seconds | ms per image after start-up | GB | rerun: seconds | rerun: GB |\n|--:|--:|--:|--:|--:|--:|"
    )
    for count in arguments.counts:
        with tempfile.TemporaryDirectory() as folder:
            make_images(Path(folder) / "images", count)
            first, seconds = run(folder, arguments.model)
            again, seconds_again = run(folder, arguments.model)
            each = 1000 / (first["steady_images_per_second"] or first["images_per_second"])
            print(
                f"| {count:,} | {seconds:.1f} | {each:.3f} | {first['peak_memory'] / 1e9:.2f} "
                f"| {seconds_again:.1f} | {again['peak_memory'] / 1e9:.2f} |",
                flush=True,
            )


def make_images(folder: Path, count: int) -> None:
    """Write 100 images of 32x32 pixels and hard links to them, 1,000 per folder."""
    rng = np.random.default_rng(0)
    originals = folder / "originals"
    originals.mkdir(parents=True)
    for index in range(100):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(originals / f"{index}.jpg")
    for index in range(count - 100):
        if index % 1000 == 0:
            (folder / f"{index // 1000:05d}").mkdir()
        (folder / f"{index // 1000:05d}" / f"{index}.jpg").hardlink_to(originals / f"{index % 100}.jpg")


def run(folder: str, model: str) -> tuple[dict[str, Any], float]:
    """Tag the folder; return its summary, and the seconds of the whole process."""
    command = [sys.executable, "-m", "tagger.cli", "tag", f"{folder}/images", "--model", model]
    started = time.perf_counter()
    ran = subprocess.run([*command, "--out", f"{folder}/results", "--json"], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout), time.perf_counter() - started


if __name__ == "__main__":
    main()
