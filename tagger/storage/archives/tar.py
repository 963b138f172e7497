"""Members of tar archives, plain or compressed.

A member of a plain archive is a range of bytes. A compressed archive is read sequentially; a window of recent bytes
serves readers that are slightly out of order.
"""

from __future__ import annotations

import atexit
import functools
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, cast

import pyarrow as pa

from tagger.errors import SourceError
from tagger.storage import files
from tagger.storage.archives.member import Member

_CODECS = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd", ".tzst": "zstd", ".bz2": "bz2"}
_BLOCK = 512
_CHUNK = 1 << 20
_WINDOW = 1 << 25
"""Decompressed bytes that are cached in memory."""
_STREAMS = 2


def members(url: str, file: IO[bytes]) -> Iterator[Member]:
    """Yield the files in a tar archive; raises tarfile.TarError where it is damaged."""
    codec = _codec(url)
    source = _Seekable(_Stream(file, codec)) if codec else file
    with tarfile.open(fileobj=cast("IO[bytes]", source), mode="r:") as archive:
        while (found := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else all of them stay in memory
            if not found.isdir():
                place = f"{'s' if codec else 't'}{found.offset_data}+{found.size}"
                yield Member(found.name.removeprefix("./"), found.size, place, not found.isreg())
        source.seek(archive.offset)
        if source.read(_BLOCK).strip(b"\0"):  # tarfile mistakes a damaged header for the end
            raise tarfile.ReadError("a header is damaged")


def read(url: str, place: str, timeout: float) -> bytes:
    """Return a range of a plain archive."""
    start, size = map(int, place.partition("@")[0].split("+"))
    return files.read_range(url, start, size, timeout)


def read_stream(url: str, place: str, timeout: float) -> bytes:
    """Return a range of the content of a compressed archive."""
    part, _, version = place.partition("@")
    start, size = map(int, part.split("+"))
    return _opened(url, version).read(start, size)


def _codec(url: str) -> str | None:
    return next((codec for suffix, codec in _CODECS.items() if url.lower().endswith(suffix)), None)


class _Stream:
    """The decompressed content of a file, read sequentially, with a window of recent bytes."""

    def __init__(self, file: IO[bytes], codec: str) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(file, "r"), codec)
        self._window, self.start = bytearray(), 0

    def read(self, start: int, size: int) -> bytes:
        """Return a range that does not begin before the window; shorter at the end of the file."""
        while (missing := start + size - self.start - len(self._window)) > 0:
            chunk = self._stream.read(min(_CHUNK, max(missing, _BLOCK)))
            if not chunk:
                break
            self._window += chunk
            if (extra := len(self._window) - size - 2 * _WINDOW) > 0 and self.start + extra + _WINDOW <= start:
                del self._window[: extra + _WINDOW]
                self.start += extra + _WINDOW
        return bytes(self._window[start - self.start : start - self.start + size])


class _Seekable:
    """The part of the file interface that tarfile needs, on a stream."""

    def __init__(self, stream: _Stream) -> None:
        self._stream, self._at = stream, 0

    def tell(self) -> int:
        return self._at

    def seek(self, at: int) -> int:
        self._at = at
        return at

    def read(self, size: int) -> bytes:
        content = self._stream.read(self._at, size)
        self._at += len(content)
        return content


class _Reader:
    """A compressed archive that several threads read."""

    def __init__(self, url: str) -> None:
        self._url, self._lock = url, threading.Lock()
        self._files = ExitStack()
        self._stream: _Stream | None = None

    def read(self, start: int, size: int) -> bytes:
        """Return a range; for one before the window, the archive is read again from its beginning."""
        with self._lock:
            if self._stream is None or start < self._stream.start:
                self._files.close()
                file = self._files.enter_context(files.open_input(self._url))
                self._stream = _Stream(file, cast("str", _codec(self._url)))
            content = self._stream.read(start, size)
        if len(content) < size:
            raise SourceError(f"{self._url}: the archive ends {size - len(content)} bytes too early")
        return content


@functools.lru_cache(_STREAMS)
def _opened(url: str, version: str) -> _Reader:
    return _Reader(url)


atexit.register(_opened.cache_clear)  # Arrow cannot close a file when the interpreter has ended
