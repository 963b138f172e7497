"""Thumbnails of images in a results table, read again from their sources."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image

from tagger import images, storage
from tagger.errors import ImageError, MissingExtra, SourceError

SIDE = 112
"""Side of a thumbnail in pixels."""
_READERS = 8
_QUALITY = 78
_READ_SECONDS = 10.0
"""Timeout of one read."""
_ALL_SECONDS = 30.0
"""Time limit for all reads."""
_SQUARE = images.Preprocessing(size=(SIDE, SIDE), crop_pct=1.0)


@dataclass(frozen=True)
class Thumbnails:
    """JPEGs by uri, and the reasons for missing ones."""

    made: dict[str, bytes] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def read(uris: Iterable[str], most: int) -> Thumbnails:
    """Return thumbnails of the first `most` uris; one that cannot be read or decoded is missing."""
    chosen = list(dict.fromkeys(uris))
    deadline = time.monotonic() + _ALL_SECONDS
    with ThreadPoolExecutor(_READERS) as pool:
        answers = list(pool.map(lambda uri: _thumbnail(uri, deadline), chosen[:most]))
    pairs = list(zip(chosen, answers, strict=False))
    made = {uri: answer for uri, answer in pairs if isinstance(answer, bytes)}
    return Thumbnails(made, {uri: answer for uri, answer in pairs if isinstance(answer, str)})


def _thumbnail(uri: str, deadline: float) -> bytes | str:
    """Return a JPEG, or the reason why there is none."""
    if time.monotonic() > deadline:
        return f"not read: reading the others took {_ALL_SECONDS:.0f} s"
    try:
        pixels, _ = images.prepare(storage.read_bytes(uri, 1, _READ_SECONDS), [_SQUARE], truncated=True)
    except (SourceError, ImageError, MissingExtra) as error:
        return str(error)
    sink = io.BytesIO()
    Image.fromarray(pixels[_SQUARE]).save(sink, "JPEG", quality=_QUALITY)
    return sink.getvalue()
