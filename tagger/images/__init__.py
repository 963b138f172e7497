"""Images: bytes to RGB pixels, and timm's eval transform."""

from tagger.images.decode import (
    DECODE_VERSION,
    FORMATS,
    MAX_PIXELS,
    SPARE,
    ImageInfo,
    decode,
    known_formats,
    prepare,
    prepare_for,
    prepare_image,
)
from tagger.images.transforms import Preprocessing, UInt8Array, fit, normalise, resized

__all__ = [
    "DECODE_VERSION", "FORMATS", "MAX_PIXELS", "SPARE", "ImageInfo", "Preprocessing", "UInt8Array", "decode", "fit",
    "known_formats", "normalise", "prepare", "prepare_for", "prepare_image", "resized",
]  # fmt: skip
