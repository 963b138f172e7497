"""Start-up time: medians of 10 processes each.

    python -m benchmarks.startup [MODEL [PHOTO]]

`tag one photograph` is a whole run with a warm cache, from the command to the row on disk.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

from PIL import Image

from benchmarks import machine

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import tagger": ["-c", "import tagger"],
    "tagger --help": ["-m", "tagger.cli", "--help"],
}
TAG = "tag one photograph"


def main() -> None:
    """Alternate the commands and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="checkpoints/cifar10-speedrun")
    parser.add_argument("photo", nargs="?", help="[default: generated, of a photograph's size]")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photo = arguments.photo or _make_image(folder)
        commands = {**COMMANDS, TAG: ["-m", "tagger.cli", "tag", photo, "--model", arguments.model, "--out"]}
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(arguments.rounds + 1):
            for name, command in commands.items():
                out = [f"{folder}/{number}"] if name == TAG else []
                started = time.perf_counter()
                subprocess.run([sys.executable, *command, *out], check=True, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - started)
    print(f"medians of {arguments.rounds}, {machine.describe()}\n\n| | seconds |\n|---|--:|")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times[1:]):.2f} |")


def _make_image(folder: str) -> str:
    path = f"{folder}/image.jpg"
    Image.effect_noise((500, 375), 60).convert("RGB").save(path)
    return path


if __name__ == "__main__":
    main()
