"""Members of zip archives, each a range of bytes."""

from __future__ import annotations

import bz2
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

from tagger.errors import SourceError, SourceTooLarge
from tagger.storage import files
from tagger.storage.archives.member import Member

_HEADER = struct.Struct("<4s5H3I2H")
_SLACK = 1024
"""Bytes read beyond a member's content, for its header and name."""
_ENCRYPTED = 1
MAX_BYTES = 1 << 30
"""Maximum size of a decompressed member."""


def members(file: IO[bytes]) -> Iterator[Member]:
    """Yield the files in a zip archive; raises BadZipFile if it is damaged."""
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                place = f"z{info.header_offset}+{info.compress_size}/{info.compress_type}/{info.file_size}/{info.CRC}"
                yield Member(info.filename, info.file_size, place)


def read(url: str, place: str, timeout: float) -> bytes:
    """Return the content of a member after checking its CRC; raises SourceError."""
    start, _, rest = place.partition("@")[0].partition("+")
    packed, method, size, crc = map(int, rest.split("/"))
    if size > MAX_BYTES:
        raise SourceTooLarge(f"{url}: a member of {size} bytes is over the limit of {MAX_BYTES}")
    begin = _content_at(url, int(start), packed, timeout)
    content = _unpack(url, begin, method, size)
    if len(content) != size or zlib.crc32(content) != crc:
        raise SourceError(f"{url}: a member is damaged")
    return content


def _content_at(url: str, start: int, packed: int, timeout: float) -> bytes:
    """Return the compressed content of the member whose header is at `start`."""
    data = files.read_range(url, start, _HEADER.size + packed + _SLACK, timeout, whole=False)
    if len(data) < _HEADER.size:
        raise SourceError(f"{url}: the archive is truncated")
    magic, _, flags, *_, name, extra = _HEADER.unpack(data[: _HEADER.size])
    if magic != b"PK\3\4":
        raise SourceError(f"{url}: the header of a member is damaged")
    if flags & _ENCRYPTED:
        raise SourceError(f"{url}: the member is encrypted")
    begin = _HEADER.size + name + extra
    if name + extra > _SLACK:
        return files.read_range(url, start + begin, packed, timeout)
    return data[begin : begin + packed]


def _unpack(url: str, packed: bytes, method: int, size: int) -> bytes:
    if method == zipfile.ZIP_STORED:
        return packed
    if method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    if method == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor().decompress(packed, size + 1)
    raise SourceError(f"{url}: compression method {method} of a member is not supported")
