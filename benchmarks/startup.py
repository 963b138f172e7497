"""How long start-up takes: medians of 10 processes each.

    python -m benchmarks.startup [MODEL [PHOTO]]

`tag one photograph` is a whole run from a warm cache to a row on disk, so no less than the time to the first row.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import machine

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import tagger": ["-c", "import tagger"],
    "tagger --help": ["-m", "tagger.cli", "--help"],
}
TAG = "tag one photograph"


def main() -> None:
    """Measure in turn and print a Markdown table."""
    model = sys.argv[1] if len(sys.argv) > 1 else "checkpoints/cifar10-speedrun"
    with tempfile.TemporaryDirectory() as folder:
        photo = sys.argv[2] if len(sys.argv) > 2 else _picture(folder)
        commands = {**COMMANDS, TAG: ["-m", "tagger.cli", "tag", photo, "--model", model, "--out"]}
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(11):
            for name, arguments in commands.items():
                out = [f"{folder}/{number}"] if name == TAG else []
                started = time.perf_counter()
                subprocess.run([sys.executable, *arguments, *out], check=True, stdout=subprocess.DEVNULL)
                seconds[name].append(time.perf_counter() - started)
    print(f"medians of 10, {machine.describe()}\n\n| | seconds |\n|---|--:|")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times[1:]):.2f} |")


def _picture(folder: str) -> str:
    from PIL import Image

    path = f"{folder}/picture.jpg"
    Image.effect_noise((500, 375), 60).convert("RGB").save(path)
    return path


if __name__ == "__main__":
    main()
