"""Pictures on which two engines are compared before one of them runs, and how fast one is."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tagger.images import UInt8Array

if TYPE_CHECKING:
    from tagger.inference.engines import Engine

Float32Array = npt.NDArray[np.float32]

TOLERANCE = 1e-3
"""Largest difference of a probability on the probe images that still counts as the same network in fp32."""


def probe_images(size: tuple[int, int], count: int = 8) -> UInt8Array:
    """Return (count, H, W, 3) smooth random pictures: noise as a photograph has it, mostly low frequencies."""
    rng = np.random.default_rng(0)
    height, width = size
    pictures = np.zeros((count, height, width, 3))
    for step in (height // 2, height // 4, height // 8, height // 16, 1):
        step = max(step, 1)
        coarse = rng.normal(size=(count, -(-height // step), -(-width // step), 3)) * step**0.5
        pictures += np.repeat(np.repeat(coarse, step, axis=1), step, axis=2)[:, :height, :width]
    pictures = (pictures - pictures.mean()) / pictures.std()
    clipped: UInt8Array = np.clip(128 + 55 * pictures, 0, 255).astype(np.uint8)
    return clipped


def rate(engine: Engine, pictures: UInt8Array, seconds: float) -> float:
    """Return images/s of an engine alone, as many calls at a time as it works on, for about so many seconds."""
    size = engine.batch_size
    batch = np.resize(pictures, (size, *pictures.shape[1:]))
    engine(batch)  # the first call allocates

    def worker(until: float) -> int:
        done = 0
        while not done or time.perf_counter() < until:
            engine(batch)
            done += size
        return done

    started = time.perf_counter()
    done = sum(_at_once(lambda: worker(started + seconds), engine.concurrency))
    return done / (time.perf_counter() - started)


def _at_once(work: Callable[[], int], count: int) -> list[int]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(count)]]
