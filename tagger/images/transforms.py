"""timm's eval transform on uint8 pixels: the same resizing and cropping, to the pixel.

All normalisation from uint8 to network input is done by `normalise`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """Size, crop and normalisation of a model's input, named as in timm's pretrained_cfg."""

    size: tuple[int, int] = (224, 224)
    """Height and width in pixels."""
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation for pixels from 0 to 255, the arguments of `normalise`."""
        import torch

        mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (self.mean, self.std))
        return mean, std


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Map uint8 pixels (N, H, W, 3) to network input (N, 3, H, W); mean and std are (1, 3, 1, 1), for 0 to 255."""
    return (pixels.permute(0, 3, 1, 2).to(mean.dtype) - mean) / std


def fit(image: Image.Image, preprocessing: Preprocessing, size: tuple[int, int] | None = None) -> UInt8Array:
    """Resize and crop an RGB image as timm's eval transform does, touching only the pixels the crop needs.

    `size` is the full (width, height) of an image that was decoded at a fraction of it. Returns (H, W, 3) uint8. timm
    resizes the whole image, then crops the centre. Resampling only that crop gives the same pixels, and a 1x20,000
    strip costs no more than a photo.
    """
    height, width = preprocessing.size
    size = size or image.size
    new_width, new_height = resized(size, preprocessing)
    left, crop_width = _centre(new_width, width)
    top, crop_height = _centre(new_height, height)
    window = (left, top, left + crop_width, top + crop_height)
    if (new_width, new_height) == image.size:
        crop = image.crop(window)
    else:
        scale = round(size[0] / image.width)
        grid = (size[0] / scale / new_width, size[1] / scale / new_height)
        crop = _resample(image, grid, window, _RESAMPLING[preprocessing.interpolation])
    if crop.size != (width, height):
        fill = tuple(round(255 * value) for value in preprocessing.mean)
        canvas = Image.new("RGB", (width, height), fill)
        canvas.paste(crop, ((width - crop_width) // 2, (height - crop_height) // 2))
        crop = canvas
    return np.asarray(crop)


_RESAMPLING: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


INTERPOLATIONS = tuple(_RESAMPLING)
CROP_MODES = ("center", "squash", "border")


def resized(source: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (width, height) that timm's transform would resize to; the rounding is torchvision's and timm's."""
    width, height = source
    target_h, target_w = (math.floor(side / preprocessing.crop_pct) for side in preprocessing.size)
    if preprocessing.crop_mode == "squash":
        return target_w, target_h
    if preprocessing.crop_mode == "border" or target_h != target_w:
        tighter = max if preprocessing.crop_mode == "border" else min
        ratio = tighter(height / target_h, width / target_w)
        return max(1, round(width / ratio)), max(1, round(height / ratio))
    if width <= height:
        return target_w, int(target_w * height / width)
    return int(target_h * width / height), target_h


def _centre(side: int, length: int) -> tuple[int, int]:
    """Return (start, length) of the central part of a side, or of the whole side if it is shorter."""
    return (round((side - length) / 2), length) if side >= length else (0, side)


def _resample(
    image: Image.Image, grid: tuple[float, float], window: tuple[int, int, int, int], filter: Image.Resampling
) -> Image.Image:
    """Return a window (left, top, right, bottom) of the resized image; `grid` is the size of its pixels in `image`.

    The rows in reach of the window are cropped, resampled across, then down: Pillow's own order for whole photographs.
    Given both axes at once, Pillow 13 may choose the other order for a window; its rounding differs by up to 15 levels.
    """
    left, top, right, bottom = window
    across, down = grid
    reach = 4 * max(down, 1)  # Lanczos, the widest filter, reaches 3 pixels of the coarser grid
    first, last = max(0, int(top * down - reach)), min(image.height, int(bottom * down + reach) + 1)
    if Image.MAX_IMAGE_PIXELS and (last - first) * image.width > Image.MAX_IMAGE_PIXELS:
        first, last = 0, image.height  # crop() would refuse, and it only saves time
    rows = image if (first, last) == (0, image.height) else image.crop((0, first, image.width, last))
    # a product may pass the edge by an ulp, which Pillow refuses
    x_box = (left * across, 0, min(right * across, rows.width), rows.height)
    narrow = rows.resize((right - left, rows.height), filter, box=x_box)
    y_box = (0, top * down - first, narrow.width, min(bottom * down - first, narrow.height))
    return narrow.resize((narrow.width, bottom - top), filter, box=y_box)
