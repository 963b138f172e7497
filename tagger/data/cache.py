"""Values computed from images, cached on disk and looked up by key: SQLite in the cache folder.

Facts of a file are stored by its version (uri, bytes, etag or modification time), embeddings by image and model.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tagger import storage

log = logging.getLogger(__name__)

FILE = "images-v1.sqlite"
_AT_ONCE = 500
"""Keys of one query; SQLite takes at least 999 parameters."""

Float32Array = npt.NDArray[np.float32]


class ImageCache:
    """Facts and embeddings of images; a cache that cannot be opened or is damaged is replaced by one in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or storage.cache_folder() / FILE
        self._database = _open(self.path)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def facts(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the facts of those files that are known, bytes among them as `bytes`."""
        rows = self._select("SELECT key, facts, fingerprint, thumbnail FROM files WHERE key IN", keys)
        return {
            key: {**json.loads(facts), "fingerprint": fingerprint, "thumbnail": thumbnail}
            for key, facts, fingerprint, thumbnail in rows
        }

    def embeddings(self, model_id: str, image_ids: Sequence[str]) -> dict[str, Float32Array]:
        """Return image_id -> embedding (D,) of those images that are known."""
        rows = self._select(
            "SELECT image_id, value FROM embeddings WHERE model_id = ? AND image_id IN", image_ids, model_id
        )
        return {image_id: np.frombuffer(value, dtype=np.float32) for image_id, value in rows}

    def add(
        self, facts: Mapping[str, Mapping[str, Any]], model_id: str, embeddings: Mapping[str, Float32Array]
    ) -> None:
        """Store facts by key and embeddings by image_id, all or none of them."""
        files = [
            (
                key,
                json.dumps({k: v for k, v in row.items() if not isinstance(v, bytes)}),
                row.get("fingerprint"),
                row.get("thumbnail"),
            )
            for key, row in facts.items()
        ]
        vectors = [(model_id, image_id, value.astype(np.float32).tobytes()) for image_id, value in embeddings.items()]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", files)
                self._database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", vectors)
        except sqlite3.Error as error:
            log.warning("%s: not cached (%s); the next run computes it again", FILE, error)

    def _select(self, query: str, keys: Iterable[str], *first: str) -> Iterator[tuple[Any, ...]]:
        stream = iter(keys)
        while some := list(islice(stream, _AT_ONCE)):
            marks = ",".join("?" * len(some))
            try:
                yield from self._database.execute(f"{query} ({marks})", (*first, *some)).fetchall()
            except sqlite3.DatabaseError as error:
                log.warning("%s: damaged cache (%s); delete it to use it again", self.path, error)
                self._database = _prepared(sqlite3.connect(":memory:"))


def _open(path: Path) -> sqlite3.Connection:
    for attempt in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _prepared(sqlite3.connect(path, timeout=60))
        except sqlite3.DatabaseError as error:
            if attempt == 0 and not isinstance(error, sqlite3.OperationalError):
                log.warning("%s: damaged cache (%s); it is built again", path, error)
                for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
                    with contextlib.suppress(OSError):
                        name.unlink()
                continue
            log.warning("%s: cannot be used as a cache (%s); nothing is cached beyond this run", path, error)
        except OSError as error:
            log.warning("%s: cannot be used as a cache (%s); nothing is cached beyond this run", path, error.strerror)
        break
    return _prepared(sqlite3.connect(":memory:"))


def _prepared(database: sqlite3.Connection) -> sqlite3.Connection:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS files "
        "(key TEXT PRIMARY KEY, facts TEXT, fingerprint BLOB, thumbnail BLOB) WITHOUT ROWID"
    )
    database.execute(
        "CREATE TABLE IF NOT EXISTS embeddings "
        "(model_id TEXT, image_id TEXT, value BLOB, PRIMARY KEY (model_id, image_id)) WITHOUT ROWID"
    )
    return database
