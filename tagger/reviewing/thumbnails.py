"""Images for the page: JPEGs made from the sources; thumbnails are cached on disk by the hash of the file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import re
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tagger import images, storage
from tagger.errors import ImageError, SourceError

THUMBNAIL, FULL = 320, 1600
"""Longest side in pixels of a thumbnail, and of a single image."""
CACHE = 2 << 30
"""Maximum size of the cache in bytes; beyond it, the least recently used thumbnails are deleted."""
_PRUNED = 2000
"""Number of thumbnails written between two checks of the cache size."""
_READ_SECONDS = 20.0
_QUALITY = 85
_IMAGE_ID = re.compile("[0-9a-f]{64}")
_END = b"\xff\xd9"
"""The last bytes of a complete JPEG."""
_written = itertools.count()


def thumbnail(uri: str, image_id: str | None) -> bytes:
    """Return a thumbnail, from the cache if possible. Raises the same errors as `full()`."""
    if image_id is None or not _IMAGE_ID.fullmatch(image_id):
        return _rendered(storage.read_bytes(uri, 1, _READ_SECONDS), THUMBNAIL)
    path = _folder() / image_id[:2] / f"{image_id}-{THUMBNAIL}.jpg"
    with contextlib.suppress(OSError):  # not there yet
        if (content := path.read_bytes()).endswith(_END):
            os.utime(path)
            return content
    content = _rendered(_read(uri, image_id), THUMBNAIL)
    with contextlib.suppress(OSError):  # the cache is optional
        _write(path, content)
    if next(_written) % _PRUNED == 0:
        threading.Thread(target=prune, daemon=True).start()
    return content


def _folder() -> Path:
    return storage.cache_folder() / "thumbnails"


def prune(most: int = CACHE) -> None:
    """Delete the least recently used thumbnails until the others take at most `most` bytes."""
    left = most
    for _, size, path in sorted(_cached(), reverse=True):
        left -= size
        if left < 0:
            with contextlib.suppress(OSError):  # another review has deleted it
                path.unlink()


def _cached() -> Iterator[tuple[float, int, Path]]:
    """Yield time of last use, size in bytes, and path of each cached thumbnail."""
    for path in _folder().glob("*/*"):
        with contextlib.suppress(OSError):
            found = path.stat()
            yield found.st_mtime, found.st_size, path


def full(uri: str, image_id: str | None) -> bytes:
    """Return an image as a JPEG no larger than FULL.

    Raises SourceError if the source cannot be read or has changed, ImageError if it cannot be decoded.
    """
    return _rendered(_read(uri, image_id), FULL)


def _read(uri: str, image_id: str | None) -> bytes:
    content = storage.read_bytes(uri, 1, _READ_SECONDS)
    if image_id is not None and hashlib.sha256(content).hexdigest() != image_id:
        raise SourceError(f"{uri}: the file has changed since it was tagged; run `tagger tag` again")
    return content


def _rendered(content: bytes, side: int) -> bytes:
    """Return an image as a JPEG, upright and no larger than `side`; of a truncated file, the part that decodes."""
    opened: list[Image.Image] = []
    grid = images.Preprocessing(size=(side // images.SPARE, side // images.SPARE), crop_pct=1.0)
    images.prepare(content, [grid], inspect=opened.append, truncated=True)
    if not opened:
        raise ImageError("failed", "the image has no pixels")
    shown = opened[0].copy()
    shown.thumbnail((side, side))
    sink = io.BytesIO()
    shown.save(sink, "JPEG", quality=_QUALITY)
    return sink.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Write a file of the cache atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"_tmp-{secrets.token_hex(6)}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
