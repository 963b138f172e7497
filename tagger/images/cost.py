"""Memory and time to decode an image, estimated from its header, and limits on both."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from PIL import Image

from tagger.errors import ImageError

DECODE_MEMORY = 1_700_000_000
"""Bytes that all images a process decodes at the same time may take; with everything else a run stays below 2 GB."""
_DECODER_BYTES = {"JPEG2000": 12, "WEBP": 5, "AVIF": 3, "HEIF": 1}
"""Bytes per pixel that the decoder of a format holds in addition to Pillow's copies (measured)."""
MAX_SCANNED = 2_000_000_000
"""Maximum pixels times scans of a progressive JPEG: about 20 s of decoding."""
MAX_ICONS = 256
"""Maximum number of sizes in an icon file."""
_POINTER = 8
"""Bytes of Pillow's pointer to each row; a pixel takes 4 bytes in every colour mode."""


class Budget:
    """An amount of memory shared by threads; a thread that needs more than is free has to wait."""

    def __init__(self, total: int) -> None:
        self._total, self._free = total, total
        self._changed = threading.Condition()
        self.waiting: set[int] = set()
        """Identifiers of the waiting threads."""

    @contextlib.contextmanager
    def of(self, amount: int) -> Iterator[None]:
        """Reserve an amount while the `with` block runs; raises ImageError if it exceeds the total."""
        if amount > self._total:
            raise ImageError(
                "too_large", f"decoding needs {amount / 1e9:.1f} GB of memory; the limit is {self._total / 1e9:.1f} GB"
            )
        with self._changed:
            self.waiting.add(threading.get_ident())
            self._changed.wait_for(lambda: self._free >= amount)
            self.waiting.discard(threading.get_ident())
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


MEMORY = Budget(DECODE_MEMORY)


def memory(image: Image.Image, scale: int = 1) -> int:
    """Estimate the bytes needed to decode an opened image to RGB, `scale` times smaller in width and height."""
    width, height = image.width // scale, image.height // scale
    copies = 2 if image.mode in ("RGB", "L", "1", "CMYK", "YCbCr") else 3
    coefficients = 6 * image.width * image.height if image.info.get("progressive") else 0
    decoder = _DECODER_BYTES.get(image.format or "", 0) * image.width * image.height
    return copies * height * (_POINTER + 4 * width) + coefficients + decoder


def check_time(image: Image.Image, data: bytes) -> None:
    """Raise ImageError for a progressive JPEG that takes too long to decode."""
    if image.info.get("progressive"):
        scans = data.count(b"\xff\xda")
        if scans * image.width * image.height > MAX_SCANNED:
            raise ImageError(
                "too_large",
                f"decoding a progressive JPEG of {image.width}x{image.height} pixels and {scans} scans takes too long",
            )


def check_icons(data: bytes) -> None:
    """Raise ImageError for an icon file with too many sizes; Pillow would read every entry."""
    if data.startswith(b"\0\0\1\0") and (count := int.from_bytes(data[4:6], "little")) > MAX_ICONS:
        raise ImageError("too_large", f"an icon file with {count} sizes; the limit is {MAX_ICONS}")
