"""Records in one append-only file: `write` is atomic, and returns once the change is on disk."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import TypeAlias

from tagger import storage
from tagger.checkpoint.info import Json
from tagger.errors import TableError, WriteError, first_line

COMPACTED = 1 << 20
"""File size in bytes below which a file is not compacted."""
Change: TypeAlias = tuple[str, str, Json | None]
"""Kind and id of a record, and its new value; None deletes it."""


class Journal:
    """Records by kind and id. A record is replaced, never changed in place, so readers need no lock."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises TableError if a line other than the last is damaged."""
        self._path, self._lock = path, threading.Lock()
        self._records: dict[str, dict[str, Json]] = {}
        self._size = self._replay()
        self._compact()

    def of(self, kind: str) -> dict[str, Json]:
        """Return the records of a kind by id, in the order of their creation."""
        return dict(self._records.get(kind, {}))

    def get(self, kind: str, id: str) -> Json | None:
        """Return one record, None if there is none."""
        return self._records.get(kind, {}).get(id)

    def write(self, *changes: Change) -> None:
        """Apply all changes or none; raises WriteError if they cannot be written."""
        line = encoded(*changes)
        with self._lock:
            try:
                with open(self._path, "r+b") as file:
                    file.truncate(self._size)  # remove the rest of an earlier failed write
                    file.seek(self._size)
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise WriteError(f"{self._path}: cannot write ({first_line(error)}); nothing was changed") from error
            self._size += len(line)
            self._apply(changes)

    def _apply(self, changes: tuple[Change, ...]) -> None:
        for kind, id, record in changes:
            if record is None:
                self._records.get(kind, {}).pop(id, None)
            else:
                self._records.setdefault(kind, {})[id] = record

    def _compact(self) -> None:
        """Rewrite the file if most of it is about records that were replaced or deleted."""
        changes = [(kind, id, record) for kind, found in self._records.items() for id, record in found.items()]
        content = b"".join(map(encoded, changes))
        if self._size > max(2 * len(content), COMPACTED):
            storage.write_atomic(storage.local_uri(str(self._path)), content)
            self._size = len(content)

    def _replay(self) -> int:
        """Apply every complete line; return their length. The last may be torn; its call got no response."""
        size, lines = 0, self._path.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            try:
                changes = _parsed(line)
            except ValueError as error:
                if number == len(lines):
                    break
                raise TableError(f"{self._path}: line {number} is damaged; restore the file from a backup") from error
            self._apply(changes)
            size += len(line)
        return size


def encoded(*changes: Change) -> bytes:
    """Return changes as a line of the file."""
    return json.dumps(changes, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> tuple[Change, ...]:
    if not line.endswith(b"\n"):
        raise ValueError("torn")
    changes = json.loads(line)
    for kind, id, record in changes:
        if not (isinstance(kind, str) and isinstance(id, str) and (record is None or isinstance(record, dict))):
            raise ValueError("not a change")
    return tuple(changes)
