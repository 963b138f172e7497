"""Probe images to compare two engines on, and the rate of an engine."""

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
"""Maximum difference of any probability on the probe images for an engine to agree in fp32."""


def probe_images(size: tuple[int, int], count: int = 8) -> UInt8Array:
    """Return (count, H, W, 3) smooth random images with mostly low frequencies, like photographs."""
    rng = np.random.default_rng(0)
    height, width = size
    images = np.zeros((count, height, width, 3))
    for step in (height // 2, height // 4, height // 8, height // 16, 1):
        step = max(step, 1)
        coarse = rng.normal(size=(count, -(-height // step), -(-width // step), 3)) * step**0.5
        images += np.repeat(np.repeat(coarse, step, axis=1), step, axis=2)[:, :height, :width]
    images = (images - images.mean()) / images.std()
    clipped: UInt8Array = np.clip(128 + 55 * images, 0, 255).astype(np.uint8)
    return clipped


def rate(engine: Engine, images: UInt8Array, seconds: float) -> float:
    """Return images/s of an engine alone, at its own concurrency, measured for about `seconds`."""
    size = engine.batch_size
    batch = np.resize(images, (size, *images.shape[1:]))
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
