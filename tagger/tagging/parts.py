"""The part files of a results table: which of them count, and their rows."""

from __future__ import annotations

import contextlib
import io
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from tagger import schema, storage
from tagger.errors import SourceNotFound

MERGED = "-merged.parquet"
"""End of the name of a part that replaces others."""
LOCAL_READERS = 4
_REMOTE_READERS = 16
_AHEAD = 32 << 20
"""Bytes of parts that are read ahead, about; in memory their columns take several times as much."""
_LISTINGS = 3
"""Attempts to read a table whose parts are deleted by compactions meanwhile."""
_SMALL = 4 << 20
"""Bytes up to which a remote part is read whole: one request, and every byte is verified."""


@dataclass(frozen=True)
class Parts:
    """The part files of a results folder."""

    uris: tuple[str, ...]
    """Those to read: without damaged ones, and without those that a merged part replaces."""
    damaged: tuple[str, ...] = ()
    """Names of files with a damaged footer."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """uri -> rows."""
    sizes: Mapping[str, int | None] = field(default_factory=dict)
    """uri -> bytes, where the listing has it."""
    replaces: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Name of a merged part -> names of the parts whose rows it holds, whether they are still there or not."""
    replaced: tuple[str, ...] = ()
    """Names of files whose rows are in a merged part; `compact` deletes them after the grace period."""

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(self.counts.values())

    @property
    def overlap(self) -> bool:
        """Return whether two merged parts hold the same rows, as after two compactions at the same time."""
        read = [self.replaces.get(name_of(uri), frozenset()) for uri in self.uris]
        return sum(map(len, read)) > len(frozenset().union(*read))


class _Footer(NamedTuple):
    rows: int
    replaces: frozenset[str]


def list_parts(out: str) -> Parts:
    """Read the footers of a folder's parts, many at a time; raises TableError when one is foreign or newer.

    Those of merged parts come first: the parts that they replace may be deleted at any time.
    """
    sizes = {name: size for name, size in (storage.sizes_in(out) or {}).items() if name.endswith(".parquet")}
    merged = _read_footers(out, {name: size for name, size in sizes.items() if name.endswith(MERGED)}, may_vanish=True)
    replaces = {name: footer.replaces for name, footer in merged.items() if footer}
    gone = frozenset().union(*replaces.values())
    others = {name: size for name, size in sizes.items() if name not in gone and name not in merged}
    footers = {**_read_footers(out, others), **merged}
    sound = {name: footer for name in sizes if name not in gone and (footer := footers[name])}
    return Parts(
        uris=tuple(storage.join(out, name) for name in sound),
        damaged=tuple(name for name in sizes if name not in gone and footers[name] is None),
        counts={storage.join(out, name): footer.rows for name, footer in sound.items()},
        sizes={storage.join(out, name): size for name, size in sizes.items()},
        replaces=replaces,
        replaced=tuple(name for name in sizes if name in gone),
    )


def _read_footers(out: str, sizes: Mapping[str, int | None], may_vanish: bool = False) -> dict[str, _Footer | None]:
    """Return name -> footer; None for a damaged one. One that `may_vanish` is left out when it has."""

    def read(name: str) -> dict[str, _Footer | None]:
        try:
            return {name: _read_footer(storage.join(out, name), sizes[name])}
        except SourceNotFound:
            if may_vanish:
                return {}
            raise

    with ThreadPoolExecutor(readers(out)) as pool:
        return {name: footer for found in pool.map(read, sizes) for name, footer in found.items()}


def merged_into(out: str) -> dict[str, str]:
    """Return for each part that compactions replaced the uri of the part that has its rows; reads their footers."""
    names = [name for name in storage.names_in(out) or [] if name.endswith(MERGED)]
    footers = _read_footers(out, dict.fromkeys(names), may_vanish=True)
    return {old: storage.join(out, name) for name, each in footers.items() if each for old in each.replaces}


def name_of(uri: str) -> str:
    """Return the name of a part."""
    return uri.rpartition("/")[2]


def readers(uri: str) -> int:
    """Return how many files to read at the same time: a store answers late, a disk is bound by decompression."""
    return _REMOTE_READERS if storage.is_remote(uri) else LOCAL_READERS


def _read_footer(uri: str, size: int | None) -> _Footer | None:
    """Read one footer; None when it is damaged. A store that does not answer raises: that is not damage."""
    tail = storage.read_tail(uri, schema.TAIL, size)
    length = schema.sealed_length(tail)
    if tail.endswith(b"PAR1") and length > len(tail):
        tail = storage.read_tail(uri, length, size)
    try:
        found = schema.open_parquet(io.BytesIO(b"PAR1" + tail[-length:]))
    except schema.DAMAGE:
        return None
    entries = schema.check_footer(found.schema_arrow, "results", uri)
    return _Footer(found.metadata.num_rows, frozenset(json.loads(entries.get("replaces", "[]"))))


T = TypeVar("T")


def consistently(read: Callable[[], T]) -> T:
    """Call `read`, which lists parts and reads them; again where a compaction has deleted some of them in between."""
    for _ in range(_LISTINGS - 1):
        with contextlib.suppress(SourceNotFound, FileNotFoundError):
            return read()
    return read()


def read_parts(
    uris: Sequence[str],
    columns: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    sizes: Mapping[str, int | None] | None = None,
) -> Iterator[pa.Table | None]:
    """Yield the rows of each part, in order, with the current columns or some of them; None for a damaged part.

    A few parts are read ahead, fewer if they are large. `models` selects the rows of these models.
    """
    wanted = schema.RESULTS.names if columns is None else list(columns)
    sizes = sizes or {}
    largest = max((sizes.get(uri) or 1 for uri in uris), default=1)
    ahead = min(readers(uris[0]), max(1, _AHEAD // largest)) if uris else 1
    waiting: deque[Future[pa.Table | None]] = deque()
    with ThreadPoolExecutor(ahead) as pool:
        for uri in uris:
            waiting.append(pool.submit(_read_part, uri, sizes.get(uri), wanted, models))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def sound_rows(
    parts: Parts, columns: Sequence[str], damaged: list[str], models: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield an empty table, then the rows of each part; the names of damaged ones are added to a list."""
    yield schema.RESULTS.empty_table().select(columns)
    for uri, table in zip(parts.uris, read_parts(parts.uris, columns, models, parts.sizes), strict=True):
        if table is None:
            damaged.append(name_of(uri))
        else:
            yield table


def read_rows(
    uris: Sequence[str], columns: Sequence[str] | None = None, models: Sequence[str] | None = None
) -> tuple[pa.Table, tuple[str, ...]]:
    """Read part files; return one table with the current columns, or some of them, and the names of damaged parts.

    `models` selects the rows of these models.
    """
    wanted = schema.RESULTS.names if columns is None else list(columns)
    tables = list(read_parts(uris, columns, models))
    empty = schema.RESULTS.empty_table().select(wanted)
    damaged = tuple(name_of(uri) for uri, table in zip(uris, tables, strict=True) if table is None)
    return pa.concat_tables([empty, *(table for table in tables if table is not None)]), damaged


def damaged_parts(uris: Sequence[str]) -> tuple[str, ...]:
    """Return the names of damaged parts; every byte of each part is read."""
    with ThreadPoolExecutor(readers(uris[0]) if uris else 1) as pool:
        whole = pool.map(lambda uri: _read_whole(uri, schema.RESULTS.names, None) is not None, uris)
        return tuple(name_of(uri) for uri, is_whole in zip(uris, whole, strict=True) if not is_whole)


def _read_part(uri: str, size: int | None, wanted: Sequence[str], models: Sequence[str] | None) -> pa.Table | None:
    """Read a part; None when it is damaged. Of a large remote one only the columns that are needed are fetched."""
    if storage.is_remote(uri) and (size is None or size > _SMALL):
        # the store or the part may be at fault; reading the whole part tells which
        with contextlib.suppress(*schema.DAMAGE), storage.open_input(uri) as file:
            return _columns(file, wanted, models, pre_buffer=True)
    return _read_whole(uri, wanted, models)


def _read_whole(uri: str, wanted: Sequence[str], models: Sequence[str] | None) -> pa.Table | None:
    """Verify every byte of a part and read it; None when it is damaged."""
    with contextlib.ExitStack() as stack:
        remote = storage.is_remote(uri)
        file = io.BytesIO(storage.read_bytes(uri)) if remote else stack.enter_context(storage.open_input(uri))
        try:
            return _columns(file, wanted, models) if schema.is_whole(file) else None
        except schema.DAMAGE:
            return None


def _columns(
    file: IO[bytes], wanted: Sequence[str], models: Sequence[str] | None, pre_buffer: bool = False
) -> pa.Table:
    parquet = schema.open_parquet(file, pre_buffer)
    needed = {*wanted, "model"} if models is not None else set(wanted)
    table = parquet.read([name for name in parquet.schema_arrow.names if name in needed])
    if models is not None:
        theirs = pc.is_in(table["model"], pa.array(models))
        table = table if pc.all(theirs).as_py() else table.filter(theirs)  # a filter copies the part
    return schema.conform(table, "results").select(wanted)
