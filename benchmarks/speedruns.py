"""How good and how fast the speed-run net is over many trainings: one command, one table.

    python -m benchmarks.speedruns DATA [--runs 20] [--device cuda] [--compiled] [--epochs 14]

DATA is CIFAR-10 as `tagger benchmark cifar10 --data` takes it. Every run has its own seed. Seconds go from pixels in
memory to a trained net; the first run is cold: in it kernels are chosen and, with --compiled, compiled. Accuracy is of
the test images, judged in fp32 on the CPU. `--device cpu --runs 2 --epochs 1` tries the script.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace

from benchmarks import machine
from tagger.data import cifar10, normalisation
from tagger.data.arrays import LabelledImages
from tagger.training import own
from tagger.training.from_folders import SPEEDRUN


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--epochs", type=int, default=SPEEDRUN.epochs)
    arguments = parser.parse_args()
    train, test = cifar10.read(arguments.data)
    runs = []
    for seed in range(arguments.runs):
        runs.append(run(train, test, seed, arguments.device, arguments.epochs, arguments.compiled))
        print(f"seed {seed}: {runs[-1][0]:.2%}, {runs[-1][1]:.2%} with TTA, {runs[-1][2]:.2f} s", flush=True)
    accuracies, with_tta, seconds = zip(*runs, strict=True)
    print(f"\n{machine.describe()}, {arguments.device}{', compiled' if arguments.compiled else ''}\n")
    print("| | mean | standard deviation | least | most |\n|---|--:|--:|--:|--:|")
    print(row("accuracy, %", [100 * value for value in accuracies]))
    print(row("with TTA, %", [100 * value for value in with_tta]))
    print(row("seconds, cold", seconds[:1]))
    print(row("seconds, warm", seconds[1:]))


def run(
    train: LabelledImages, test: LabelledImages, seed: int, device: str, epochs: int, compiled: bool
) -> tuple[float, float, float]:
    """Return accuracy, accuracy with test-time augmentation, and seconds of training."""
    preparation = normalisation.prepare("standardise", train.images)
    recipe = replace(SPEEDRUN, epochs=epochs)
    fitted = own.train_net("tagger_speedrun", {}, train, None, preparation, recipe, seed, device, compiled=compiled)
    judged = own.judge(fitted, test)
    accuracy = judged.evaluation.accuracy
    return accuracy.accuracy if accuracy else 0.0, judged.accuracy_tta or 0.0, fitted.seconds


def row(name: str, values: Sequence[float]) -> str:
    """Return a line of the table; what there is too little of stays empty."""
    if not values:
        return f"| {name} | | | | |"
    spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"| {name} | {statistics.mean(values):.2f} | {spread} | {min(values):.2f} | {max(values):.2f} |"


if __name__ == "__main__":
    main()
