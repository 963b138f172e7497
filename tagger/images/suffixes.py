"""File suffixes of image formats."""

from __future__ import annotations

_SUFFIXES = {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2", "tiff": "tif", "heif": "heic", "dib": "bmp"}


def suffix_of(format: str) -> str:
    """Return the usual suffix, without a dot, of a format, given by Pillow's name."""
    return _SUFFIXES.get(format.lower(), format.lower())
