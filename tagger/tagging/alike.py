"""Images of a results table that look alike: near-duplicates, by their embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tagger.tagging.aggregates import TAGGED, Row, Table

COMPARED = 20_000
"""Maximum number of images that are compared pairwise."""
NARROWED = 1_000_000
"""Table size up to which DuckDB chooses the images to compare; of a larger table, the first ones read are compared."""
SIMILARITY = 0.9
"""Minimum cosine similarity to a group's first image; benchmarks/alike.py compares this value with others."""
_BLOCK = 512

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Alike:
    """Groups of near-duplicates; exact copies count once."""

    compared: int = 0
    images: int = 0
    """Images in groups."""
    groups: int = 0
    shown: list[Row] = field(default_factory=list)
    """The largest groups: number of images, uris, and scores (similarity to the first image)."""


def near_duplicates(table: Table, images: int, model_id: str, shown: int, examples: int) -> Alike | None:
    """Return the largest groups of images that look alike; None for a table without embeddings.

    `images` is the number of tagged images in the view `latest`. Of many, all images of some tags are compared.
    """
    if not table.rows("SELECT 1 FROM mine WHERE embedding IS NOT NULL LIMIT 1"):
        return None
    narrowed = COMPARED < images <= NARROWED
    if narrowed:
        _choose(table)
    rows = _embedded(table, "SEMI JOIN chosen USING (uri, run_id)" if narrowed else "", model_id)
    return _grouped(rows, shown, examples)


def _choose(table: Table) -> None:
    """Create the table `chosen`: all rows of top tags drawn by their hash, until there are COMPARED rows."""
    table.rows(
        f"""
        CREATE TEMP TABLE chosen AS WITH counts AS (
            SELECT top_tag, count(*) AS images FROM latest WHERE {TAGGED} GROUP BY ALL HAVING count(*) > 1
        ), drawn AS (
            SELECT top_tag FROM (SELECT *, sum(images) OVER (ORDER BY hash(top_tag), top_tag) AS total FROM counts)
            WHERE total - images < {COMPARED}
        )
        SELECT uri, run_id FROM latest SEMI JOIN drawn USING (top_tag) WHERE {TAGGED}
        """
    )


def _embedded(table: Table, join: str, model_id: str) -> pa.Table:
    """Return uri and embedding of the images to compare, one per image_id, sorted by uri."""
    table.rows(
        f"""
        CREATE TEMP TABLE embedded AS SELECT uri, run_id, image_id, embedding FROM mine {join}
        WHERE embedding IS NOT NULL AND {TAGGED} AND model_id = $model_id LIMIT {COMPARED}
        """,
        model_id=model_id,
    )
    return table.arrow(
        """
        SELECT uri, embedding FROM embedded SEMI JOIN latest USING (uri, run_id)
        QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY uri) = 1 ORDER BY uri
        """
    )


def _grouped(rows: pa.Table, shown: int, examples: int) -> Alike:
    """Group images (uri, embedding) that look alike; the largest groups get some uris with their similarities."""
    if not len(rows):
        return Alike()
    lists = rows["embedding"].combine_chunks()
    vectors = unit(np.asarray(lists.flatten(), np.float32).reshape(len(lists), -1))
    leaders = leading(vectors)
    sizes = np.bincount(leaders, minlength=len(leaders))
    largest = [int(row) for row in np.argsort(-sizes, kind="stable")[:shown] if sizes[row] > 1]
    groups = [_group(rows["uri"], vectors, np.flatnonzero(leaders == row)[:examples], sizes[row]) for row in largest]
    return Alike(len(rows), int(sizes[sizes > 1].sum()), int((sizes > 1).sum()), groups)


def _group(uris: pa.ChunkedArray, vectors: FloatArray, members: npt.NDArray[np.int64], size: int) -> Row:
    scores = vectors[members] @ vectors[members[0]]
    return {"images": int(size), "uris": uris.take(pa.array(members)).to_pylist(), "scores": scores.tolist()}


def unit(embeddings: FloatArray) -> FloatArray:
    """Return the signed square roots of embeddings (N, D), scaled to unit length.

    This keeps a few large values from dominating (power normalisation, Perronnin et al. 2010).
    """
    roots = np.sign(embeddings) * np.sqrt(np.abs(embeddings))
    scaled: FloatArray = roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-9)
    return scaled


def leading(vectors: FloatArray, similarity: float = SIMILARITY) -> npt.NDArray[np.int64]:
    """Return for each unit vector (N, D) the first row of its group: its own if it is unlike all earlier groups.

    All vectors of a group are similar to the first one, so a chain of small changes does not become one group.
    """
    leaders = np.full(len(vectors), -1, np.int64)
    for start in range(0, len(vectors), _BLOCK):
        alike = vectors[start : start + _BLOCK] @ vectors[start:].T >= similarity
        for row, near in enumerate(alike, start):
            if leaders[row] < 0:
                leaders[row] = row
                leaders[start:][near & (leaders[start:] < 0)] = row
    return leaders
