"""Parse the boxes of HEIC and AVIF files (ISO/IEC 14496-12), as far as needed to detect truncated files.

libheif does not: it leaves the missing tiles of a photograph green.
"""

from __future__ import annotations

import io
from collections.abc import Iterator


def missing_bytes(data: bytes) -> int:
    """Return the number of bytes missing at the end of a file, from its items' extents or, without items, its boxes."""
    needed = 0
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            for inner, inner_start, inner_end in _boxes(data, start + 4, end):
                if inner == b"iloc":
                    return max(0, max(_extent_ends(data[inner_start:inner_end]), default=0) - len(data))
        if kind == b"mdat":
            needed = max(needed, end)
    return max(0, needed - len(data))


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (type, start of the content, end) of the boxes between two offsets; the last box may end beyond them."""
    while start + 8 <= min(end, len(data)):
        size, header = int.from_bytes(data[start : start + 4]), 8
        if size == 1:
            size, header = int.from_bytes(data[start + 8 : start + 16]), 16
        elif size == 0:
            size = end - start
        if size < header:
            return
        yield data[start + 4 : start + 8], start + header, start + size
        start += size


def _extent_ends(iloc: bytes) -> Iterator[int]:
    """Yield the offset in the file at which each extent of each item ends."""
    stream = io.BytesIO(iloc)

    def number(size: int) -> int:
        return int.from_bytes(stream.read(size))

    version, _, sizes, more_sizes = number(1), number(3), number(1), number(1)
    offset_size, length_size, base_size = sizes >> 4, sizes & 15, more_sizes >> 4
    index_size = more_sizes & 15 if version in (1, 2) else 0
    number(2 if version < 2 else 4)  # number of items, not used: the box may hold fewer
    while stream.tell() < len(iloc):
        number(2 if version < 2 else 4)
        method = number(2) & 15 if version in (1, 2) else 0
        elsewhere, base = number(2), number(base_size)
        for _ in range(number(2)):
            number(index_size)
            offset, length = number(offset_size), number(length_size)
            if method == 0 and not elsewhere and length:
                yield base + offset + length
