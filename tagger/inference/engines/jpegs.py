"""JPEGs decoded on the device that also computes, many at a time (nvJPEG through torchvision).

Only plain ones: baseline, 8 bits, one or three components, upright, small enough not to be worth shrinking. All others,
and whatever the device cannot decode, take the usual way over the CPU. It is used where it is faster here and its
pixels are those of the CPU but for rounding.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.io import ImageReadMode, decode_jpeg

from tagger import hardware, images
from tagger.errors import ImageError
from tagger.images import UInt8Array
from tagger.images.transforms import Preprocessing

CLOSE = 1.5
"""Mean difference of a pixel, of 255, up to which both ways count as the same."""
_MODES = ("bilinear", "bicubic")

T = TypeVar("T")


@dataclass(frozen=True)
class DeviceJpegs:
    """Decode and fit plain JPEGs on one device."""

    device: str
    preparation: Preprocessing

    def takes(self, content: bytes) -> tuple[int, int] | None:
        """Return the (width, height) of a file that it can decode, told by its headers alone; None for any other."""
        size, wanted = images.plain_jpeg_size(content), self.preparation
        if size is None or wanted.interpolation not in _MODES or wanted.crop_mode != "center":
            return None
        new_width, new_height = images.resized(size, wanted)
        shrinks = min(size[0] // new_width, size[1] // new_height) >= 2 * images.SPARE
        enough = new_width >= wanted.size[1] and new_height >= wanted.size[0]
        return size if enough and not shrinks else None

    def __call__(self, contents: Sequence[bytes]) -> list[UInt8Array]:
        """Return (H, W, 3) uint8 per JPEG; raises RuntimeError when one of them does not decode."""
        raw = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision recommends a successor at every call
            pictures = decode_jpeg(raw, mode=ImageReadMode.RGB, device=self.device)
        fitted = torch.stack([self._fit(picture) for picture in pictures])
        return list(fitted.permute(0, 2, 3, 1).cpu().numpy())

    def _fit(self, picture: Tensor) -> Tensor:
        """Resize and crop (3, H, W) uint8 on images.fit's grid."""
        height, width = picture.shape[1:]
        new_width, new_height = images.resized((width, height), self.preparation)
        mode = self.preparation.interpolation
        wide = functional.interpolate(picture[None].float(), (new_height, new_width), mode=mode, antialias=True)[0]
        top, left = (round((have - want) / 2) for have, want in zip(wide.shape[1:], self.preparation.size, strict=True))
        cut = wide[:, top : top + self.preparation.size[0], left : left + self.preparation.size[1]]
        return cut.round().clamp(0, 255).to(torch.uint8)


def choose(sample: Sequence[bytes], preparation: Preprocessing, device: str) -> DeviceJpegs | None:
    """Return the device's way where it is faster on a sample than all cores and as exact; None otherwise."""
    found = DeviceJpegs(device, preparation)
    plain = [content for content in sample if found.takes(content)]
    if not plain:
        return None
    try:
        found(plain[:2])
        theirs, device_seconds = _timed(lambda: found(plain))
    except (RuntimeError, torch.OutOfMemoryError):
        return None  # this torchvision or driver has no JPEG decoder
    with ThreadPoolExecutor(hardware.cores()) as pool:
        ours, cpu_seconds = _timed(lambda: list(pool.map(lambda content: on_cpu(content, preparation), plain)))
    known = [(a, b) for a, b in zip(theirs, ours, strict=True) if b is not None]
    differences = [np.abs(a.astype(int) - b.astype(int)).mean() for a, b in known]
    return found if differences and max(differences) <= CLOSE and device_seconds < cpu_seconds else None


def on_cpu(content: bytes, preparation: Preprocessing) -> UInt8Array | None:
    """Return what the usual way makes of a file; None when it does not decode."""
    try:
        return images.prepare_for(content, preparation)
    except ImageError:
        return None


def _timed(work: Callable[[], list[T]]) -> tuple[list[T], float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started
