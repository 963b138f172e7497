"""Training throughput of the benchmark's networks, in eager mode and with torch.compile, alternated.

    python -m benchmarks.compiling [--models speedrun resnet20 convnet] [--rounds 3] [--device cpu]

A step is forward, backward and update on random images, with the recipe's batch size, and bf16 autocast where
`tagger benchmark` uses it. The first step, which compiles, is measured separately.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks import machine
from tagger import hardware, models
from tagger.benchmark.baselines import BASELINES

IMAGES = 2560
"""Images per measurement."""


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=list(BASELINES), default=["speedrun", "resnet20", "convnet"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    print(f"{machine.describe()}, {arguments.device}\n")
    print("| model | batch | eager, images/s | compiled, images/s | ratio | compiling, s |\n|---|--:|--:|--:|--:|--:|")
    for name in arguments.models:
        print(row(name, arguments.rounds, arguments.device), flush=True)


def row(name: str, rounds: int, device: str) -> str:
    """Measure a model and return its row of the table: medians over the rounds."""
    batch = BASELINES[name].recipe.batch_size
    steps = [stepper(name, batch, device, compiled) for compiled in (False, True)]
    first = [timed(step, device, 1) for step in steps]
    count = max(2, IMAGES // batch)
    seconds = [[timed(step, device, count) for step in steps] for _ in range(rounds)]
    eager, compiled = (
        statistics.median(batch * count / each for each in column) for column in zip(*seconds, strict=True)
    )
    return f"| {name} | {batch} | {eager:,.0f} | {compiled:,.0f} | {compiled / eager:.2f} | {first[1] - first[0]:.0f} |"


def stepper(name: str, batch: int, device: str, compiled: bool) -> Callable[[], None]:
    """Return a function that does one training step on random images."""
    torch.manual_seed(0)
    net = models.build(f"tagger_{BASELINES[name].family}", 10, BASELINES[name].model_args).to(device).train()
    net.to(memory_format=torch.channels_last)
    forward = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    images = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=hardware.has_bf16(device)):
            logits = forward(images)
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def timed(step: Callable[[], None], device: str, count: int) -> float:
    """Return the seconds of `count` steps."""
    started = time.perf_counter()
    for _ in range(count):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
