"""Images: bytes to RGB pixels, and timm's eval transform."""

from tagger.images.decode import (
    DECODE_VERSION,
    FORMATS,
    MAX_PIXELS,
    SPARE,
    ImageInfo,
    decode,
    plain_jpeg_size,
    prepare,
    prepare_for,
)
from tagger.images.transforms import Preprocessing, UInt8Array, fit, normalise, resized

__all__ = [
    "DECODE_VERSION", "FORMATS", "MAX_PIXELS", "SPARE", "ImageInfo", "Preprocessing", "UInt8Array", "decode", "fit",
    "normalise", "plain_jpeg_size", "prepare", "prepare_for", "resized",
]  # fmt: skip
