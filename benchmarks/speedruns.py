"""Accuracy and training time of the speed-run network over many seeds.

    python -m benchmarks.speedruns DATA [--runs 20] [--device cuda] [--compiled] [--epochs 14]

DATA is CIFAR-10, as for `tagger benchmark cifar10 --data`. Every run has its own seed. Seconds are from pixels in
memory to a trained network; the first run is cold: it includes the choice of kernels and, with --compiled, compilation.
Accuracy is on the test images, in fp32 on the CPU. `--device cpu --runs 2 --epochs 1` is a dry run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from benchmarks import machine
from tagger.data import cifar10, normalisation
from tagger.data.arrays import LabelledImages
from tagger.training import scratch
from tagger.training.recipe import SPEEDRUN, Recipe
from tagger.training.scratch import Network


def main() -> None:
    """Parse the arguments, train, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--epochs", type=int, default=SPEEDRUN.epochs)
    arguments = parser.parse_args()
    train, test = cifar10.read(arguments.data)
    recipe, runs = replace(SPEEDRUN, epochs=arguments.epochs), []
    for seed in range(arguments.runs):
        runs.append(run(train, test, recipe, seed, arguments.device, arguments.compiled))
        print(f"seed {seed}: {runs[-1][0]:.2%}, {runs[-1][1]:.2%} with TTA, {runs[-1][2]:.2f} s", flush=True)
    accuracies, with_tta, seconds = zip(*runs, strict=True)
    print(f"\n{machine.describe()}, {arguments.device}{', compiled' if arguments.compiled else ''}\n")
    print("| | mean | standard deviation | minimum | maximum |\n|---|--:|--:|--:|--:|")
    print(row("accuracy, %", [100 * value for value in accuracies]))
    print(row("with TTA, %", [100 * value for value in with_tta]))
    print(row("seconds, cold", seconds[:1]))
    print(row("seconds, warm", seconds[1:]))


def run(
    train: LabelledImages, test: LabelledImages, recipe: Recipe, seed: int, device: str, compiled: bool
) -> tuple[float, float, float]:
    """Train; return accuracy, accuracy with test-time augmentation, and seconds of training."""
    started = time.perf_counter()
    computed = normalisation.compute("standardise", train.images)
    network = Network("tagger_speedrun", {}, train.truth.shape[1], computed)
    net, _ = scratch.train_net(scratch.make_trainer(network, train, recipe, seed, device, compiled=compiled))
    seconds = time.perf_counter() - started
    scores = [scratch.score(net, test.images, computed, tta) for tta in (False, True)]
    accuracy, with_tta = (float((each.argmax(axis=1) == test.labels).mean()) for each in scores)
    return accuracy, with_tta, seconds


def row(name: str, values: Sequence[float]) -> str:
    """Return a row of the table; cells that need more values are empty."""
    if not values:
        return f"| {name} | | | | |"
    spread = f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"| {name} | {statistics.mean(values):.2f} | {spread} | {min(values):.2f} | {max(values):.2f} |"


if __name__ == "__main__":
    main()
