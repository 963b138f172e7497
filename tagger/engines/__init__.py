"""Loaded model -> fast callable on this device.

An engine maps uint8 images (N, H, W, 3) to scores (N, classes) and embeddings (N, D), both float32. The reference is
eager torch in fp32; any other engine runs only after it has agreed with the reference on this machine.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from tagger.errors import UsageError
from tagger.images import UInt8Array
from tagger.model_info import ModelInfo

if TYPE_CHECKING:
    from torch import nn

Float32Array = npt.NDArray[np.float32]
DEVICES, ENGINES = ("auto", "cpu", "cuda"), ("auto", "torch", "openvino")


class Engine(Protocol):
    """A model ready to run; `name` goes into the `engine` column."""

    name: str

    def __call__(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score a batch."""
        ...


def load(
    info: ModelInfo,
    build: Callable[[ModelInfo], nn.Module],
    device: str = "auto",
    engine: str = "auto",
    batch_size: int = 32,
) -> Engine:
    """Load a model onto a device with the engine asked for, or the fastest that agrees with the reference.

    `build` makes the network with its weights; an engine that finds a converted copy in the cache never calls it.
    Raises UsageError for a device or engine that is not there, ModelError for a model that does not load.
    """
    if device not in DEVICES:
        raise UsageError(f"--device {device}: expected one of {', '.join(DEVICES)}")
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: expected one of {', '.join(ENGINES)}")
    if engine != "torch" and device != "cuda" and not (device == "auto" and _has_cuda()):
        from tagger.engines import openvino

        loaded = openvino.load(info, build, batch_size, required=engine == "openvino")
        if loaded is not None:
            return loaded
    elif engine == "openvino":
        raise UsageError("--engine openvino runs on the CPU: add --device cpu")
    from tagger.engines.eager import EagerEngine, scorer

    if device == "cuda" and not _has_cuda():
        raise UsageError("--device cuda: torch finds no usable GPU here; use --device cpu or auto")
    return EagerEngine(scorer(info, build(info)), "cuda" if device != "cpu" and _has_cuda() else "cpu")


def _has_cuda() -> bool:
    """Ask for the driver's library first: importing torch to learn that there is no GPU would take seconds."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()
