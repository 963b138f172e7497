"""Read the results table: its parts, the latest rows, wide and long, SQL."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tagger import schema, storage
from tagger.errors import MissingExtra, QueryError, SourceError, SourceNotFound, TableError, first_line
from tagger.storage import StrPath

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

log = logging.getLogger(__name__)

RUNS = "_runs"
_TAIL = 1 << 16
"""Bytes at a file's end that nearly always hold its footer."""

LATEST_ORDER = (
    ("uri", "ascending"),
    ("model", "ascending"),
    ("generation", "descending"),
    ("failed", "ascending"),
    ("tagged_at", "descending"),
    ("run_id", "descending"),
)
"""Of the rows of one (uri, model) the first in this order is the latest; no clock decides between generations."""


@dataclass(frozen=True)
class Parts:
    """The part files of a results folder."""

    uris: tuple[str, ...]
    damaged: tuple[str, ...]
    """Names of files whose footer cannot be read."""


def list_parts(out: str) -> Parts:
    """Check every part's footer; raises TableError when one is foreign or newer."""
    names = [name for name in storage.names_in(out) or [] if name.endswith(".parquet")]
    sound, damaged = [], []
    for name in names:
        uri = storage.join(out, name)
        content = _footer(uri)  # a store that does not answer raises here: that is no damage
        try:
            found = pq.read_schema(io.BytesIO(content))
        except (pa.ArrowInvalid, OSError, EOFError):
            damaged.append(name)
            continue
        schema.check_footer(found, "results", uri)
        sound.append(uri)
    return Parts(tuple(sound), tuple(damaged))


def _footer(uri: str) -> bytes:
    """Return as much of a Parquet file's end as says what is in it, to be read like a whole one."""
    tail = storage.read_tail(uri, _TAIL)
    length = 8 + int.from_bytes(tail[-8:-4], "little")
    if tail.endswith(b"PAR1") and length > len(tail):
        tail = storage.read_tail(uri, length)
    return b"PAR1" + tail[-length:]


def read_rows(uris: Sequence[str], columns: Sequence[str] | None = None, model: str | None = None) -> pa.Table:
    """Read part files into one table with today's columns, or some of them; optionally the rows of one model."""
    wanted = schema.RESULTS.names if columns is None else list(columns)
    tables = [_read_part(uri, wanted, model) for uri in uris]
    empty = schema.RESULTS.empty_table().select(wanted)
    return pa.concat_tables([empty, *tables])


def _read_part(uri: str, wanted: list[str], model: str | None) -> pa.Table:
    with storage.open_input(uri) as file:
        try:
            parquet = pq.ParquetFile(file)
            needed = {*wanted, "model"} if model is not None else set(wanted)
            table = parquet.read([name for name in parquet.schema_arrow.names if name in needed])
        except (pa.ArrowInvalid, OSError) as error:
            if storage.is_remote(uri) and not isinstance(error, pa.ArrowInvalid):
                raise SourceError(f"{uri}: cannot be read ({first_line(error)}); try again") from error
            raise TableError(f"{uri}: damaged ({error}); move it away and run again, its rows are redone") from error
    if model is not None:
        table = table.filter(pc.equal(table["model"], model))
    return schema.conform(table, "results").select(wanted)


def latest(table: pa.Table) -> pa.Table:
    """Keep the latest row of each (uri, model), sorted by uri."""
    generation = pc.cast(pc.utf8_slice_codeunits(table["run_id"], 0, 8), pa.int64())
    keys = table.select(["uri", "model", "tagged_at", "run_id"])
    keys = keys.append_column("generation", generation)
    keys = keys.append_column("failed", pc.not_equal(table["status"], "ok"))
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
    table = read_rows(existing_parts(url).uris)
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
        raise SourceNotFound(f"{url}: no results here; they are written by `tagger tag ... --out {url}`")
    if parts.damaged:
        log.warning("%s: left out, for their footers are damaged: %s", url, ", ".join(parts.damaged))
    return parts


_VIEWS = """
CREATE VIEW images AS
    SELECT * FROM history
    QUALIFY row_number() OVER (
        PARTITION BY uri, model
        ORDER BY CAST(left(run_id, 8) AS BIGINT) DESC, status <> 'ok', tagged_at DESC, run_id DESC
    ) = 1;
CREATE VIEW tags AS
    SELECT * EXCLUDE (pair), pair.tag AS tag, pair.score AS score
    FROM (
        SELECT uri, image_id, model, generate_subscripts(tags, 1) AS rank, unnest(tags) AS pair FROM images
    );
"""


def connect(url: StrPath) -> duckdb.DuckDBPyConnection:
    """Open the views `history` (all rows), `images` (latest row per uri and model) and `tags` (row per image and tag).

    Local parts are scanned by DuckDB itself; remote ones are read through fsspec first.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("query", "duckdb") from error
    parts = existing_parts(url)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    if parts.uris and not storage.is_remote(parts.uris[0]):
        empty = schema.RESULTS.empty_table()
        connection.register("schema_of_results", empty)
        files = [storage.local_path(uri) for uri in parts.uris]
        listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        connection.execute(
            "CREATE VIEW history AS SELECT * FROM schema_of_results "
            f"UNION ALL BY NAME SELECT * FROM read_parquet([{listed}], union_by_name = true)"
        )
    else:
        connection.register("history", read_rows(parts.uris))
    connection.execute(_VIEWS)
    return connection


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
"""What a query without SQL answers: title -> SQL."""


def query(url: StrPath, sql: str) -> pa.Table:
    """Run SQL over the views of a results folder; raises QueryError with DuckDB's own explanation."""
    import duckdb

    with contextlib.closing(connect(url)) as connection:
        try:
            relation = connection.sql(sql)
            result: Any = pa.table({}) if relation is None else relation.to_arrow_table()
        except duckdb.Error as error:
            reason = " ".join(str(error).split())
            raise QueryError(f"{reason} (views: images, tags, history)") from error
    return result


def export(result: pa.Table, format: str) -> bytes:
    """Return a query's result as csv, json (one array of objects) or parquet; lists become JSON text in csv."""
    if format == "parquet":
        sink = io.BytesIO()
        pq.write_table(result, sink, compression="zstd")
        return sink.getvalue()
    rows = result.to_pylist()
    if format == "json":
        return (json.dumps(rows, default=str, ensure_ascii=False) + "\n").encode()
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(result.column_names)
    writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)
    return text.getvalue().encode()


def _csv_cell(value: Any) -> Any:
    return json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, list | dict) else value
