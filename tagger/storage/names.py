"""Files as listed, and the names of images."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

IMAGE_SUFFIXES = frozenset(
    [
        "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "avifs",
        "heic", "heif", "jp2", "j2k", "ppm", "pgm", "pbm", "pnm", "tga", "ico",
    ]
)  # fmt: skip


class FoundFile(NamedTuple):
    """A file as listed by its store; None for what the store does not report."""

    uri: str
    bytes: int | None
    modified_at: datetime | None
    etag: str | None
    location: str | None = None
    """The URL to read, with credentials or a signature, if it differs from the uri."""


def is_image_name(name: str) -> bool:
    """Return whether a file name has an image suffix, in any case."""
    return name.rpartition(".")[2].lower() in IMAGE_SUFFIXES
