"""Query the results table with SQL: DuckDB views over its parts, and the formats of what a query returns."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tagger import schema, storage
from tagger.errors import MissingExtra, QueryError, SourceNotFound, TableError
from tagger.storage import StrPath
from tagger.tagging.parts import LOCAL_READERS, consistently
from tagger.tagging.present import present as _present
from tagger.tagging.results import LATEST_SQL, ROW_KEY, existing_parts, read_table, warn_of_damage

if TYPE_CHECKING:
    import duckdb

VERIFIED = 1 << 30
"""Total bytes of local parts up to which all of them are verified before each query."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_VIEWS = """
CREATE VIEW every_image AS
    SELECT *, {present} AS present FROM history
    QUALIFY row_number() OVER (PARTITION BY uri, model ORDER BY {order}) = 1;
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
    connection.execute(_VIEWS.format(order=LATEST_SQL, present=column, condition="WHERE present" if present else ""))
    return connection


def _verified(url: StrPath, paths: list[str]) -> list[str]:
    """Return the parts without damaged ones; a table over VERIFIED bytes is not verified."""
    if sum(map(os.path.getsize, paths)) > VERIFIED:
        return paths
    with ThreadPoolExecutor(LOCAL_READERS) as pool:
        whole = list(pool.map(_is_whole, paths))
    warn_of_damage(url, [os.path.basename(path) for path, is_whole in zip(paths, whole, strict=True) if not is_whole])
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
