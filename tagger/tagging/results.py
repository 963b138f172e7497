"""The rows of a results table: all of them, or the latest of each file and model."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from tagger import schema, storage
from tagger.errors import SourceNotFound
from tagger.storage import StrPath
from tagger.tagging.parts import Parts, consistently, list_parts, read_rows

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

RUNS = "_runs"
IDLE = "--idle"
"""End of the name of the record of a run with nothing to do, in place of a random one."""

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
LATEST_SQL = f"left(run_id, 8) DESC, status NOT IN {schema.TAGGED}, tagged_at DESC, run_id DESC"
"""The same order in SQL, of the rows of one uri and model."""


def read_table(url: StrPath, columns: Sequence[str] | None = None) -> pa.Table:
    """Read all rows of a results folder, except those of damaged parts, which are named in a warning."""
    return consistently(lambda: _read_table(url, columns))


def _read_table(url: StrPath, columns: Sequence[str] | None) -> pa.Table:
    parts = existing_parts(url)
    wanted = list(columns or schema.RESULTS.names)
    rows, damaged = read_rows(
        parts.uris, [*wanted, *(name for name in ROW_KEY if parts.overlap and name not in wanted)]
    )
    warn_of_damage(url, damaged)
    return (distinct(rows) if parts.overlap else rows).select(wanted)


def distinct(table: pa.Table) -> pa.Table:
    """Return a table with each row once: the first with its ROW_KEY."""
    numbered = table.select(ROW_KEY).append_column("row", pa.array(range(len(table)), pa.int64()))
    first = numbered.group_by(list(ROW_KEY)).aggregate([("row", "min")])["row_min"]
    return table.take(first.sort())


def warn_of_damage(url: StrPath, damaged: Sequence[str]) -> None:
    """Name damaged parts in a warning."""
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
    warn_of_damage(url, parts.damaged)
    return parts
