"""Engines: networks as fast callables on a device.

An engine maps uint8 images (N, H, W, 3) to scores (N, classes) and embeddings (N, D), both float32. The reference is
eager torch in fp32. Any other engine runs only if it agrees with the reference: in fp32 if it gives the same
scores on probe images, in a lower precision if agreement was measured on photographs or the user chose it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tagger import hardware
from tagger.checkpoint.info import ModelInfo
from tagger.errors import MissingExtra, UsageError
from tagger.images import UInt8Array
from tagger.inference.engines.checked import CheckedEngine
from tagger.inference.engines.choice import (
    DEVICES,
    ENGINES,
    PRECISIONS,
    SPECS,
    CannotRun,
    Choice,
    choose,
    doubts,
    for_network,
    possible,
    trusted,
)
from tagger.inference.engines.probe import Float32Array, probe_images, rate

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "DEVICES", "ENGINES", "PRECISIONS", "CannotRun", "Choice", "Engine", "Float32Array", "doubts", "load", "possible",
    "probe_images", "rate", "run", "trusted",
]  # fmt: skip

log = logging.getLogger(__name__)

Build = Callable[[ModelInfo], "nn.Module"]
Calibration = Callable[[], UInt8Array]


class Engine(Protocol):
    """A model ready to run."""

    name: str
    """Value of the `engine` column."""
    batch_size: int
    """Preferred number of images per call; any number is accepted."""
    concurrency: int
    """Number of calls, each from its own thread, that run at the same time."""
    shares_cores: bool
    """True if it computes on the cores that also decode."""

    @property
    def images_per_second(self) -> float | None:
        """Return the rate of the engine alone on all cores; None if it was not measured."""
        ...

    def __call__(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score a batch."""
        ...


def run(engine: Engine, pixels: UInt8Array) -> tuple[Float32Array, Float32Array]:
    """Return scores (N, classes) and embeddings (N, D) of any number of images, in batches of the engine's size."""
    batches = [pixels[i : i + engine.batch_size] for i in range(0, len(pixels), engine.batch_size)]
    with ThreadPoolExecutor(engine.concurrency) as pool:
        scores, embeddings = zip(*pool.map(engine, batches), strict=True)
    return np.concatenate(scores), np.concatenate(embeddings)


def load(
    info: ModelInfo,
    build: Build,
    requested: Choice | None = None,
    batch_size: int | None = None,
    calibration: Calibration | None = None,
) -> Engine:
    """Load a model with the requested device, engine and precision, or the fastest that agrees with the reference.

    `build` creates the network with its weights; it is not called if the cache has a converted copy. `calibration`
    returns the user's own images (N, H, W, 3), which int8 needs the first time. Raises UsageError for a device or
    engine that is not available, ModelError for a model that cannot be loaded.
    """
    requested = for_network(requested or Choice(), info)
    records = info.agreement.get(hardware.processor(), {})
    choice = choose(requested, records, requested.device != "cpu" and hardware.has_cuda())
    try:
        return _load(info, build, choice, batch_size, calibration)
    except (CannotRun, MissingExtra) as error:
        if requested.engine == choice.engine or requested.precision == choice.precision != "fp32":
            raise UsageError(f"{error}; choose another --engine or --precision") from error
        if choice.precision != "fp32":
            log.warning("%s; running it in fp32 instead", error)
            return load(info, build, replace(requested, precision="fp32"), batch_size)
        log.warning("%s; running eager PyTorch instead", error)
        return _load(info, build, Choice(choice.device, "eager", "fp32"), batch_size, None)


def _load(
    info: ModelInfo, build: Build, choice: Choice, batch_size: int | None, calibration: Calibration | None
) -> Engine:
    module = import_module(f"tagger.inference.engines.{SPECS[choice.engine].module}")
    bits, _, checks = choice.precision.partition("-")
    if not checks:
        engine: Engine = module.load(info, build, choice, batch_size, calibration)
        return engine
    if info.task != "multiclass":
        raise UsageError(f"--precision {choice.precision} compares the two best tags; {info.name} is multilabel")
    fast = module.load(info, build, replace(choice, precision=bits), batch_size, calibration)
    return CheckedEngine(fast, module.load(info, build, replace(choice, precision="fp32"), 1, None))
