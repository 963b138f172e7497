"""Merge small part files into large ones, safely while other processes read and write the table.

A merged part is written whole, under a new name, and its footer names the parts that it replaces. From then on readers
take its rows and skip those parts, which are deleted after a grace period. If the process is killed at any point, the
table has the same rows, and the next call finishes the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from tagger import schema, storage
from tagger.errors import UsageError, WriteError
from tagger.storage import StrPath
from tagger.tagging import results
from tagger.tagging.parts import MERGED, Parts, consistently, damaged_parts, list_parts, name_of, read_parts

ROWS = 250_000
"""Maximum number of rows of a merged part; a plan holds some parts in memory at the same time."""
BYTES = 128 << 20
"""Maximum total size of the parts that are merged into one."""
GRACE = 60.0


@dataclass(frozen=True)
class Compacted:
    """The outcome of a compaction."""

    out: str
    parts_before: int
    parts: int
    merged: int
    """Parts that were merged."""
    written: int
    """Merged parts that were written."""
    rows: int
    """Rows in them."""
    deleted: int
    """Replaced parts that were deleted, also those that an earlier compaction left."""
    damaged: tuple[str, ...]
    """Parts that cannot be read; the next run of `tag` sets them aside and tags their files again."""

    def text(self) -> str:
        """Return a line or two for a terminal."""
        done = f"{self.merged:,} of {self.parts_before:,} parts merged into {self.written:,} ({self.rows:,} rows)"
        lines = [done if self.merged else f"nothing to merge in {self.parts_before:,} parts"]
        lines += [f"{self.deleted:,} replaced parts deleted"] if self.deleted else []
        return "\n".join([*lines, *(f"damaged: {name}" for name in self.damaged), f"results: {self.out}"])


OnStep = Callable[[str, int, int | None], None]


def _ignore(step: str, done: int, total: int | None) -> None:
    """Ignore progress."""


def compact(url: StrPath, grace: float = GRACE, on_step: OnStep = _ignore) -> Compacted:
    """Merge the small parts of a results table, and delete them after `grace` seconds.

    Readers and runs can continue meanwhile. `on_step` is called with a step's name and its progress. Raises
    SourceNotFound, TableError, or WriteError if another compaction of the same local table is running.
    """
    if not grace >= 0:
        raise UsageError(f"--grace must be at least 0, got {grace}")
    before = consistently(lambda: results.existing_parts(url))
    out = storage.absolute(os.fspath(url))
    merged = written = rows = 0
    damaged: list[str] = list(before.damaged)
    with storage.claimed(out):
        groups = list(_groups(before))
        for number, group in enumerate(groups):
            on_step("merging", number, len(groups))
            parts, added = _merge(out, before, group, damaged)
            merged, written, rows = merged + parts, written + bool(parts), rows + added
        deleted = _delete_replaced(out, grace, on_step)
    return Compacted(
        out=storage.public_uri(out),
        parts_before=len(before.uris),
        parts=len(list_parts(out).uris),
        merged=merged,
        written=written,
        rows=rows,
        deleted=deleted,
        damaged=tuple(damaged),
    )


def _groups(parts: Parts) -> Iterator[list[str]]:
    """Yield the uris to merge into one part each; parts over half the limits stay as they are."""
    if parts.overlap:  # concurrent compactions have merged the same part twice; merging theirs removes the duplicates
        yield [uri for uri in parts.uris if name_of(uri) in parts.replaces]
    group: list[str] = []
    rows = size = 0
    for uri in parts.uris:
        count, content = parts.counts[uri], parts.sizes[uri] or _size(uri)
        if 2 * count > ROWS or 2 * content > BYTES or (parts.overlap and name_of(uri) in parts.replaces):
            continue
        if group and (rows + count > ROWS or size + content > BYTES):
            if len(group) > 1:
                yield group
            group, rows, size = [], 0, 0
        group, rows, size = [*group, uri], rows + count, size + content
    if len(group) > 1:
        yield group


def _size(uri: str) -> int:
    return storage.describe(uri).bytes or 0


def _merge(out: str, parts: Parts, group: list[str], damaged: list[str]) -> tuple[int, int]:
    """Merge parts into one; return the numbers of parts and rows. Damaged parts stay where they are."""
    tables = dict(zip(group, read_parts(group, sizes=parts.sizes), strict=True))
    damaged += [name_of(uri) for uri, table in tables.items() if table is None]
    whole = {name_of(uri): table for uri, table in tables.items() if table is not None}
    if len(whole) < 2:
        return 0, 0
    table = pa.concat_tables(whole.values())
    if parts.overlap:
        table = results.distinct(table)
    replaced = sorted({*whole}.union(*(parts.replaces.get(name, ()) for name in whole)))
    digest = hashlib.sha256("\n".join(replaced).encode()).hexdigest()[:8]
    generation = max(name.removeprefix("part-").partition("-")[0] for name in whole)
    uri = storage.join(out, f"part-{generation}-{digest}{MERGED}")
    table = table.sort_by([("uri", "ascending"), ("model", "ascending")])
    storage.write_atomic(uri, schema.serialise(table, "results", replaces=json.dumps(replaced)))
    return len(whole), len(table)


def _delete_replaced(out: str, grace: float, on_step: OnStep) -> int:
    """Delete the parts whose rows are in a merged part, after checking that part; return their number."""
    waiting = list_parts(out)
    if not waiting.replaced:
        return 0
    _wait(grace, on_step)
    used = [uri for uri in waiting.uris if waiting.replaces.get(name_of(uri), frozenset()) & {*waiting.replaced}]
    if broken := damaged_parts(used):
        raise WriteError(
            f"{out}: the merged part {broken[0]} is damaged, the parts that it replaces were not deleted; delete it "
            "and run `tagger compact` again"
        )
    for number, name in enumerate(waiting.replaced):
        on_step("deleting replaced parts", number, len(waiting.replaced))
        storage.remove(storage.join(out, name))
    return len(waiting.replaced)


def _wait(grace: float, on_step: OnStep) -> None:
    """Wait until queries that have listed the replaced parts are likely to have read them."""
    end = time.monotonic() + grace
    while (left := end - time.monotonic()) > 0:
        on_step("waiting for readers, seconds", round(grace - left), round(grace))
        time.sleep(min(1.0, left))
