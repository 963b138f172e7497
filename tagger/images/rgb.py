"""Convert decoded Pillow images of any mode to RGB, composited over white."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile

from tagger.errors import ImageError

_BLOCK = 1 << 20
"""Number of pixels converted at a time."""
_MAX_FLOAT = 2 * 255.0
"""Resampling may have left floats a little above the range of the image."""
_PADDED = ("BMP", "DIB", "TGA")
"""Formats in which many programs write an unused alpha channel as zeros."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to RGB; raises ImageError for a mode that cannot be converted."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    if image.has_transparency_data and not _is_padding(image):
        return _over_white(image)
    if image.mode == "RGB":
        return image
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError("unsupported", f"colour mode {image.mode} cannot be converted to RGB") from error


def scale_transparent_colour(image: ImageFile.ImageFile) -> None:
    """Scale the transparent colour of a PNG to the 8 bits that Pillow decodes to; call it before load()."""
    colour = image.info.get("transparency")
    if image.format != "PNG" or colour is None or not image.tile:
        return
    raw_mode = image.tile[0].args
    if raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = colour * 255 // (3 if raw_mode == "L;2" else 15)
    elif raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _blocks(image: Image.Image) -> Iterator[slice]:
    """Yield blocks of rows, so that temporary copies stay small."""
    rows = max(1, _BLOCK // max(image.width, 1))
    for top in range(0, image.height, rows):
        yield slice(top, min(top + rows, image.height))


def _over_white(image: Image.Image) -> Image.Image:
    """Composite an image over white."""
    rgb = Image.new("RGB", image.size)
    for rows in _blocks(image):
        box = (0, rows.start, image.width, rows.stop)
        rgba = image.crop(box).convert("RGBA")
        rgb.paste(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"), box)
    return rgb


def _is_padding(image: Image.Image) -> bool:
    """Return whether the alpha channel is all zero, in a format where this means that it is unused."""
    return image.format in _PADDED and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; floats are taken as 0..1 if none exceeds 1, else as 0..255.

    Raises ImageError for 32-bit values outside 0..65535 and floats far above 255, as their range is unknown.
    """
    stored = np.asarray(image)
    top, (low, high) = 65535.0, (np.nanmin(stored, initial=0), np.nanmax(stored, initial=0))
    if image.mode == "F":
        top = 1.0 if high <= 1 else 255.0
    if high > (_MAX_FLOAT if image.mode == "F" else top) or (low < 0 and image.mode != "F"):
        raise ImageError(
            "unsupported", f"grey values from {low:g} to {high:g}: which values are black and white is unknown"
        )
    scaled = np.empty(stored.shape, np.uint8)
    for rows in _blocks(image):
        grey = np.nan_to_num(stored[rows].astype(np.float64))
        scaled[rows] = np.clip(np.rint(grey * (255 / top)), 0, 255)
    if "transparency" in image.info:
        scaled[stored == image.info["transparency"]] = 255
    return Image.fromarray(scaled).convert("RGB")
