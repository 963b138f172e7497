"""The labels table: decisions of reviewers, append-only; the latest per image counts.

A decision is made when it is on disk: appended to a journal beside `labels.parquet`, and synced. The journal is merged
into the Parquet file when a review starts and ends; whoever reads the table reads both.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from tagger import schema, storage
from tagger.errors import SourceNotFound, TableError, TaggerError, UsageError, WriteError, first_line
from tagger.storage import StrPath

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

JOURNAL, LOCK = ".journal", ".lock"
"""Suffixes of the journal and the lock file next to the table."""
_CRC = 8
"""Hexadecimal digits of the CRC-32 before the JSON of a line."""

Decision: TypeAlias = Mapping[str, Any]
"""A row of the table."""
Signature: TypeAlias = tuple[object, ...]


def read_labels(labels: StrPath) -> pd.DataFrame:
    """Read a labels table into a DataFrame: the latest decision per image. Raises SourceError or TableError."""
    frame: pd.DataFrame = latest(read(storage.absolute(os.fspath(labels)))).to_pandas()
    return frame


def read(uri: str, ours: bool = True) -> pa.Table:
    """Return all decisions in order, including those in the journal.

    Raises SourceNotFound, or TableError when the file is damaged, newer or foreign; unless `ours`, a copy that another
    program wrote is read too.
    """
    journal = _read_journal(uri)  # first: a merge in between duplicates rows, which are dropped below, but loses none
    with storage.open_input(uri) as file, schema.named_damage(uri):
        parquet = schema.open_parquet(file)
        if ours or schema.footer_of(parquet.schema_arrow):
            schema.check_footer(parquet.schema_arrow, "labels", uri)
        table = schema.conform(parquet.read(), "labels")
    rows = pa.concat_tables([table, journal])
    order = rows.append_column("row", pa.array(range(len(rows)), pa.int64()))
    first = order.group_by(["uri", "image_id", "decided_at", "by"]).aggregate([("row", "min")])["row_min"].sort()
    return rows.take(first).sort_by("decided_at")


def latest(table: pa.Table) -> pa.Table:
    """Return the latest decision per image, without those that were withdrawn."""
    keys = pa.table({"image": image_of(table), "row": pa.array(range(len(table)), pa.int64())})
    last = keys.group_by("image").aggregate([("row", "max")])["row_max"]
    rows = table.take(last.sort())
    return rows.filter(pc.is_valid(rows["labels"]))


def image_of(table: pa.Table) -> pa.ChunkedArray:
    """Return the identity of each row's image: its image_id, else its uri."""
    return pc.coalesce(table["image_id"], table["uri"])


class LabelsFile:
    """A writable local labels table; other processes may write to it at the same time."""

    def __init__(self, labels: str) -> None:
        if storage.is_remote(labels):
            raise UsageError(f"--labels {storage.redact(labels)}: must be a local file; copy it there after the review")
        if not labels.endswith(".parquet"):
            raise UsageError(f"--labels {labels}: the name must end in .parquet")
        self.uri = storage.absolute(labels)
        self.path = storage.local_path(self.uri)
        self._journal, self._mutex, self._seen = self.path + JOURNAL, threading.Lock(), Signature()
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise WriteError(f"--labels {labels}: the folder {folder} does not exist; create it")
        if not os.access(self.path if os.path.exists(self.path) else folder, os.W_OK):
            raise WriteError(f"--labels {labels}: cannot be written; choose another file")

    def changed(self) -> pa.Table | None:
        """Return all decisions if another process has written some since the last call, else None."""
        with self._mutex:
            signature = self._signature()
            if signature == self._seen:
                return None
            table = read(self.uri) if os.path.exists(self.path) else schema.LABELS.empty_table()
            self._seen = signature
        return table

    def append(self, decisions: Sequence[Decision]) -> None:
        """Write decisions to disk, all or none of them; raises WriteError."""
        with self._mutex, self._locked():
            unchanged = self._signature() == self._seen
            if not os.path.exists(self.path):
                storage.write_atomic(self.uri, schema.serialise(schema.LABELS.empty_table(), "labels"))
            _append_line(self._journal, _line(decisions))
            if unchanged:
                self._seen = self._signature()

    def merge(self) -> None:
        """Move the decisions of the journal into the Parquet file."""
        if not os.path.exists(self._journal):
            return
        with self._mutex, self._locked():
            if not os.path.exists(self._journal):  # another process has merged it
                return
            unchanged = self._signature() == self._seen
            storage.write_atomic(self.uri, schema.serialise(read(self.uri), "labels"))
            os.unlink(self._journal)
            if unchanged:
                self._seen = self._signature()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the table against other processes."""
        try:
            with FileLock(self.path + LOCK, timeout=10):
                yield
        except TaggerError:
            raise
        except OSError as error:
            raise WriteError(f"{self.uri}: cannot write ({(error.strerror or first_line(error)).lower()})") from error

    def _signature(self) -> Signature:
        return (*_facts(self.path), *_facts(self._journal))


def _facts(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _line(decisions: Sequence[Decision]) -> bytes:
    """Return a line of the journal: checksum and JSON."""
    rows = [{**each, "decided_at": each["decided_at"].isoformat()} for each in decisions]
    content = json.dumps(rows, ensure_ascii=False).encode()
    return f"{zlib.crc32(content):0{_CRC}x} ".encode() + content + b"\n"


def _append_line(path: str, line: bytes) -> None:
    """Append a line to a file and sync it; an incomplete last line is ended first."""
    is_new = not os.path.exists(path)
    with open(path, "ab+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
            line = b"\n" + line
        try:
            if file.write(line) != len(line):
                raise OSError("the disk is full")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
    if is_new:
        storage.sync_folder(os.path.dirname(path))


def _read_journal(uri: str) -> pa.Table:
    """Return the decisions of a journal, without incomplete lines, which were never confirmed."""
    empty = schema.LABELS.empty_table()
    if storage.is_remote(uri):
        return empty
    try:
        lines = storage.read_bytes(uri + JOURNAL).split(b"\n")
    except SourceNotFound:
        return empty
    found = [_parsed(line) for line in lines if line]
    if incomplete := found.count(None):
        log.warning("%s%s: %d incomplete or damaged lines are ignored", uri, JOURNAL, incomplete)
    rows = [row for batch in found if batch for row in batch]
    try:
        times = [{**row, "decided_at": datetime.fromisoformat(row["decided_at"])} for row in rows]
        return schema.from_rows(times, "labels")
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise TableError(f"{uri}{JOURNAL}: not a journal of tagger ({first_line(error)}); move or delete it") from error


def _parsed(line: bytes) -> list[dict[str, Any]] | None:
    checksum, _, content = line.partition(b" ")
    if checksum != f"{zlib.crc32(content):0{_CRC}x}".encode():
        return None
    rows: list[dict[str, Any]] = json.loads(content)
    return rows
