"""Fetch one known file over HTTP: once, checked, and from where the last attempt stopped."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tagger.errors import SourceError, WriteError

_CHUNK = 1 << 18
_TIMEOUT = 30.0


@dataclass(frozen=True)
class Download:
    """A file whose content is known beforehand."""

    url: str
    size: int
    """Bytes."""
    sha256: str
    instead: str
    """What a user who cannot download it may do, as the end of a sentence."""

    @property
    def name(self) -> str:
        """Return the file's own name."""
        return self.url.rpartition("/")[2]


def fetch(download: Download, folder: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Return the file inside `folder`, downloaded unless it is there; the checksum is verified either way.

    What arrived before a lost connection is kept in `<name>.part` and continued by the next call. A file that is not
    the expected one is moved to `<name>.wrong`. Raises SourceError, or WriteError where there is no room.
    """
    target = folder / download.name
    if not target.exists():
        part = folder / f"{download.name}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _complete(download, part, say)
            part.replace(target)
        except OSError as error:
            if isinstance(error, (SourceError, WriteError)):
                raise
            raise WriteError(f"{part}: cannot write ({error.strerror or error}); {download.instead}") from error
    _verify(download, target)
    return target


def _complete(download: Download, part: Path, say: Callable[[str], None]) -> None:
    """Add to the part file what it lacks; raises SourceError when it still lacks some."""
    _check_room(download, part)
    have = _size(part)
    if have < download.size:
        _receive(download, part, have, say)
    if (have := _size(part)) < download.size:
        raise SourceError(
            f"{download.url}: the connection ended after {have:,} of {download.size:,} bytes; run the command again, "
            f"it goes on from there ({part}), or {download.instead}"
        )


def _receive(download: Download, part: Path, have: int, say: Callable[[str], None]) -> None:
    try:
        with _open(download.url, have) as response:
            resumed = response.status == 206 and _starts_at(response, have)
            if have:
                say(f"{download.name}: {'going on' if resumed else 'starting again'}, {have:,} bytes were here")
            with part.open("ab" if resumed else "wb") as file:
                _copy(response, file.write, have if resumed else 0, download, say)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # the server's file ends before ours does
            part.unlink()
            return _receive(download, part, 0, say)
        raise SourceError(f"{download.url}: the server says {error.code} {error.reason}; {download.instead}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
        if _size(part) > have:
            return None  # the caller says how far it came
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise SourceError(f"{download.url}: cannot be reached ({reason}); go online, or {download.instead}") from error


def _open(url: str, have: int) -> HTTPResponse:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    response: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
    return response


def _starts_at(response: HTTPResponse, have: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")


def _copy(
    response: HTTPResponse, write: Callable[[bytes], object], done: int, download: Download, say: Callable[[str], None]
) -> None:
    """Write what arrives, a word every twentieth; one byte too many shows that it is another file, and is enough."""
    said = done
    while done <= download.size and (chunk := response.read(min(_CHUNK, download.size + 1 - done))):
        write(chunk)
        done += len(chunk)
        if done - said >= download.size / 20 or done == download.size:
            said = done
            say(f"{download.name}: {done / 1e6:,.1f} of {download.size / 1e6:,.1f} MB")


def _check_room(download: Download, part: Path) -> None:
    needed, free = download.size - _size(part), shutil.disk_usage(part.parent).free
    if free < needed:
        raise WriteError(
            f"{part.parent}: {needed:,} bytes are needed for {download.name}, but {free:,} are free; free some, "
            f"name another folder in TAGGER_CACHE, or {download.instead}"
        )


def _verify(download: Download, target: Path) -> None:
    with target.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != download.sha256:
        wrong = target.with_name(f"{target.name}.wrong")
        target.replace(wrong)
        raise SourceError(
            f"{download.url}: its SHA-256 is {found}, not {download.sha256}; the file was put aside as {wrong}. "
            f"Run the command again to download it anew, or {download.instead}"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
