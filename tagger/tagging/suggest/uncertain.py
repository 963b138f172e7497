"""Images of a results table to label next: uncertain, and unlike each other and the labelled images."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger import schema, storage
from tagger.checkpoint.unknown import Float32Array
from tagger.data import decisions, duplicates
from tagger.errors import AccessDenied, UsageError
from tagger.evaluation import selection
from tagger.storage import StrPath
from tagger.tagging.aggregates import TAGGED, open_table
from tagger.tagging.suggest import suggestions
from tagger.tagging.suggest.config import SuggestConfig
from tagger.tagging.suggest.suggestions import Suggestions

POOL = 5_000
"""Images to choose from: the most uncertain ones."""
CROWD = 5_000
"""Images, drawn by a hash of their names, that the chosen ones should represent."""
KNOWN = 2_000
"""Labelled images, which represent others already."""
READ = 1_000
"""Images that are read to find near-duplicates if the table has no embeddings."""

_LEFT_OUT = """
    CREATE TEMP TABLE left_out AS SELECT DISTINCT coalesce(image_id, uri) AS image FROM latest
    WHERE uri IN (SELECT name FROM labelled) OR image_id IN (SELECT name FROM labelled)
"""
_OPEN = f"""
    CREATE TEMP TABLE open AS SELECT uri, margin FROM (
        SELECT uri, coalesce(image_id, uri) AS image, {{margin}} AS margin FROM latest WHERE {TAGGED}
    ) WHERE margin < 2 AND image NOT IN (SELECT image FROM left_out)
    QUALIFY row_number() OVER (PARTITION BY image ORDER BY margin, uri) = 1
"""
_POOL = f"""
    SELECT uri, image_id, model_id, candidates[:{suggestions.SHOWN}] AS candidates, margin, embedding
    FROM latest JOIN (SELECT * FROM open ORDER BY margin, uri LIMIT {{most}}) USING (uri) ORDER BY margin, uri
"""
_CROWD = f"""
    SELECT model_id, embedding FROM latest
    JOIN (SELECT uri FROM latest WHERE {TAGGED} ORDER BY hash(uri) LIMIT {CROWD}) USING (uri)
"""
_KNOWN = f"""
    SELECT model_id, embedding FROM latest JOIN (
        SELECT uri FROM latest JOIN left_out ON coalesce(image_id, uri) = image ORDER BY hash(uri) LIMIT {KNOWN}
    ) USING (uri)
"""


def uncertain(url: StrPath, config: SuggestConfig) -> Suggestions:
    """Suggest images of a results table. Raises SourceNotFound, UsageError or TableError."""
    with open_table(url, config.model) as table:
        table.create_latest(("uri", "image_id", "status", "candidates", "embedding", "model_id"))
        table.connection.register("labelled", pa.table({"name": _labelled(config.labels)}))
        table.rows(_LEFT_OUT)
        table.rows(_OPEN.format(margin=table.margin()))
        found = table.row("SELECT count(*) AS images FROM open")["images"]
        labelled = table.row("SELECT count(*) AS images FROM left_out")["images"]
        pool = table.arrow(_POOL.format(most=POOL))
        crowd, known = table.arrow(_CROWD), table.arrow(_KNOWN)
    if not found:
        raise UsageError(f"{url}: no image of {table.model} is left to label; tag more, or omit --labels")
    notes = [f"{labelled:,} labelled images are left out"] * bool(labelled)
    if others := [row["model"] for row in table.models if row["model"] != table.model]:
        notes.append(f"the model is {table.model}, tagged last; --model chooses {' or '.join(others)}")
    rows, remarks = _spread(pool, crowd, known, config)
    chosen = [_row(row, table.model) for row in rows.to_pylist()]
    return Suggestions(suggestions.table_of(chosen), {"uncertain": found}, (*notes, *remarks))


def _row(row: dict[str, Any], model: str) -> dict[str, Any]:
    return {**row, "reason": "uncertain", "score": min(1.0, 1 - row["margin"]), "model": model}


def _labelled(labels: str | None) -> pa.Array:
    """Return the image_ids or uris of the images that are labelled in a labels table or a manifest."""
    if labels is None:
        return pa.array([], pa.string())
    uri = storage.absolute(labels)
    with storage.open_input(uri) as file, schema.named_damage(uri):
        parquet = schema.open_parquet(file)
        if schema.footer_of(parquet.schema_arrow).get("table") == "manifest":
            schema.check_footer(parquet.schema_arrow, "manifest", uri)
            found = schema.conform(parquet.read(["uri", "labels"]), "manifest")
            return found.filter(pc.is_valid(found["labels"]))["uri"]
    return decisions.image_of(decisions.latest(decisions.read(uri)))


def _spread(pool: pa.Table, crowd: pa.Table, known: pa.Table, config: SuggestConfig) -> tuple[pa.Table, list[str]]:
    """Return the rows of a pool that are unlike each other, and notes."""
    kind = _common_kind(pool)
    if kind is None:
        return _without_copies(pool, config)
    rows, everything, covered = (each.filter(_is_of(each, kind)) for each in (pool, crowd, known))
    uncertainty = 1 - np.clip(rows["margin"].to_numpy().astype(np.float32), 0, 1)
    chosen = selection.cover(
        _matrix(rows), uncertainty, _matrix(everything if len(everything) else rows), _matrix(covered), config.count
    )
    missing = len(pool) - len(rows)
    notes = [f"{missing:,} images without an embedding like the others are left out"] * bool(missing)
    return rows.take(pa.array(chosen, pa.int64())), notes


def _common_kind(pool: pa.Table) -> tuple[str, int] | None:
    """Return the most common (model_id, length) of embeddings; None if under half of the rows have embeddings."""
    kinds = Counter(zip(pool["model_id"].to_pylist(), pc.list_value_length(pool["embedding"]).to_pylist(), strict=True))
    has = {kind: number for kind, number in kinds.items() if kind[1]}
    return max(has, key=lambda kind: has[kind]) if 2 * sum(has.values()) >= len(pool) and has else None


def _is_of(rows: pa.Table, kind: tuple[str, int]) -> pa.Array:
    model_id, width = kind
    same = pc.equal(pc.list_value_length(rows["embedding"]), width)
    return pc.fill_null(pc.and_(pc.equal(rows["model_id"], model_id), same), False)


def _matrix(rows: pa.Table) -> Float32Array:
    """Return embeddings (N, D) of the same length."""
    lists = rows["embedding"].combine_chunks()
    return (
        np.asarray(lists.flatten(), dtype=np.float32).reshape(len(lists), -1)
        if len(lists)
        else np.empty((0, 0), np.float32)
    )


def _without_copies(pool: pa.Table, config: SuggestConfig) -> tuple[pa.Table, list[str]]:
    """Return the most uncertain rows, one per group of near-duplicates, which needs reading the images."""
    from tagger.data import scan  # imports torch

    first = pool.slice(0, max(READ, config.count))
    added = "`tagger tag SOURCE --embeddings` adds them"
    note = f"no embeddings ({added}): chosen by uncertainty alone, without near-duplicates"
    try:
        found = scan.scan(schema.conform(first.select(["uri"]), "manifest"))
    except AccessDenied as error:
        return first.slice(0, config.count), [f"{note} by image_id only: {error}"]
    groups = np.arange(len(first)) + len(first)
    groups[found.have] = duplicates.near_duplicates(found.fingerprints())
    chosen = np.sort(np.unique(groups, return_index=True)[1])[: config.count]
    remark = f"{int((~found.have).sum()):,} images cannot be read"
    return first.take(pa.array(chosen)), [note, *[remark] * (not found.have.all())]
