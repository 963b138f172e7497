"""Convert scored batches to rows of the results table, without a Python object per row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tagger import schema
from tagger.inference.batch import Batch, Predictions
from tagger.inference.pipeline import NOT_FINITE, source_of

_FACTS = ("image_id", "width", "height", "format", "status", "error")
_RUN = ("model", "model_id", "settings_id", "engine", "run_id", "tagged_at")
BATCH = pa.schema([field for field in schema.RESULTS if field.name not in _RUN])
"""Columns of a batch's rows; the others are the same in all rows of a model in a run."""


def batch_of(entries: pa.Table) -> Batch:
    """Return entries of a plan as a batch."""
    names = ("uri", "bytes", "location")
    columns = zip(*(entries[name].to_pylist() for name in names), strict=True)
    sources = [source_of(dict(zip(names, values, strict=True))) for values in columns]
    return Batch(sources, entries["wanted"].to_pylist(), entries, sum(entries["bytes"].drop_null().to_pylist()))


def rows_of(batch: Batch, model: int) -> tuple[pa.Table, Counter[str]]:
    """Return the rows of one model in a batch (columns of BATCH), and their number by status."""
    chosen = np.flatnonzero(np.asarray(batch.models) >> model & 1)
    predicted = batch.predictions[model] or Predictions([], {}, [])
    status, error = list(batch.facts.status), list(batch.facts.error)
    for number in predicted.failed:
        status[number], error[number] = "failed", NOT_FINITE
    everything = len(chosen) == len(batch)
    place = np.full(len(batch), -1)
    place[predicted.rows] = np.arange(len(predicted.rows))
    facts = {**vars(batch.facts), "status": status, "error": error}
    columns = []
    for field in BATCH:
        if field.name in _FACTS:
            column = pa.array(facts[field.name], field.type)
        elif field.name in schema.KEY.names:
            column = batch.key[field.name]
        else:
            columns.append(_placed(predicted.columns.get(field.name), place[chosen], field))
            continue
        columns.append(column if everything else column.take(pa.array(chosen)))
    counts = Counter(status if everything else [status[row] for row in chosen])
    return pa.Table.from_arrays(columns, schema=BATCH), counts


def _placed(column: pa.Array | None, place: npt.NDArray[np.int64], field: pa.Field) -> pa.Array:
    """Put the values of scored files into their rows; the others are null."""
    if column is None:
        return pa.nulls(len(place), field.type)
    if len(column) == len(place) and (place >= 0).all():
        return column
    return column.take(pa.array(place, mask=place < 0))


def finished(rows: Sequence[Sequence[pa.Table]], columns: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Combine the rows of a shard, add the columns of the run to those of each model, and sort."""
    tables = [_completed(pa.concat_tables(mine), fixed) for mine, fixed in zip(rows, columns, strict=True) if mine]
    return pa.concat_tables(tables).sort_by([("uri", "ascending"), ("model", "ascending")])


def _completed(table: pa.Table, fixed: Mapping[str, Any]) -> pa.Table:
    columns = [
        pa.repeat(pa.scalar(fixed[field.name], field.type), len(table)) if field.name in fixed else table[field.name]
        for field in schema.RESULTS
    ]
    return pa.Table.from_arrays(columns, schema=schema.RESULTS)
