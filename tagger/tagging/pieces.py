"""Join two tables of any size by uri: both are split on disk by the hash of the uri, and joined piece by piece."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

PIECE = 100_000
"""Approximate number of rows of a piece; half as many are split at once."""
_MOST = 512
"""Maximum number of pieces; each is an open file while a table is split."""
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def pieces(left: Iterable[pa.Table], right: Iterable[pa.Table], rows: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield pairs of pieces of `left` and `right`, such that all rows of a uri are in the same pair.

    `rows` is the approximate length of the longer table. If one piece holds everything, nothing is written to disk.
    """
    count = min(_MOST, 1 + rows // PIECE)
    if count == 1:
        yield pa.concat_tables(left), pa.concat_tables(right)
        return
    with tempfile.TemporaryDirectory(prefix="tagger-plan-") as folder:
        lefts = _split(left, os.path.join(folder, "left"), count)
        rights = _split(right, os.path.join(folder, "right"), count)
        for one, other in zip(lefts, rights, strict=True):
            yield _read(one), _read(other)


def _in_chunks(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut large tables, and combine small ones: written in small slices, a piece takes many times as long."""
    waiting: list[pa.Table] = []
    for table in tables:
        for start in range(PIECE // 2, len(table), PIECE // 2):
            yield table.slice(start - PIECE // 2, PIECE // 2)
        waiting.append(table.slice(max(0, len(table) - 1) // (PIECE // 2) * (PIECE // 2)))
        if sum(map(len, waiting)) >= PIECE // 2:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _split(tables: Iterable[pa.Table], stem: str, count: int) -> list[str]:
    """Write each row to the file that its hash selects; return the names of the files."""
    names = [f"{stem}-{number}" for number in range(count)]
    writers: list[pa.RecordBatchStreamWriter] = []
    with contextlib.ExitStack() as stack:
        for table in _in_chunks(tables):
            if not writers:
                writers = [
                    stack.enter_context(pa.ipc.new_stream(name, table.schema, options=_OPTIONS)) for name in names
                ]
            _scatter(table, writers)
    return names


def _scatter(table: pa.Table, writers: list[pa.RecordBatchStreamWriter]) -> None:
    # within a process, Python's hash of a string is stable, and it spreads any names evenly
    texts = table["uri"].to_numpy()
    piece = np.fromiter(map(hash, texts), np.int64, len(texts)) % len(writers)
    order = np.argsort(piece, kind="stable")
    ordered = table.combine_chunks().take(pa.array(order))
    ends = np.cumsum(np.bincount(piece, minlength=len(writers)))
    for writer, start, end in zip(writers, [0, *ends[:-1]], ends, strict=True):
        if end > start:
            writer.write_table(ordered.slice(start, end - start))


def _read(name: str) -> pa.Table:
    with pa.OSFile(name) as file:
        table = pa.ipc.open_stream(file).read_all()
    os.remove(name)
    return table
