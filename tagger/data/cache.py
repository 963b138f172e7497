"""Cache of values computed from images: SQLite in the cache folder.

Images are stored by the version of their file (uri, bytes, etag or modification time), embeddings by image and model.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tagger import storage

log = logging.getLogger(__name__)

FILE = "images-v2.sqlite"
_AT_ONCE = 500
"""Keys per query; SQLite allows at least 999 parameters."""
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS images (key TEXT PRIMARY KEY, image_id TEXT, fingerprint BLOB, thumbnail BLOB);
CREATE INDEX IF NOT EXISTS image_ids ON images (image_id);
CREATE TABLE IF NOT EXISTS embeddings
    (model_id TEXT, image_id TEXT, value BLOB, PRIMARY KEY (model_id, image_id)) WITHOUT ROWID;
"""

Float32Array = npt.NDArray[np.float32]


class Image(NamedTuple):
    """One version of a file that could be decoded."""

    key: str
    image_id: str
    fingerprint: bytes
    thumbnail: bytes
    """JPEG"""


class ImageCache:
    """Cached images and embeddings; a cache that cannot be opened or is damaged is replaced by one in memory."""

    def __init__(self) -> None:
        self.path = storage.cache_folder() / FILE
        self._database = _open(self.path)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def images(self, keys: Sequence[str]) -> dict[str, tuple[str, bytes]]:
        """Return key -> (image_id, fingerprint) of the cached files."""
        rows = self._select("SELECT key, image_id, fingerprint FROM images WHERE key IN", keys)
        return {key: (image_id, fingerprint) for key, image_id, fingerprint in rows}

    def embeddings(self, model_id: str, image_ids: Sequence[str]) -> dict[str, Float32Array]:
        """Return image_id -> embedding (D,) of the cached images."""
        rows = self._select(
            "SELECT image_id, value FROM embeddings WHERE model_id = ? AND image_id IN", image_ids, model_id
        )
        return {image_id: np.frombuffer(value, dtype=np.float32) for image_id, value in rows}

    def thumbnail(self, image_id: str) -> bytes | None:
        """Return the thumbnail of an image as a JPEG; None if it is not cached."""
        return next(
            (row[0] for row in self._select("SELECT thumbnail FROM images WHERE image_id IN", [image_id])), None
        )

    def add(self, images: Iterable[Image], model_id: str, embeddings: Mapping[str, Float32Array]) -> None:
        """Store images, and embeddings by image_id, all or none of them."""
        vectors = [(model_id, image_id, value.astype(np.float32).tobytes()) for image_id, value in embeddings.items()]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)", images)
                self._database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", vectors)
        except sqlite3.Error as error:
            log.warning("%s: results cannot be cached (%s); the next run computes them again", self.path, error)

    def _select(self, query: str, keys: Iterable[str], *first: str) -> Iterator[tuple[Any, ...]]:
        stream = iter(keys)
        while some := list(islice(stream, _AT_ONCE)):
            marks = ",".join("?" * len(some))
            try:
                yield from self._database.execute(f"{query} ({marks})", (*first, *some)).fetchall()
            except sqlite3.DatabaseError as error:
                log.warning("%s: the cache is damaged (%s); delete the file to rebuild it", self.path, error)
                self._database = _connect(":memory:")


def _open(path: Path) -> sqlite3.Connection:
    """Open a cache, replacing a damaged one; if that fails, in memory."""
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _connect(path)
        except (OSError, sqlite3.OperationalError) as error:
            log.warning("%s: cannot be used as a cache (%s); caching for this run only", path, error)
            break
        except sqlite3.DatabaseError as error:
            log.warning("%s: the cache is damaged (%s); rebuilding it", path, error)
            for ending in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    path.with_name(path.name + ending).unlink()
    return _connect(":memory:")


def _connect(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60)
    database.executescript(_SCHEMA)
    return database
