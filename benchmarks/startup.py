"""How long `tagger --help` and `import tagger` take: medians of 10 processes each.

python -m benchmarks.startup
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks import machine

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import tagger": ["-c", "import tagger"],
    "tagger --help": ["-m", "tagger.cli", "--help"],
}


def main() -> None:
    """Measure in turn and print a Markdown table."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(11):
        for name, arguments in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    print(f"medians of 10, {machine.describe()}\n\n| | seconds |\n|---|--:|")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times[1:]):.2f} |")


if __name__ == "__main__":
    main()
