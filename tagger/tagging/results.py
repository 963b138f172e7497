"""Read the results table: its parts, the latest rows, DataFrames and SQL."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import logging
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tagger import schema, storage
from tagger.errors import MissingExtra, QueryError, SourceNotFound, TableError
from tagger.storage import StrPath
from tagger.tagging.present import present as _present

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

log = logging.getLogger(__name__)

RUNS = "_runs"
IDLE = "--idle"
"""End of the name of the record of a run with nothing to do, in place of a random one."""
MERGED = "-merged.parquet"
"""End of the name of a part that replaces others."""
_LOCAL_READERS = 4
_REMOTE_READERS = 16
_AHEAD = 32 << 20
"""Bytes of parts that are read ahead, about; in memory their columns take several times as much."""
_LISTINGS = 3
"""Attempts to read a table whose parts are deleted by compactions meanwhile."""
_SMALL = 4 << 20
"""Bytes up to which a remote part is read whole: one request, and every byte is verified."""
VERIFIED = 1 << 30
"""Total bytes of local parts up to which all of them are verified before each query."""

ROW_KEY = ("uri", "model", "run_id", "tagged_at")
"""Columns that identify a row."""

LATEST_ORDER = (
    ("uri", "ascending"),
    ("model", "ascending"),
    ("generation", "descending"),
    ("failed", "ascending"),
    ("tagged_at", "descending"),
    ("run_id", "descending"),
)
"""The first row per (uri, model) in this order is the latest; the order of generations does not depend on a clock."""


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
    return _REMOTE_READERS if storage.is_remote(uri) else _LOCAL_READERS


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
    with ThreadPoolExecutor(_LOCAL_READERS) as pool:
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


def read_table(url: StrPath, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all rows of a results folder, except those of damaged parts, which are named in a warning."""
    return consistently(lambda: _read_table(url, columns))


def _read_table(url: StrPath, columns: Sequence[str] | None) -> pa.Table:
    parts = existing_parts(url)
    wanted = list(columns or schema.RESULTS.names)
    rows, damaged = read_rows(
        parts.uris, [*wanted, *(name for name in ROW_KEY if parts.overlap and name not in wanted)]
    )
    _warn(url, damaged)
    return (distinct(rows) if parts.overlap else rows).select(wanted)


def distinct(table: pa.Table) -> pa.Table:
    """Return a table with each row once: the first with its ROW_KEY."""
    numbered = table.select(ROW_KEY).append_column("row", pa.array(range(len(table)), pa.int64()))
    first = numbered.group_by(list(ROW_KEY)).aggregate([("row", "min")])["row_min"]
    return table.take(first.sort())


def _warn(url: StrPath, damaged: Sequence[str]) -> None:
    if damaged:
        log.warning(
            "%s: damaged parts are skipped: %s; the next `tagger tag` sets them aside and tags their files again",
            url, ", ".join(damaged),
        )  # fmt: skip


def latest(table: pa.Table) -> pa.Table:
    """Keep the latest row of each (uri, model), sorted by uri."""
    generation = pc.cast(pc.utf8_slice_codeunits(table["run_id"], 0, 8), pa.int64())
    keys = table.select(["uri", "model", "tagged_at", "run_id"])
    keys = keys.append_column("generation", generation)
    keys = keys.append_column("failed", pc.invert(pc.is_in(table["status"], pa.array(schema.TAGGED))))
    order = pc.sort_indices(keys, sort_keys=list(LATEST_ORDER))
    table = table.take(order)
    if len(table) < 2:
        return table
    uri, model = table["uri"], table["model"]  # not combined: one array holds no more than 2 GiB of text
    other_uri = pc.not_equal(uri.slice(1), uri.slice(0, len(uri) - 1))
    other_model = pc.not_equal(model.slice(1), model.slice(0, len(model) - 1))
    first = pa.chunked_array([pa.array([True]), *pc.or_(other_uri, other_model).chunks])
    return table.filter(first)


def read_results(url: StrPath, latest: bool = True, long: bool = False) -> pd.DataFrame:
    """Read a results folder into a DataFrame.

    `latest` keeps the newest row per (uri, model); `long` gives one row per image and tag (columns uri, model, tag,
    score, rank). Damaged parts are left out. Raises SourceNotFound or TableError.
    """
    table = read_table(url)
    if latest:
        table = _latest(table)
    if not long:
        return _to_pandas(table)
    lists = table["tags"].combine_chunks()
    parents, tags = pc.list_parent_indices(lists), pc.list_flatten(lists)
    flat = table.select(["uri", "model"]).take(parents)
    flat = flat.append_column("tag", tags.field("tag")).append_column("score", tags.field("score"))
    frame = _to_pandas(flat)
    frame["rank"] = frame.groupby(parents.to_numpy(), sort=False).cumcount() + 1
    return frame


_latest = latest


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


def existing_parts(url: StrPath) -> Parts:
    """Return the parts of a results folder; raises SourceNotFound when there is none."""
    out = storage.absolute(os.fspath(url))
    parts = list_parts(out)
    if not parts.uris and not parts.damaged:
        raise SourceNotFound(
            f"{url}: no results here; RESULTS is the folder that `tagger tag SOURCE --out RESULTS` writes"
        )
    _warn(url, parts.damaged)
    return parts


_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_VIEWS = """
CREATE VIEW every_image AS
    SELECT *, {present} AS present FROM history
    QUALIFY row_number() OVER (
        PARTITION BY uri, model
        ORDER BY CAST(left(run_id, 8) AS BIGINT) DESC, status NOT IN ('ok', 'truncated'), tagged_at DESC, run_id DESC
    ) = 1;
CREATE VIEW images AS SELECT * FROM every_image {condition};
CREATE VIEW tags AS
    SELECT * EXCLUDE (pair), pair.tag AS tag, pair.score AS score
    FROM (
        SELECT uri, image_id, model, generate_subscripts(tags, 1) AS rank, unnest(tags) AS pair FROM images
    );
"""


def connect(url: StrPath, present: bool = False) -> duckdb.DuckDBPyConnection:
    """Open the views `history` (all rows), `images` (latest row per uri and model) and `tags` (row per image and tag).

    `images` has a column `present`, null for a table without listings; with `present`, images and tags have only files
    that the last listing of a source has. Local parts are scanned by DuckDB itself; remote ones are read first.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("query", "duckdb") from error

    def open_views() -> duckdb.DuckDBPyConnection:
        with _named_errors(url):
            return _connect(url, duckdb.connect(), present)

    return consistently(open_views)


@contextlib.contextmanager
def _named_errors(url: StrPath) -> Iterator[None]:
    """Raise QueryError for an error of DuckDB, or SourceNotFound where a compaction has deleted parts meanwhile."""
    import duckdb

    out = storage.absolute(os.fspath(url))
    before = storage.names_in(out) or []
    try:
        yield
    except duckdb.Error as error:
        if isinstance(error, duckdb.IOException) and {*before} - {*(storage.names_in(out) or [])}:
            raise SourceNotFound(f"{url}: parts were deleted during the query; run it again") from error
        reason = " ".join(str(error).split())
        raise QueryError(f"{reason} (views: images, tags, history)") from error


def _connect(url: StrPath, connection: duckdb.DuckDBPyConnection, present: bool) -> duckdb.DuckDBPyConnection:
    parts = existing_parts(url)
    connection.execute("SET TimeZone = 'UTC'")
    if parts.uris and not storage.is_remote(parts.uris[0]):
        connection.register("schema_of_results", schema.RESULTS.empty_table())
        connection.execute(_history(_verified(url, [storage.local_path(uri) for uri in parts.uris]), parts.overlap))
    else:
        connection.register("history", read_table(url))
    there = _present(storage.absolute(os.fspath(url)))
    if present and there is None:
        raise TableError(f"{url}: no listing of a source is kept here yet; run `tagger tag` again, then use --present")
    column = "NULL::BOOLEAN" if there is None else "uri IN (SELECT uri FROM listed)"
    if there is not None:
        connection.register("listed", pa.table({"uri": there}))
    connection.execute(_VIEWS.format(present=column, condition="WHERE present" if present else ""))
    return connection


def _verified(url: StrPath, paths: list[str]) -> list[str]:
    """Return the parts without damaged ones; a table over VERIFIED bytes is not verified."""
    if sum(map(os.path.getsize, paths)) > VERIFIED:
        return paths
    with ThreadPoolExecutor(_LOCAL_READERS) as pool:
        whole = list(pool.map(_is_whole, paths))
    _warn(url, [os.path.basename(path) for path, is_whole in zip(paths, whole, strict=True) if not is_whole])
    return [path for path, is_whole in zip(paths, whole, strict=True) if is_whole]


def _is_whole(path: str) -> bool:
    with open(path, "rb") as file:
        return schema.is_whole(file)


def _history(paths: list[str], overlap: bool) -> str:
    """Return the SQL of the view over all rows; DuckDB reads paths as globs, and `a=b` in them as columns."""
    empty = "CREATE VIEW history AS SELECT * FROM schema_of_results"
    if not paths:
        return empty
    literal = [re.sub(r"([*?[])", r"[\1]", path).replace("'", "''") for path in paths]
    listed = ", ".join(f"'{path}'" for path in literal)
    return (
        f"{empty} UNION ALL BY NAME "
        f"SELECT * FROM read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
        + f" QUALIFY row_number() OVER (PARTITION BY {', '.join(ROW_KEY)}) = 1"
        * overlap
    )


OVERVIEW = {
    "files": """
        SELECT model, status, count(*) AS images, any_value(error) AS example
        FROM images GROUP BY ALL ORDER BY images DESC, status
    """,
    "tags": """
        SELECT model, tag, count(*) AS images, round(avg(score), 3) AS mean_score
        FROM tags GROUP BY ALL ORDER BY images DESC, tag
    """,
}
"""Title -> SQL of the queries that run by default."""


def query(url: StrPath, sql: str, present: bool = False) -> pa.Table:
    """Run SQL over the views of a results folder; raises QueryError with DuckDB's own explanation.

    With `present`, images and tags have only files that the last listing of a source has.
    """
    return consistently(lambda: _query(url, sql, present))


def _query(url: StrPath, sql: str, present: bool) -> pa.Table:
    with _named_errors(url), contextlib.closing(connect(url, present)) as connection:
        relation = connection.sql(sql)
        return pa.table({}) if relation is None else _unique_names(relation.to_arrow_table())


def _unique_names(result: pa.Table) -> pa.Table:
    """Number the columns that repeat a name, as DuckDB's own shell does: uri, uri_1."""
    names: list[str] = []
    for name in result.column_names:
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        names.append(next(each for each in itertools.chain([name], numbered) if each not in names))
    return result.rename_columns(names)


def export(result: pa.Table, format: str) -> bytes:
    """Return a query's result as csv, json (one array of objects) or parquet; lists become JSON text in csv."""
    if format == "parquet":
        sink = io.BytesIO()
        pq.write_table(result, sink, compression="zstd")
        return sink.getvalue()
    rows = result.to_pylist()
    if format == "json":
        return (json.dumps(plain(rows), default=str, ensure_ascii=False) + "\n").encode()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(result.column_names)
    writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)
    return text.getvalue().encode()


def plain(value: Any) -> Any:
    """Return a value as JSON allows it: null for NaN and infinity, integers for DuckDB's 128-bit sums."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else value


def _csv_cell(value: Any) -> Any:
    """Return a cell; text that a spreadsheet would run as a formula is prefixed with an apostrophe."""
    if isinstance(value, list | dict):
        return json.dumps(plain(value), default=str, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
