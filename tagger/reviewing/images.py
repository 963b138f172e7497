"""The images of a review in DuckDB: the latest rows of one model, and the decisions about them."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from tagger import schema
from tagger.data import decisions
from tagger.errors import UsageError
from tagger.storage import StrPath
from tagger.tagging.aggregates import MEMORY, TAGGED, Row, Table, open_table

if TYPE_CHECKING:
    import duckdb

PAGE = 60
"""Number of images per page."""
SUGGESTED = 20
"""Maximum number of tags or folders that complete a typed text."""
FIXED = 9
"""Maximum number of tags for which each digit key always means the same tag."""
LAST = 1 << 40
"""Queue position of images that are not in the queue."""
NEIGHBOURS = 6
"""Number of nearest labelled images in the view of a single image."""
COMPARED = 10_000
"""Maximum number of labelled images, most recent first, that are compared with it."""
EMBEDDED = 100_000
"""Maximum number of images whose embeddings are loaded: those labelled before, then the least certain."""

_COLUMNS = (
    "uri", "image_id", "bytes", "width", "height", "format", "status", "error", "tags", "candidates", "top_tag",
    "top_score", "unknown_score", "unknown", "model_id", "tagged_at",
)  # fmt: skip
_OTHERS = """
    CREATE TEMP TABLE other AS
    SELECT uri, list({{'model': model, 'tag': top_tag, 'score': top_score}} ORDER BY model) AS others
    FROM (
        SELECT uri, model, top_tag, top_score, status FROM history WHERE model <> $mine {chosen}
        QUALIFY row_number() OVER (
            PARTITION BY uri, model ORDER BY left(run_id, 8) DESC, status <> 'ok', tagged_at DESC, run_id DESC
        ) = 1
    ) WHERE top_tag IS NOT NULL GROUP BY uri
"""
_QUEUED = """
    CREATE TEMP TABLE queued AS
    SELECT coalesce(image_id, uri) AS image, min(place) AS place, arg_min(reason, place) AS reason,
        CASE WHEN count(labels) > 0 THEN list_distinct(flatten(list(labels))) END AS given,
        arg_min(model_id, place) FILTER (labels IS NOT NULL) AS model_id,
        arg_min(candidates, place) FILTER (labels IS NOT NULL) AS candidates
    FROM queue GROUP BY image
"""
_SHOWN = f"""
    SELECT latest.* EXCLUDE (embedding) REPLACE (
        coalesce(queued.candidates[:1], latest.tags) AS tags,
        coalesce(queued.candidates, latest.candidates) AS candidates,
        coalesce(queued.model_id, latest.model_id) AS model_id
    ), coalesce(place, {LAST}) AS place, reason, given
    FROM latest LEFT JOIN queued ON coalesce(latest.image_id, latest.uri) = queued.image
"""
"""SQL: rows with their queue position. A labelled image of the queue has the queue's candidates, which come from a
model that was not trained on it."""
ORDERS = {
    "uncertain": ("margin",),
    "unknown": ("novelty", "margin"),
    "disagree": ("agrees", "margin"),
    "newest": ("age",),
    "tag": ("sort_tag", "margin"),
    "queue": ("place",),
}
"""Names of orders -> columns to sort by, none of them null; then the id."""


@dataclass(frozen=True)
class Query:
    """Filters and sort order of the grid."""

    sort: str = "uncertain"
    tag: str = ""
    folder: str = ""
    status: str = "tagged"
    reviewed: str = "no"
    disagree: bool = False
    unknown: bool = False

    def conditions(self) -> tuple[list[str], dict[str, object]]:
        """Return SQL conditions and the values of their parameters."""
        found, values = list[str](), dict[str, object]()
        if self.tag:
            found.append("(list_contains(names, $tag) OR list_contains(labels, $tag))")
            values["tag"] = self.tag
        if self.folder:
            found.append("starts_with(uri, $folder)")
            values["folder"] = self.folder.rstrip("/") + "/"
        if self.status in ("tagged", "failed"):
            found.append(TAGGED if self.status == "tagged" else f"NOT {TAGGED}")
        elif self.status != "all":
            found.append("status = $status")
            values["status"] = self.status
        if self.sort == "queue":
            found.append(f"place < {LAST}")
        if self.reviewed != "all":
            found.append(f"decided.key IS {'NOT' * (self.reviewed == 'yes')} NULL")
        return [*found, *["NOT agrees"] * self.disagree, *["unknown"] * self.unknown], values


class Images:
    """The images of a review. Reads may run concurrently; writes are serialised."""

    def __init__(
        self, table: str, model: str, others: Sequence[str], multilabel: bool, connection: duckdb.DuckDBPyConnection
    ) -> None:
        self.table, self.model, self.others, self.multilabel = table, model, others, multilabel
        self._connection, self._writing = connection, threading.Lock()

    def rows(self, sql: str, **values: object) -> list[Row]:
        """Return the rows of a query."""
        with self._connection.cursor() as cursor:
            found = cursor.execute(sql, values)
            names = [name for name, *_ in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def page(self, query: Query, after: int | None = None, limit: int = PAGE) -> list[Row]:
        """Return a page of images in the order of the query, starting after the image with the id `after`."""
        conditions, values = query.conditions()
        order = [*ORDERS[query.sort], "id"]
        if after is not None and (last := self.rows(f"SELECT {', '.join(order)} FROM images WHERE id = $id", id=after)):
            conditions.append(_beyond(order))
            values |= {f"last_{name}": value for name, value in last[0].items()}
        ids = self.rows(
            f"SELECT id FROM images LEFT JOIN decided ON images.key = decided.key WHERE {_all(conditions)} "
            f"ORDER BY {', '.join(order)} LIMIT {limit}",
            **values,
        )
        return self.find([row["id"] for row in ids])

    def find(self, ids: Sequence[int]) -> list[Row]:
        """Return images by their ids, in the same order; unknown ids are left out."""
        if not ids:
            return []
        listed = ", ".join(map(str, ids))
        rows = self.rows(
            f"SELECT images.*, labels, decider, decided_at FROM images LEFT JOIN decided ON images.key = decided.key "
            f"WHERE id IN ({listed})"
        )
        by_id = {row["id"]: row for row in rows}
        return [by_id[each] for each in ids if each in by_id]

    def source(self, image: int) -> tuple[str, str | None] | None:
        """Return uri and image_id of an image; None for an unknown id."""
        found = self.rows("SELECT uri, image_id FROM images WHERE id = $id", id=image)
        return (found[0]["uri"], found[0]["image_id"]) if found else None

    def counts(self, query: Query) -> Row:
        """Return how many images match the filters, and how many of them are reviewed."""
        conditions, values = replace(query, reviewed="all").conditions()
        return self.rows(
            "SELECT count(*) AS images, count(decided.key) AS reviewed "
            "FROM images LEFT JOIN decided ON images.key = decided.key "
            f"WHERE {_all(conditions)}",
            **values,
        )[0]

    def statuses(self) -> list[Row]:
        """Return every status with its number of images."""
        return self.rows("SELECT status, count(*) AS images FROM images GROUP BY ALL ORDER BY images DESC, status")

    def neighbours(self, image: int) -> list[Row]:
        """Return the nearest labelled images by the cosine of their embeddings, with their `similarity`."""
        found = self.rows(
            f"""
            SELECT near.id, list_cosine_similarity(near.embedding, this.embedding) AS similarity
            FROM embeddings AS this JOIN embeddings AS near
                ON near.model_id = this.model_id AND len(near.embedding) = len(this.embedding) AND near.key <> this.key
            WHERE this.id = $id AND near.key IN (SELECT key FROM decided ORDER BY decided_at DESC LIMIT {COMPARED})
            AND isfinite(similarity) ORDER BY similarity DESC, near.id LIMIT $most
            """,
            id=image,
            most=NEIGHBOURS,
        )
        similar = {row["id"]: row["similarity"] for row in found}
        return [{**row, "similarity": similar[row["id"]]} for row in self.find(list(similar))]

    def in_queue(self) -> int:
        """Return how many images of the queue are in the table."""
        return int(self.rows(f"SELECT count(DISTINCT key) AS images FROM images WHERE place < {LAST}")[0]["images"])

    def has_unknown(self) -> bool:
        """Return whether the model detects unknown images."""
        return bool(self.rows("SELECT id FROM images WHERE unknown IS NOT NULL LIMIT 1"))

    def tags(self, typed: str = "", limit: int = SUGGESTED) -> list[str]:
        """Return tags that contain the typed text: those that start with it first, then the most frequent."""
        found = self.rows(
            f"""
            SELECT tag FROM (
                SELECT tag, images FROM vocabulary
                UNION ALL SELECT unnest(labels), 1 FROM decided
            ) WHERE contains(lower(tag), lower($typed)) GROUP BY tag
            ORDER BY NOT starts_with(lower(tag), lower($typed)), sum(images) DESC, tag LIMIT {limit}
            """,
            typed=typed,
        )
        return [row["tag"] for row in found]

    def folders(self, typed: str = "") -> list[str]:
        """Return folders that contain the typed text, those with the most images first."""
        found = self.rows(
            f"SELECT folder FROM folders WHERE contains(lower(folder), lower($typed)) "
            f"ORDER BY images DESC, folder LIMIT {SUGGESTED}",
            typed=typed,
        )
        return [row["folder"] for row in found]

    def has_several(self) -> bool:
        """Return whether an image may have several tags, by its scores or by decisions."""
        return self.multilabel or bool(
            self.rows("SELECT id FROM images JOIN decided USING (key) WHERE len(labels) > 1 LIMIT 1")
        )

    def palette(self) -> list[str]:
        """Return the tags of the digit keys 1 to 9, in alphabetical order; none if there are more tags."""
        tags = self.tags(limit=FIXED + 1)
        return sorted(tags) if len(tags) <= FIXED else []

    def decide(self, rows: Sequence[decisions.Decision]) -> None:
        """Apply decisions that have been written to disk."""
        self._insert(schema.from_rows(rows, "labels"))

    def replace_decisions(self, table: pa.Table) -> None:
        """Replace all decisions by those of a labels table."""
        self._insert(decisions.latest(table), "true")

    def _insert(self, table: pa.Table, old: str = "key IN (SELECT hash(image) FROM made)") -> None:
        keyed = table.append_column("image", decisions.image_of(table))
        with self._writing, self._connection.cursor() as cursor:
            cursor.register("made", keyed)
            cursor.execute("BEGIN")
            cursor.execute(f"DELETE FROM decided WHERE {old}")
            cursor.execute(
                'INSERT INTO decided SELECT hash(image), labels, "by", decided_at FROM made WHERE labels IS NOT NULL'
            )
            cursor.execute("COMMIT")


def _all(conditions: Sequence[str]) -> str:
    return " AND ".join(conditions) or "true"


def _beyond(order: Sequence[str]) -> str:
    """Return the SQL condition for rows that sort after the one whose values are $last_…."""
    condition = "false"
    for name in reversed(order):
        condition = f"({name} > $last_{name} OR ({name} = $last_{name} AND {condition}))"
    return condition


@contextlib.contextmanager
def open_images(
    url: StrPath,
    model: str | None = None,
    against: str | None = None,
    queue: pa.Table | None = None,
    labels: pa.Table | None = None,
) -> Iterator[Images]:
    """Load a results table into a temporary database whose SQL cannot access any other file.

    `queue` has suggestions, `labels` the decisions so far. Raises SourceNotFound, UsageError for a model that is not in
    the table, or TableError for a damaged part.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/review.duckdb"  # on disk, where columns are compressed
        with open_table(url, model) as table:
            names = [row["model"] for row in table.models if row["model"] != table.model]
            if against is not None and against not in names:
                known = f"expected one of {', '.join(names)}" if names else "the results have no other model"
                raise UsageError(f"--against {against}: {known}")
            table.rows(f"ATTACH '{file}' AS review")
            table.create_latest((*_COLUMNS, "embedding"))
            multilabel = table.is_multilabel()
            _create(table, against, schema.SUGGESTIONS.empty_table() if queue is None else queue)
            _create_embeddings(table, schema.LABELS.empty_table() if labels is None else labels)
            table.rows("DETACH review")
        with contextlib.closing(_connect(file)) as connection:
            yield Images(str(url), table.model, tuple(names), multilabel, connection)


def _connect(file: str) -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect(file, config={"memory_limit": MEMORY})
    connection.execute("SET TimeZone = 'UTC'; SET enable_external_access = false; SET lock_configuration = true")
    return connection


def _create(table: Table, against: str | None, queue: pa.Table) -> None:
    """Create the tables of a review; ids are in order of uncertainty."""
    table.rows("SET preserve_insertion_order = true")
    chosen = {"chosen": against} if against else {}
    table.rows(_OTHERS.format(chosen="AND model = $chosen" * len(chosen)), mine=table.model, **chosen)
    place = pa.array(range(len(queue)), pa.int64())
    table.connection.register("queue", queue.append_column("place", place))
    table.rows(_QUEUED)
    table.rows(
        f"""
        CREATE TABLE review.images AS
        SELECT row_number() OVER () AS id, * FROM (
            SELECT shown.*, others, hash(coalesce(image_id, uri)) AS key,
                list_distinct([pair.tag for pair in list_concat(tags, candidates[1:1])]) AS names,
                {table.margin()} AS margin,
                coalesce(len([other.tag for other in others if other.tag <> top_tag]) = 0, true) AS agrees,
                coalesce(-epoch_us(tagged_at), 0) AS age,
                coalesce(-nullif(unknown_score, 'nan'::FLOAT), 'inf'::FLOAT) AS novelty,
                coalesce(tags[1].tag, top_tag, '') AS sort_tag
            FROM ({_SHOWN}) AS shown LEFT JOIN other USING (uri) ORDER BY margin, uri
        )
        """
    )
    table.rows(
        """
        CREATE TABLE review.vocabulary AS SELECT tag, count(*) AS images FROM (
            SELECT unnest([pair.tag for pair in list_concat(tags, candidates)]) AS tag FROM review.images
        ) GROUP BY tag
        """
    )
    table.rows(
        """
        CREATE TABLE review.folders AS SELECT regexp_replace(uri, '/[^/]*$', '') AS folder, count(*) AS images
        FROM review.images GROUP BY folder
        """
    )
    table.rows("CREATE TABLE review.decided (key UBIGINT, labels VARCHAR[], decider VARCHAR, decided_at TIMESTAMPTZ)")


def _create_embeddings(table: Table, labels: pa.Table) -> None:
    """Create the table of embeddings, of at most EMBEDDED images."""
    table.connection.register("labelled", pa.table({"image": decisions.image_of(labels)}))
    table.rows(
        f"""
        CREATE TABLE review.embeddings AS
        SELECT id, key, model_id, embedding FROM latest JOIN (
            SELECT min(id) AS id, key, arg_min(uri, id) AS uri FROM review.images WHERE {TAGGED} GROUP BY key
            ORDER BY key IN (SELECT hash(image) FROM labelled) DESC, min(place), min(id) LIMIT {EMBEDDED}
        ) USING (uri) WHERE embedding IS NOT NULL
        """
    )
