"""Parts of JPEG and PNG files that Pillow does not handle."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

JPEG, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
PNG = b"\x89PNG\r\n\x1a\n"
_BEFORE_JPEG = re.compile(rb"(?:\xef\xbb\xbf|\s){1,16}(?=\xff\xd8\xff)")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def without_prefix(data: bytes) -> bytes:
    """Return a JPEG without the byte-order mark or the line breaks that a web server put before it."""
    found = _BEFORE_JPEG.match(data)
    return data[found.end() :] if found else data


def is_lossless_jpeg(data: bytes) -> bool:
    """Return whether a JPEG has a lossless frame, which libjpeg cannot decode at a fraction of its size."""
    place = 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker in (0xC3, 0xC7, 0xCB, 0xCF)
        place += 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    return False


def without_texts(data: bytes) -> bytes:
    """Return a PNG without text chunks and colour profile, which Pillow limits to 1 MB."""
    return PNG + b"".join(chunk for chunk in _chunks(data) if chunk[4:8] not in _TEXTS)


def _chunks(data: bytes) -> Iterator[bytes]:
    place = len(PNG)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big") + 12
        yield data[place : place + length]
        place += length
