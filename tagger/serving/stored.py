"""Stored predictions: the image in a subfolder of the results folder, its row in the results table."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from datetime import UTC, datetime

from tagger import schema, storage
from tagger.errors import TaggerError
from tagger.inference.pipeline import Row
from tagger.serving.batching import results_row
from tagger.tagging.parts import list_parts
from tagger.tagging.plan import next_generation

log = logging.getLogger(__name__)

IMAGES = "_images"
"""Folder of stored images inside a results folder."""
FLUSH_SECONDS = 10.0
FLUSH_ROWS = 1000


class Store:
    """A results folder to which images and rows are added; rows are written in batches, every few seconds."""

    def __init__(self, out: str) -> None:
        self._out = storage.absolute(out)
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._parts = 0
        self._run_id = f"{next_generation(list_parts(self._out)):08d}-{secrets.token_hex(4)}"

    def add(self, row: Row, content: bytes) -> bool:
        """Store an image and its row; return whether they were stored."""
        suffix = (row["format"] or "image").lower()
        uri = storage.join(self._out, f"{IMAGES}/{row['image_id']}.{suffix}")
        now = datetime.now(UTC)
        try:
            storage.write_atomic(uri, content)
        except TaggerError as error:
            log.warning("a prediction cannot be stored: %s", error)
            return False
        added = {**results_row(row), "uri": uri, "modified_at": now, "run_id": self._run_id, "tagged_at": now}
        with self._lock:
            self._rows.append(added)
            full = len(self._rows) >= FLUSH_ROWS
        return self.flush() if full else True

    def flush(self) -> bool:
        """Write the buffered rows as one part; return whether it worked, otherwise they stay in the buffer."""
        with self._lock:
            if not self._rows:
                return True
            uri = storage.join(self._out, f"part-{self._run_id}-{self._parts:05d}.parquet")
            try:
                storage.write_atomic(uri, schema.serialise(schema.from_rows(self._rows, "results"), "results"))
            except TaggerError as error:
                log.warning("%d predictions cannot be written yet, retrying: %s", len(self._rows), error)
                return False
            self._rows, self._parts = [], self._parts + 1
            return True

    async def flush_regularly(self) -> None:
        """Write the buffered rows every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await asyncio.to_thread(self.flush)
