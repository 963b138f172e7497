"""Number of shards that two simultaneous runs of the same source tag twice.

    python -m benchmarks.overlap [--files 12000] [--shard-size 1000] [--seconds 6] [--repetitions 5] [--flow]
        [--workers N] [--model checkpoints/cifar10-speedrun]

Tags copies of one photograph in two simultaneous runs, the second starting `--seconds` after the first; each repetition
uses a new table. `--flow` starts flow runs (python -m flows.tag) instead of commands; `--workers` decodes in processes.
Prints the shards tagged twice in each repetition, their median and maximum.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import tagger
from benchmarks import machine


def main() -> None:
    """Parse the arguments, tag, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=12_000)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--flow", action="store_true")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--model", default="checkpoints/cifar10-speedrun")
    arguments = parser.parse_args()
    module = ["flows.tag"] if arguments.flow else ["tagger.cli", "tag", "--quiet"]
    options = ["--model", arguments.model, "--shard-size", str(arguments.shard_size)]
    options += ["--workers", str(arguments.workers)] if arguments.workers else []
    command = [sys.executable, "-m", *module, *options]
    shards = []
    for _ in range(arguments.repetitions):
        with tempfile.TemporaryDirectory() as name:
            photos = write_photos(Path(name) / "photos", arguments.files)
            rows = rows_of_two_runs([*command, str(photos), "--out", f"{name}/out"], arguments.seconds)
        shards.append((rows - arguments.files) / arguments.shard_size)
        print(f"{shards[-1]:.1f} shards tagged twice", file=sys.stderr)
    print(f"{machine.describe()}: {-(-arguments.files // arguments.shard_size)} shards, tagged twice ", end="")
    print(f"{', '.join(f'{each:.1f}' for each in shards)}: median {statistics.median(shards):.1f}, ", end="")
    print(f"worst {max(shards):.1f}")


def write_photos(folder: Path, files: int) -> Path:
    """Write hard links to one photograph."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).resize((800, 600)).save(folder.parent / "photo.jpg", quality=92)
    for number in range(files):
        os.link(folder.parent / "photo.jpg", folder / f"{number:06d}.jpg")
    return folder


def rows_of_two_runs(command: list[str], seconds: float) -> int:
    """Start a command twice, `seconds` apart; return the number of rows in its table."""
    runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    time.sleep(seconds)
    runs.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    if max(run.wait() for run in runs):
        raise SystemExit("a run failed")
    return len(tagger.read_results(command[-1], latest=False))


if __name__ == "__main__":
    main()
