"""Bytes -> RGB uint8 array, or a named decode error.

Two deliberate differences from timm's `Image.open(f).convert("RGB")`: EXIF orientation is applied, and transparent
pixels are laid over white. For every other image the array is what timm's own eval transform feeds its model, within
one level; a JPEG with several times the pixels that are needed is decoded at a fraction of its size, which is close.
"""

from __future__ import annotations

import functools
import io
import struct
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from tagger.errors import ImageError
from tagger.images.transforms import Preprocessing, UInt8Array, fit, resized

DECODE_VERSION = 2
"""Part of every model_id: raise it when the same bytes give other pixels."""

MAX_PIXELS = 100_000_000
"""Default limit per image; 100 megapixels are 300 MB once decoded."""

SPARE = 2
"""A JPEG is shrunk while it decodes only to at least this many times the size it will be resized to."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "HEIF",
)  # fmt: skip
"""What is decoded, by content. Pillow knows more, among them PostScript, which it would have another program run."""

_ORIENTATION = 0x0112

# Pillow's own limit is replaced by ours, which names the file and becomes a row.
Image.MAX_IMAGE_PIXELS = None
Image.init()


@dataclass(frozen=True)
class ImageInfo:
    """What a row says about its image; width and height as displayed, after EXIF orientation."""

    width: int
    height: int
    format: str


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, ImageInfo]:
    """Decode one image, the first frame of an animation, to an upright RGB picture.

    Raises ImageError with status corrupt, unsupported or too_large.
    """
    pictures, info = _decode(data, max_pixels, lambda image: {1})
    return pictures[1], info


def prepare(
    data: bytes,
    preparations: Collection[Preprocessing],
    max_pixels: int = MAX_PIXELS,
    inspect: Callable[[Image.Image], None] = lambda picture: None,
) -> tuple[dict[Preprocessing, UInt8Array], ImageInfo]:
    """Decode one image and fit it as each of several models wants it: (H, W, 3) uint8 arrays.

    It is decoded once, unless it is a JPEG so large that the models want it at different scales. `inspect` is called
    with the decoded RGB picture, the largest where there are several. Raises ImageError.
    """
    scales: dict[Preprocessing, int] = {}

    def wanted(image: Image.Image) -> set[int]:
        scales.update({preparation: _scale(image, preparation) for preparation in preparations})
        return set(scales.values()) or {1}

    pictures, info = _decode(data, max_pixels, wanted)
    inspect(pictures[min(pictures)])
    size = (info.width, info.height)
    return {preparation: fit(pictures[scale], preparation, size) for preparation, scale in scales.items()}, info


def prepare_image(
    image: Image.Image, preparations: Collection[Preprocessing], max_pixels: int = MAX_PIXELS
) -> tuple[dict[Preprocessing, UInt8Array], ImageInfo]:
    """Fit an image in memory to the input of each of several models: (H, W, 3) uint8 arrays. Raises ImageError."""
    _check_pixels(image, max_pixels)
    try:
        rgb = _to_rgb(_upright(image))
        fitted = {preparation: fit(rgb, preparation, rgb.size) for preparation in preparations}
    except ImageError:
        raise
    except Exception as error:  # opened, perhaps not loaded: what its decoder raises is about it alone
        raise ImageError("corrupt", f"cannot decode: {_one_line(error)}") from error
    return fitted, ImageInfo(*rgb.size, image.format or "unknown")


def prepare_for(data: bytes, preparation: Preprocessing) -> UInt8Array:
    """Decode one image and fit it as one model wants it: (H, W, 3) uint8. Raises ImageError."""
    return prepare(data, [preparation])[0][preparation]


def _decode(
    data: bytes, max_pixels: int, wanted: Callable[[Image.Image], set[int]]
) -> tuple[dict[int, Image.Image], ImageInfo]:
    """Decode at every scale (1, 2, 4 or 8 times smaller) that is wanted of the opened image."""
    if not data:
        raise ImageError("corrupt", "the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_known_formats()) as image:
                _check_pixels(image, max_pixels)
                name, size, scales = image.format or "unknown", image.size, sorted(wanted(image))
                pictures = {scales[0]: _picture(image, scales[0])}
            for scale in scales[1:]:
                with Image.open(io.BytesIO(data), formats=_known_formats()) as image:
                    pictures[scale] = _picture(image, scale)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except MemoryError as error:
        raise ImageError("too_large", "not enough memory to decode the image") from error
    except Exception as error:  # whatever a decoder raises on hostile bytes is about this image alone
        raise ImageError("corrupt", f"cannot decode: {_one_line(error)}") from error
    picture = pictures[scales[0]]
    lying = (picture.width > picture.height) != (size[0] > size[1])
    return pictures, ImageInfo(*(size[::-1] if lying else size), name)


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageError(
            "too_large", f"{image.width}x{image.height} pixels are over the limit of {max_pixels} (see --max-pixels)"
        )


def _picture(image: Image.Image, scale: int) -> Image.Image:
    """Decode an opened image, so many times smaller, to upright RGB."""
    if scale > 1:
        image.draft(image.mode, (image.width // scale, image.height // scale))
    return _to_rgb(_upright(image))


def _scale(image: Image.Image, preparation: Preprocessing) -> int:
    """Return how many times smaller libjpeg may decode: so that SPARE times what the resize needs is left."""
    if image.format != "JPEG":
        return 1
    orientation = _orientation(image)
    upright = image.size[::-1] if orientation >= 5 else image.size
    needed = resized(upright, preparation)
    ratio = min(have // (SPARE * need) for have, need in zip(upright, needed, strict=True))
    scale = next((scale for scale in (8, 4, 2) if scale <= ratio), 1)
    whole = image.width % scale == image.height % scale == 0  # else turning would bring the last, partial pixel first
    return scale if whole or orientation == 1 else 1


_BROKEN_EXIF = (SyntaxError, ValueError, KeyError, TypeError, struct.error, ZeroDivisionError)
"""A broken EXIF block says nothing about the pixels: keep them as stored, as every viewer does."""


def _orientation(image: Image.Image) -> int:
    """Return 1 for upright, 2 to 4 for mirrored or upside down, 5 to 8 for lying on a side."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN_EXIF:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN_EXIF:
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        image.load()
        return image
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError("unsupported", f"colour mode {image.mode} cannot become RGB") from error


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; floats are taken as 0..1 when nothing in them is above 1, else as 0..255."""
    grey: npt.NDArray[Any] = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if image.mode == "F":
        top = 1.0 if grey.size and grey.max() <= 1 else 255.0
    else:
        top = 65535.0
    scaled = np.clip(np.rint(grey * (255 / top)), 0, 255).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def _unidentified(data: bytes) -> ImageError:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return ImageError("unsupported", "HEIC needs the package pillow-heif: pip install 'tagger[heic]'")
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    if webp or data[4:8] == b"ftyp" or data.startswith(_MAGIC):
        return ImageError("corrupt", f"the image is damaged within its first bytes ({len(data)} bytes in all)")
    return ImageError("unsupported", "not an image format that can be read")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@functools.cache
def _known_formats() -> tuple[str, ...]:
    """Return those that this Pillow, and pillow-heif where it is installed, can open."""
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        return  # _unidentified() then names the extra
    pillow_heif.register_heif_opener()


_register_heif()
