"""Aggregates of a results table by DuckDB, within a memory limit: the latest rows of one model."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from tagger import schema
from tagger.errors import TableError, UsageError, first_line
from tagger.storage import StrPath
from tagger.tagging.query import connect
from tagger.tagging.results import LATEST_SQL

if TYPE_CHECKING:
    import duckdb

Row: TypeAlias = dict[str, Any]
"""A row of a query result."""

MEMORY = "2GB"
"""Memory limit of DuckDB; what does not fit is spilled to a temporary folder."""
TAGGED = f"status IN {schema.TAGGED}"
"""SQL: the row has tags."""
GENERATION = "left(run_id, 8)"
RANK = f"row_number() OVER (PARTITION BY uri ORDER BY {LATEST_SQL})"
"""SQL: 1 for the latest row of a file."""

_SAMPLE = 10_000
"""Rows sampled to find out whether images may have several tags."""
_SINGLE = "candidates[1].score - coalesce(candidates[2].score, 1 - candidates[1].score)"
"""SQL: the margin between the best two tags."""
_MULTI = "2 * list_min([abs(pair.score - 0.5) for pair in candidates])"
"""SQL: the distance of the least certain tag from 0.5, doubled."""


@dataclass(frozen=True)
class Table:
    """A results table in DuckDB: the view `history` has the rows of all models, `mine` those of one."""

    url: str
    connection: duckdb.DuckDBPyConnection
    model: str
    models: tuple[Row, ...]
    """For each model: its name, rows, runs, first and last; the model tagged last comes first."""

    def rows(self, sql: str, **values: object) -> list[Row]:
        """Return the rows of a query; `$name` in it stands for a value. Raises TableError for a damaged part."""
        with self._named_damage():
            found = self.connection.execute(sql, values) if values else self.connection.execute(sql)
            return [
                dict(zip([name for name, *_ in found.description or ()], row, strict=True)) for row in found.fetchall()
            ]

    def arrow(self, sql: str, **values: object) -> pa.Table:
        """Return the result of a query as a table; raises TableError for a damaged part."""
        with self._named_damage():
            return self.connection.sql(sql, params=values or None).to_arrow_table()

    def row(self, sql: str, **values: object) -> Row:
        """Return the one row of a query."""
        return self.rows(sql, **values)[0]

    @contextlib.contextmanager
    def _named_damage(self) -> Iterator[None]:
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            raise TableError(
                f"{self.url}: cannot be read ({first_line(error)}); see `tagger status {self.url} --verify`"
            ) from error

    def create_latest(self, columns: Sequence[str]) -> None:
        """Create the view `latest`: these columns of the model's latest row per file.

        Most files have one row. Only those with several are ranked, since ranking sorts whole rows.
        """
        names = ", ".join(columns)
        self.rows("CREATE TEMP TABLE repeated AS SELECT hash(uri) AS key FROM mine GROUP BY ALL HAVING count(*) > 1")
        if not self.row("SELECT count(*) AS files FROM repeated")["files"]:
            self.rows(f"CREATE TEMP VIEW latest AS SELECT {names} FROM mine")
            return
        self.rows(
            f"CREATE TEMP TABLE ranked AS SELECT {names} FROM mine SEMI JOIN repeated ON hash(uri) = key "
            f"QUALIFY {RANK} = 1"
        )
        self.rows(
            f"CREATE TEMP VIEW latest AS SELECT {names} FROM mine ANTI JOIN repeated ON hash(uri) = key "
            f"UNION ALL SELECT * FROM ranked"
        )

    def is_multilabel(self) -> bool:
        """Return whether an image may have several tags: the scores of some image add up to more than 1."""
        total = "list_sum([pair.score for pair in candidates])"
        found = self.row(f"SELECT max(total) AS total FROM (SELECT {total} AS total FROM latest LIMIT {_SAMPLE})")
        return (found["total"] or 0) > 1.01

    def margin(self) -> str:
        """Return SQL for the certainty of a row of `latest`: from 0 to 1; 2 if scores are NaN, 3 if it has no tags."""
        margin = _MULTI if self.is_multilabel() else _SINGLE
        return f"CASE WHEN {TAGGED} AND len(candidates) > 0 THEN coalesce(nullif({margin}, 'nan'::FLOAT), 2) ELSE 3 END"


@contextlib.contextmanager
def open_table(url: StrPath, model: str | None = None) -> Iterator[Table]:
    """Open a results table for one model, by default the one tagged last.

    Raises SourceNotFound, or UsageError for a model that is not in it.
    """
    with contextlib.closing(connect(url)) as connection, tempfile.TemporaryDirectory() as spill:
        connection.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = '{spill}'")
        connection.execute("SET preserve_insertion_order = false")
        models = Table(str(url), connection, "", ()).rows(
            """
            SELECT model, count(*) AS rows, count(DISTINCT run_id) AS runs, max(run_id) AS last_run,
                   min(tagged_at) AS first, max(tagged_at) AS last
            FROM history GROUP BY model ORDER BY max(left(run_id, 8)) DESC, rows DESC, model
            """
        )
        names = [row["model"] for row in models]
        if not names:
            raise UsageError(f"{url}: the results table has no rows; tag a source that has images")
        if model is not None and model not in names:
            raise UsageError(f"--model {model}: not in {url}, whose models are {', '.join(names)}")
        chosen = names[0] if model is None else model
        literal = chosen.replace("'", "''")
        connection.execute(f"CREATE TEMP VIEW mine AS SELECT * FROM history WHERE model = '{literal}'")
        yield Table(str(url), connection, chosen, tuple(models))
