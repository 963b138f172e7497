"""Work on the bytes of JPEG and PNG files where Pillow fails on them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

JPEG, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_BEFORE_IMAGE = re.compile(rb"(?:\xef\xbb\xbf|\s){1,16}(?=\xff\xd8\xff|\x89PNG\r\n|GIF8|RIFF....WEBP)", re.DOTALL)
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def without_prefix(data: bytes) -> bytes:
    """Return an image's bytes without a byte-order mark or line breaks that a web server put before them."""
    found = _BEFORE_IMAGE.match(data)
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
    """Return a PNG without its text chunks and colour profile, because Pillow limits their size."""
    return PNG + b"".join(chunk for chunk in _chunks(data) if chunk[4:8] not in _TEXTS)


def pixels_only(data: bytes) -> bytes:
    """Return a PNG without the chunks after its pixels."""
    chunks = list(_chunks(data))
    last = max(at for at, chunk in enumerate(chunks) if chunk[4:8] == b"IDAT")
    return PNG + b"".join(chunks[: last + 1]) + PNG_END


def _chunks(data: bytes) -> Iterator[bytes]:
    place = len(PNG)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big") + 12
        yield data[place : place + length]
        place += length
