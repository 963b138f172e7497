"""Files that two runs of the same source tag twice.

    python -m benchmarks.overlap [--files 4000] [--shard-size 250] [--seconds 6]

Tags copies of one photograph twice at the same time, the second run starting `--seconds` after the first.
"""

from __future__ import annotations

import argparse
import os
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
    """Parse, tag, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--shard-size", type=int, default=250)
    parser.add_argument("--seconds", type=float, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        twice = files_tagged_twice(Path(name), arguments.files, arguments.shard_size, arguments.seconds)
    shards = twice / arguments.shard_size
    print(f"{machine.describe()}: {twice:,} of {arguments.files:,} files tagged twice, {shards:.1f} shards")


def files_tagged_twice(folder: Path, files: int, shard_size: int, seconds: float) -> int:
    """Run twice at the same time; return the number of rows over one per file."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).resize((800, 600)).save(folder / "photo.jpg", quality=92)
    (folder / "photos").mkdir()
    for number in range(files):
        os.link(folder / "photo.jpg", folder / "photos" / f"{number:06d}.jpg")
    options = ["--model", "checkpoints/cifar10-speedrun", "--out", str(folder / "out"), "--shard-size", str(shard_size)]
    command = [sys.executable, "-m", "tagger.cli", "tag", str(folder / "photos"), *options, "--quiet"]
    runs = [subprocess.Popen(command)]
    time.sleep(seconds)
    runs.append(subprocess.Popen(command))
    if any(run.wait() for run in runs):
        raise SystemExit("a run failed")
    return len(tagger.read_results(folder / "out", latest=False)) - files


if __name__ == "__main__":
    main()
