"""Schedules of learning rate and momentum: a value for each point of training, from 0 (start) to 1 (end)."""

from __future__ import annotations

import math

from tagger.errors import UsageError

NAMES = ("constant", "cosine", "triangle")


def value(schedule: str, peak: float, done: float, warmup: float = 0.0, floor: float = 0.0) -> float:
    """Return the value when the share `done` of training is done.

    `constant`, `cosine` (to `floor` x peak, after a linear warm-up of a share `warmup` that starts there), `triangle`
    (airbench's: Jordan 2024, arXiv 2404.00498), or a list of values with epochs each, such as `0.01x10,0.001x5`.
    """
    if schedule == "constant":
        return peak
    if schedule == "triangle":
        return peak * _triangle(done)
    if schedule == "cosine":
        rising = done / warmup if done < warmup else None
        share = 0.5 + 0.5 * math.cos(math.pi * done) if rising is None else rising
        return peak * (floor + (1 - floor) * share)
    return _step(steps(schedule), done)


def steps(schedule: str) -> list[tuple[float, int]]:
    """Parse `0.01x10,0.001x5` into (value, epochs) pairs; raises UsageError."""
    try:
        found = [(float(each), int(epochs)) for each, epochs in (step.split("x") for step in schedule.split(","))]
    except ValueError:
        found = []
    if not found or min(epochs for _, epochs in found) < 1 or min(each for each, _ in found) < 0:
        raise UsageError(f"schedule {schedule}: expected values with epochs each such as 0.01x10,0.001x5")
    return found


def epochs(schedule: str) -> int | None:
    """Return the number of epochs of a list; None for a schedule of any length."""
    return None if schedule in NAMES else sum(count for _, count in steps(schedule))


def _step(pairs: list[tuple[float, int]], done: float) -> float:
    left = done * sum(count for _, count in pairs)
    for each, count in pairs:
        if left < count:
            return each
        left -= count
    return pairs[-1][0]


def _triangle(done: float) -> float:
    """Rise to 1, then fall."""
    start, peak, end = 0.2, 0.23, 0.07
    return start + (1 - start) * done / peak if done < peak else 1 - (1 - end) * (done - peak) / (1 - peak)
