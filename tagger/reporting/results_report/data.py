"""The facts of the report, from SQL queries that return only counts or a few rows, whatever the size of the table."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from tagger import storage
from tagger.reporting.histogram import BINS
from tagger.reporting.results_report.card import Card, find_card
from tagger.storage import StrPath
from tagger.tagging.aggregates import GENERATION, RANK, TAGGED, Row, Table, open_table
from tagger.tagging.alike import Alike, near_duplicates

LISTED = 30
"""Tags in the table of tags."""
SHOWN = 12
"""Tags with a histogram and thumbnails."""
STRIP = 6
"""Number of images with the highest, and with the lowest, scores of a tag."""
UNCERTAIN = 18
GROUPS = 8
"""Maximum number of groups of duplicates, and of changes of tags."""
EXAMPLES = 3
ALIKE = 6
"""Maximum number of groups of near-duplicates, each with at most ALIKE_EXAMPLES images."""
ALIKE_EXAMPLES = 4

_COLUMNS = (
    "uri", "image_id", "bytes", "width", "height", "format", "status", "error", "tags", "top_tag", "top_score",
    "unknown", "model_id", "run_id", "tagged_at",
)  # fmt: skip
_BIN = f"least(greatest(floor(score * {BINS}), 0), {BINS - 1})::INTEGER"


@dataclass(frozen=True)
class TagFacts:
    """One tag: the images that have it."""

    tag: str
    images: int
    mean_score: float
    histogram: list[int]
    most_sure: list[Row]
    """uri, score"""
    least_sure: list[Row]


@dataclass(frozen=True)
class ResultsReport:
    """The facts of a report."""

    name: str
    model: str
    models: tuple[Row, ...]
    totals: Row
    """files, tagged, truncated, failed, bytes, unknown (null if the model cannot detect them), untagged, uncertain,
    first, last, megapixels"""
    formats: list[Row]
    failures: list[Row]
    """status, files, examples (uri, error)"""
    histogram: list[int]
    """Histogram of the best score of each image."""
    tags: list[TagFacts]
    """Most frequent first; after the first SHOWN, without images."""
    other_tags: int
    uncertain: list[Row]
    """uri, tag, score"""
    duplicates: Row
    """groups, images, bytes"""
    groups: list[Row]
    """copies, uris"""
    alike: Alike | None
    """None without embeddings."""
    changes: Row | None
    """Changes by the last run; None if it is the first."""
    switched: list[Row]
    """before, now, files"""
    shifted: list[Row]
    """tag, before, now: shares of images"""
    card: Card | None

    def uris(self) -> list[str]:
        """Return the uris of the images on the page, in its order."""
        of_tags = [row for tag in self.tags for row in (*tag.most_sure, *tag.least_sure)]
        alike = [uri for group in (self.alike.shown if self.alike else ()) for uri in group["uris"]]
        return [row["uri"] for row in (*of_tags, *self.uncertain)] + [group["uris"][0] for group in self.groups] + alike


def gather(url: StrPath, model: str | None = None, checkpoints: str = "checkpoints") -> ResultsReport:
    """Read the facts of one model's latest rows, by default of the model tagged last.

    Raises SourceNotFound, UsageError for a model that is not in the table, or TableError for a damaged part.
    """
    with open_table(url, model) as table:
        table.create_latest(_COLUMNS)
        tags, other_tags = _tags(table)
        changes, switched, shifted = _changes(table)
        duplicates, groups = _duplicates(table)
        ids = table.rows(f"SELECT model_id, count(*) AS files FROM latest WHERE {TAGGED} GROUP BY ALL ORDER BY ALL")
        totals, versions = _totals(table), {row["model_id"]: row["files"] for row in ids}
        newest = max(versions, key=lambda each: versions[each], default="")
        return ResultsReport(
            name=storage.public_uri(str(url)),
            model=table.model,
            models=table.models,
            totals=totals,
            formats=table.rows(
                "SELECT format, count(*) AS files FROM latest WHERE format IS NOT NULL GROUP BY ALL ORDER BY 2 DESC, 1"
            ),
            failures=_failures(table),
            histogram=_histogram(table),
            tags=tags,
            other_tags=other_tags,
            uncertain=table.rows(
                f"SELECT uri, top_tag AS tag, top_score AS score FROM latest WHERE {TAGGED} AND top_score IS NOT NULL "
                f"ORDER BY top_score, uri LIMIT {UNCERTAIN}"
            ),
            duplicates=duplicates,
            groups=groups,
            alike=near_duplicates(table, totals["tagged"], newest, ALIKE, ALIKE_EXAMPLES),
            changes=changes,
            switched=switched,
            shifted=shifted,
            card=find_card(table.model, versions, checkpoints),
        )


def _totals(table: Table) -> Row:
    return table.row(
        f"""
        SELECT count(*) AS files, count(*) FILTER ({TAGGED}) AS tagged,
               count(*) FILTER (status = 'truncated') AS truncated, count(*) FILTER (NOT {TAGGED}) AS failed,
               sum(bytes)::BIGINT AS bytes, sum(unknown::INTEGER) AS unknown,
               count(*) FILTER ({TAGGED} AND len(tags) = 0 AND unknown IS NOT TRUE) AS untagged,
               count(*) FILTER ({TAGGED} AND top_score < 0.5) AS uncertain,
               min(tagged_at) AS first, max(tagged_at) AS last,
               approx_quantile(width::DOUBLE * height / 1e6, [0.05, 0.5, 0.95]) AS megapixels
        FROM latest
        """
    )


def _failures(table: Table) -> list[Row]:
    return table.rows(
        f"""
        SELECT status, count(*) AS files, min({{'uri': uri, 'error': error}}, {EXAMPLES}) AS examples
        FROM latest WHERE status <> 'ok' GROUP BY ALL ORDER BY files DESC, status
        """
    )


def _histogram(table: Table) -> list[int]:
    counted = table.rows(
        f"SELECT {_BIN} AS bin, count(*) AS images FROM (SELECT top_score AS score FROM latest WHERE {TAGGED}) "
        "WHERE score IS NOT NULL GROUP BY ALL"
    )
    return _filled(counted)


def _filled(rows: list[Row]) -> list[int]:
    counts = {row["bin"]: row["images"] for row in rows}
    return [counts.get(place, 0) for place in range(BINS)]


def _tags(table: Table) -> tuple[list[TagFacts], int]:
    """Return the most frequent tags, and the number of the others."""
    pairs = f"SELECT uri, unnest(tags) AS pair FROM latest WHERE {TAGGED}"
    table.rows(
        f"""
        CREATE TEMP TABLE scored AS SELECT pair.tag AS tag, {_BIN.replace("score", "pair.score")} AS bin,
            count(*) AS images, sum(pair.score) AS total FROM ({pairs}) GROUP BY ALL
        """
    )
    listed = table.rows(
        f"""
        SELECT tag, sum(images)::BIGINT AS images, sum(total) / sum(images) AS mean
        FROM scored GROUP BY tag ORDER BY images DESC, tag LIMIT {LISTED}
        """
    )
    others = table.row("SELECT count(DISTINCT tag) AS tags FROM scored")["tags"] - len(listed)
    shown = [row["tag"] for row in listed[:SHOWN]]
    bins: dict[str, list[Row]] = defaultdict(list)
    for row in table.rows("SELECT tag, bin, images FROM scored WHERE tag IN $shown", shown=shown) if shown else ():
        bins[row["tag"]].append(row)
    extremes = _extremes(table, pairs, shown)
    return [
        TagFacts(row["tag"], row["images"], row["mean"], _filled(bins[row["tag"]]), *extremes.get(row["tag"], ([], [])))
        for row in listed
    ], others


def _extremes(table: Table, pairs: str, shown: list[str]) -> dict[str, tuple[list[Row], list[Row]]]:
    """Return for each tag the images with the highest scores, and others with the lowest."""
    if not shown:
        return {}
    best = "{'score': pair.score, 'uri': uri}"
    rows = table.rows(
        f"SELECT pair.tag AS tag, max({best}, {STRIP}) AS most, min({best}, {STRIP}) AS least "
        f"FROM ({pairs}) WHERE pair.tag IN $shown GROUP BY ALL",
        shown=shown,
    )
    return {
        row["tag"]: (
            row["most"],
            [each for each in row["least"] if each["uri"] not in {one["uri"] for one in row["most"]}],
        )
        for row in rows
    }


def _duplicates(table: Table) -> tuple[Row, list[Row]]:
    """Return counts of exact copies, and the largest groups, by a 64-bit hash of the SHA-256."""
    table.rows(
        """
        CREATE TEMP TABLE copied AS SELECT hash(image_id) AS key, count(*) AS copies, any_value(bytes) AS bytes
        FROM latest WHERE image_id IS NOT NULL GROUP BY key HAVING count(*) > 1
        """
    )
    totals = table.row(
        "SELECT count(*) AS groups, coalesce(sum(copies), 0)::BIGINT AS images, "
        "coalesce(sum((copies - 1) * bytes), 0)::BIGINT AS bytes FROM copied"
    )
    groups = table.rows(
        f"""
        WITH largest AS MATERIALIZED (SELECT key FROM copied ORDER BY copies DESC, key LIMIT {GROUPS})
        SELECT count(*) AS copies, min(uri, {EXAMPLES}) AS uris FROM latest JOIN largest ON hash(image_id) = key
        GROUP BY key ORDER BY copies DESC, uris
        """
    )
    return totals, groups


def _changes(table: Table) -> tuple[Row | None, list[Row], list[Row]]:
    """Compare the last generation with the latest rows before it."""
    last = table.row(f"SELECT max({GENERATION}) AS last, min({GENERATION}) AS first FROM mine")
    if last["last"] == last["first"]:
        return None, [], []
    names = "uri, image_id, status, top_tag, run_id"
    table.rows(f"CREATE TEMP TABLE newest AS SELECT {names} FROM latest WHERE {GENERATION} = $last", last=last["last"])
    table.rows(
        f"""
        CREATE TEMP TABLE compared AS SELECT newest.*, previous.uri IS NULL AS new,
            previous.image_id AS image_before, previous.status AS status_before, previous.top_tag AS tag_before
        FROM newest LEFT JOIN (
            SELECT {names} FROM (
                SELECT * FROM mine SEMI JOIN newest ON mine.uri = newest.uri WHERE {GENERATION} < $last
            ) QUALIFY {RANK} = 1
        ) AS previous ON newest.uri = previous.uri
        """,
        last=last["last"],
    )
    before = TAGGED.replace("status", "status_before")
    changes = table.row(
        f"""
        SELECT max(run_id) AS run_id, count(*) AS files, count(*) FILTER (new) AS new,
               count(*) FILTER (image_id <> image_before) AS changed,
               count(*) FILTER (image_id = image_before) AS same,
               count(*) FILTER (NOT new AND {TAGGED} AND {before} AND top_tag <> tag_before) AS switched,
               count(*) FILTER (NOT {TAGGED} AND (new OR {before})) AS newly_failed,
               count(*) FILTER ({TAGGED} AND NOT new AND NOT {before}) AS mended
        FROM compared
        """
    )
    switched = table.rows(
        f"""
        SELECT tag_before AS before, top_tag AS now, count(*) AS files FROM compared
        WHERE NOT new AND top_tag <> tag_before GROUP BY ALL ORDER BY files DESC, before, now LIMIT {GROUPS}
        """
    )
    return changes, switched, _shifted(table, last["last"])


def _shifted(table: Table, last: str) -> list[Row]:
    """Return the tags whose share of the images differs most between the last run and all earlier ones."""
    return table.rows(
        f"""
        WITH counts AS (
            SELECT top_tag AS tag, count(*) FILTER ({GENERATION} < $last) AS before,
                   count(*) FILTER ({GENERATION} = $last) AS now
            FROM latest WHERE {TAGGED} AND top_tag IS NOT NULL GROUP BY ALL
        ), shares AS (
            SELECT tag, before / sum(before) OVER () AS before, now / sum(now) OVER () AS now FROM counts
        )
        SELECT * FROM shares WHERE isfinite(before) AND isfinite(now) AND before <> now
        ORDER BY abs(now - before) DESC, tag LIMIT {GROUPS}
        """,
        last=last,
    )
