"""Decode bytes to an RGB uint8 array, or raise an error that gives the reason.

Deliberate differences from timm's `Image.open(f).convert("RGB")`: EXIF orientation is applied, transparent pixels are
composited over white, and 16-bit and float grey is scaled to 8 bits. For every other image the array equals the model
input of timm's own eval transform to within one level. The exception: a JPEG with several times the required pixels is
decoded at a fraction of its size, which gives nearly the same result.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFile

from tagger.errors import ImageError
from tagger.images import cost, libtiff
from tagger.images.isobmff import missing_bytes
from tagger.images.markers import JPEG, JPEG_END, is_lossless_jpeg, pixels_only, without_prefix, without_texts
from tagger.images.rgb import scale_transparent_colour, to_rgb
from tagger.images.transforms import Preprocessing, UInt8Array, fit, resized

DECODE_VERSION = 2
"""Part of every model_id: increment it when the same bytes give different pixels."""

MAX_PIXELS = 100_000_000
"""Default limit per image; 100 megapixels are 300 MB once decoded."""

SPARE = 2
"""A JPEG is scaled down during decoding to no less than this multiple of its resize target."""

FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA", "HEIF",
)  # fmt: skip
"""Supported formats, detected from the content, in the order they are tried; TGA has no signature, so it comes late.

Pillow supports more, but runs another program for one of them, PostScript.
"""

_UNSUPPORTED = re.compile("unknown pixel mode|unknown data organization|[Uu]nsupported|not (yet )?supported")
"""Matches Pillow's messages for a valid file of a variant that it does not support."""
_TRUNCATED = "image file is truncated"
"""Pillow's message for a file whose end is missing."""
_MAGIC = (JPEG, b"\0\0\1\0", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> transposition that turns the image upright."""

Image.init()


@dataclass(frozen=True)
class ImageInfo:
    """Columns of a results row; width and height as displayed, after EXIF orientation."""

    width: int
    height: int
    format: str
    truncated: str | None = None
    """The decoder's message if the file is truncated and only its first part was decoded."""


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, ImageInfo]:
    """Decode one image, the first frame of an animation, to upright RGB.

    Raises ImageError with status corrupt, unsupported or too_large.
    """
    decoded, info = _decode(without_prefix(data), max_pixels, lambda image: {1})
    return decoded[1], info


def prepare(
    data: bytes,
    preparations: Collection[Preprocessing],
    max_pixels: int = MAX_PIXELS,
    inspect: Callable[[Image.Image], None] = lambda image: None,
    truncated: bool = False,
) -> tuple[dict[Preprocessing, UInt8Array], ImageInfo]:
    """Decode one image and resize and crop it for several models: (H, W, 3) uint8 arrays.

    It is decoded once, unless it is a JPEG so large that the models need it at different scales. `inspect` is called
    with the decoded RGB image, the largest if there are several. With `truncated`, a truncated file is decoded as far
    as possible, and `ImageInfo.truncated` has the decoder's message. Raises ImageError.
    """
    scales: dict[Preprocessing, int] = {}
    data = without_prefix(data)

    def needed(image: Image.Image) -> set[int]:
        scales.update({preparation: _scale(image, preparation) for preparation in preparations})
        if max(scales.values(), default=1) > 1 and is_lossless_jpeg(data):
            scales.update(dict.fromkeys(scales, 1))
        return set(scales.values()) or {1}

    decode_it = _decode_truncated if truncated else _decode
    decoded, info = decode_it(data, max_pixels, needed)
    inspect(decoded[min(decoded)])
    size = (info.width, info.height)
    return {preparation: fit(decoded[scale], preparation, size) for preparation, scale in scales.items()}, info


def prepare_image(
    image: Image.Image, preparations: Collection[Preprocessing], max_pixels: int = MAX_PIXELS
) -> tuple[dict[Preprocessing, UInt8Array], ImageInfo]:
    """Resize and crop an image in memory for several models: (H, W, 3) uint8 arrays. Raises ImageError."""
    _check_pixels(image, max_pixels)
    with _decoder_errors():  # the image may have been opened, but not loaded
        image.load()
        turn = _TURNS.get(_orientation(image))
        rgb = to_rgb(image if turn is None else image.transpose(turn))
    width, height = rgb.size
    fitted = {preparation: fit(rgb, preparation, rgb.size) for preparation in preparations}
    return fitted, ImageInfo(width, height, image.format or "unknown")


def prepare_for(data: bytes, preparation: Preprocessing) -> UInt8Array:
    """Decode one image and resize and crop it for one model: (H, W, 3) uint8. Raises ImageError."""
    return prepare(data, [preparation])[0][preparation]


def _decode_truncated(
    data: bytes, max_pixels: int, needed: Callable[[Image.Image], set[int]]
) -> tuple[dict[int, Image.Image], ImageInfo]:
    """Decode like _decode(), but decode a truncated file as far as possible."""
    try:
        return _decode(data, max_pixels, needed)
    except ImageError as error:
        if _TRUNCATED not in str(error):
            raise
        try:
            decoded, info = _decode(data + JPEG_END if data.startswith(JPEG) else data, max_pixels, needed, True)
        except ImageError:
            raise error from None
        pixels = np.asarray(decoded[min(decoded)])
        if (pixels == pixels[0, 0]).all():  # nothing was decoded before the end of the file
            raise
        return decoded, replace(info, truncated=str(error))


def _decode(
    data: bytes, max_pixels: int, needed: Callable[[Image.Image], set[int]], partly: bool = False
) -> tuple[dict[int, Image.Image], ImageInfo]:
    """Decode at every scale (1, 2, 4 or 8 times smaller) that `needed` returns for the opened image."""
    with _open(data) as image:
        _check_pixels(image, max_pixels)
        cost.check_time(image, data)
        name, size, scales = image.format or "unknown", image.size, sorted(needed(image))
        with cost.MEMORY.of(cost.memory(image, scales[0])):
            decoded = {scales[0]: _upright_rgb(image, data, scales[0], partly)}
        turned = _orientation(image) >= 5
    for scale in scales[1:]:
        with _open(data) as image, cost.MEMORY.of(cost.memory(image, scale)):
            decoded[scale] = _upright_rgb(image, data, scale, partly)
    width, height = decoded[1].size if 1 in decoded else size[::-1] if turned else size
    return decoded, ImageInfo(width, height, name)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read an image's header like Image.open(), but without Pillow's pixel limit; `_check_pixels` applies ours."""
    if not data:
        raise ImageError("corrupt", "the file is empty")
    cost.check_icons(data)
    reasons: list[str] = []
    with _decoder_errors():
        image = next(_opened(data, reasons), None)
    if image is None:
        raise _unidentified(data, reasons)
    if image.format in ("HEIF", "AVIF") and (missing := missing_bytes(data)):
        raise ImageError("corrupt", f"the file is truncated: {missing} of {len(data) + missing} bytes are missing")
    return image


def _opened(data: bytes, reasons: list[str]) -> Iterator[ImageFile.ImageFile]:
    """Yield the image as opened by each format that accepts its first bytes; add the errors of others to `reasons`."""
    for name in known_formats():
        factory, recognises = Image.OPEN[name]
        try:
            recognised = not recognises or recognises(data[:16])
        except (SyntaxError, IndexError, struct.error):  # the file is shorter than the signature
            continue
        if not recognised or isinstance(recognised, str):  # a str is the reason why this Pillow cannot read it
            continue
        try:
            yield factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:  # Pillow's signs of another format
            reasons.append(str(error))
        except ValueError as error:
            if name != "PNG" or "MAX_TEXT_" not in str(error):
                raise
            yield factory(io.BytesIO(without_texts(data)), "")


@contextlib.contextmanager
def _decoder_errors() -> Iterator[None]:
    """Convert any exception of a decoder to an ImageError: on malicious bytes it may be of any type."""
    libtiff.forget()
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("too_large", "not enough memory to decode the image") from error
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", f"a frame is too large for Pillow: {_one_line(error)}") from error
    except Exception as error:
        status = "unsupported" if _UNSUPPORTED.search(str(error)) else "corrupt"
        raise ImageError(status, f"cannot decode: {_one_line(error)}{libtiff.message()}") from error


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageError(
            "too_large", f"{image.width}x{image.height} pixels exceed the limit of {max_pixels} (see --max-pixels)"
        )


def _upright_rgb(image: ImageFile.ImageFile, data: bytes, scale: int, partly: bool) -> Image.Image:
    """Decode an opened image at 1/`scale` of its size and turn it upright."""
    with _decoder_errors():
        if scale > 1:
            image.draft(image.mode, (image.width // scale, image.height // scale))
        scale_transparent_colour(image)
        _load(image, data, partly)
        turn = _TURNS.get(_orientation(image))
        return to_rgb(image if turn is None else image.transpose(turn))


def _load(image: ImageFile.ImageFile, data: bytes, partly: bool) -> None:
    """Decode an opened image, with `partly` also a truncated one; ignore damaged metadata after a PNG's pixels."""
    try:
        image.load()
    except OSError as error:
        if not partly or _TRUNCATED not in str(error):
            raise
        image.tile = []  # tells Pillow that the image is loaded, with the pixels decoded so far
    except (SyntaxError, ValueError):
        if image.format != "PNG" or image.tile:  # Pillow empties `tile` once it has read all pixels
            raise
        pixels = pixels_only(data)
        if len(pixels) < len(data):  # decode the pixels again, without the metadata behind them
            _load(_open(pixels), pixels, partly)
    if libtiff.message():
        raise OSError("damaged data")  # libtiff's fax decoder only reports errors, and continues


def _scale(image: Image.Image, preparation: Preprocessing) -> int:
    """Return the factor by which libjpeg may scale the image down and still leave SPARE times the resize target."""
    if image.format != "JPEG":
        return 1
    orientation = _orientation(image)
    upright = image.size[::-1] if orientation >= 5 else image.size
    needed = resized(upright, preparation)
    ratio = min(have // (SPARE * need) for have, need in zip(upright, needed, strict=True))
    scale = next((scale for scale in (8, 4, 2) if scale <= ratio), 1)
    # where a side is no multiple of the scale, its last pixel is a partial one, which turning would bring to the front
    whole = image.width % scale == image.height % scale == 0
    return scale if whole or orientation == 1 else 1


_BROKEN_EXIF = (SyntaxError, ValueError, KeyError, TypeError, OSError, struct.error, ZeroDivisionError)
"""Errors raised for a broken EXIF block; the image is then not turned, as in every viewer."""


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation: 1 upright, 2 to 4 mirrored or upside down, 5 to 8 rotated by 90 degrees."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN_EXIF:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _unidentified(data: bytes, reasons: list[str]) -> ImageError:
    for reason in reasons:
        if _UNSUPPORTED.search(reason):
            return ImageError("unsupported", f"an unsupported variant of its format: {reason}")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and "HEIF" not in Image.OPEN:
        return ImageError("unsupported", "HEIC images need the package pillow-heif: pip install 'tagger[heic]'")
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    if webp or data[4:8] == b"ftyp" or data.startswith(_MAGIC):
        return ImageError(
            "corrupt", f"the file is damaged or truncated: its header cannot be read ({len(data)} bytes in all)"
        )
    return ImageError("unsupported", "not in a supported image format")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@functools.cache
def known_formats() -> tuple[str, ...]:
    """Return the formats that this Pillow, and pillow-heif where it is installed, can open."""
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        return  # _unidentified() then says how to install it
    pillow_heif.register_heif_opener()


_register_heif()
libtiff.capture_messages()
