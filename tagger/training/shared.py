"""Decoded images in shared memory: processes receive a handle, not the pixels."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tagger.data.pixels import FilePixels, Pixels
from tagger.images import UInt8Array

SHARED_MEMORY = "/dev/shm"
"""Shared memory of Linux; in a container it may have only 64 MB."""


class SharedArrays(dict[int, UInt8Array]):
    """Images by row, views of one block of shared memory; images that are added later stay in this process."""

    def __init__(self, memory: Tensor, shapes: Mapping[int, tuple[int, ...]]) -> None:
        parts = memory.split([math.prod(shape) for shape in shapes.values()])
        super().__init__({row: part.view(shapes[row]).numpy() for row, part in zip(shapes, parts, strict=True)})
        self.memory, self.shapes = memory, shapes

    def __reduce__(self) -> tuple[type[SharedArrays], tuple[Tensor, Mapping[int, tuple[int, ...]]]]:
        """Send the memory's handle."""
        return SharedArrays, (self.memory, self.shapes)


def share(arrays: dict[int, UInt8Array]) -> SharedArrays:
    """Copy images into shared memory, unless they are already in it."""
    if isinstance(arrays, SharedArrays):
        return arrays
    memory = torch.empty(_bytes(arrays), dtype=torch.uint8).share_memory_()
    shared = SharedArrays(memory, {row: array.shape for row, array in arrays.items()})
    for row, array in arrays.items():
        shared[row][:] = array
    return shared


def share_pixels(pixels: Pixels, more: int = 0) -> Pixels | None:
    """Return pixels whose decoded images are shared; None if they and `more` bytes do not fit."""
    caches = [pixels.training, pixels.evaluation] if isinstance(pixels, FilePixels) else []
    needed = more + sum(_bytes(each) for each in caches if not isinstance(each, SharedArrays))
    if Path(SHARED_MEMORY).is_dir() and shutil.disk_usage(SHARED_MEMORY).free < needed:
        return None
    if not isinstance(pixels, FilePixels):
        return pixels
    return replace(pixels, training=share(pixels.training), evaluation=share(pixels.evaluation))


def _bytes(arrays: Mapping[int, UInt8Array]) -> int:
    return sum(array.nbytes for array in arrays.values())
