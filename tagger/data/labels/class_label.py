"""Rows of Parquet files, in which the ids of Hugging Face's ClassLabel columns become class names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.data.labels.record import Notes

Names = Sequence[str]


def rows(
    parquet: pq.ParquetFile, columns: Sequence[str], notes: Notes, batch_size: int = 1 << 16
) -> Iterator[tuple[object, ...]]:
    """Yield the values of some columns of every row; their class names are added to the notes."""
    known = class_names(parquet.schema_arrow)
    names = [known.get(column, ()) for column in columns]
    notes.add_classes(name for of_column in names for name in of_column)
    for batch in parquet.iter_batches(batch_size, columns=list(dict.fromkeys(columns))):
        values = [batch.column(column).to_pylist() for column in columns]
        named = [[_named(cell, of) for cell in cells] if of else cells for cells, of in zip(values, names, strict=True)]
        yield from zip(*named, strict=True)


def class_names(schema: pa.Schema) -> Mapping[str, Names]:
    """Return column -> class names of columns with ClassLabels, or lists of them, from the metadata of `datasets`."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = found["info"]["features"]
        return {column: names for column, feature in features.items() if (names := _names(feature))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # metadata of another structure


def _names(feature: object) -> Names:
    """Return the class names of a feature: a ClassLabel, or a list of them as old and new versions write it."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names(feature[0])
    if not isinstance(feature, dict):
        return ()
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel" and isinstance(names, list):
        return tuple(map(str, names))
    return _names(feature.get("feature"))


def _named(cell: object, names: Names) -> object:
    """Return a cell with ids replaced by names; -1 is Hugging Face's id of an image without a label."""
    if isinstance(cell, list):
        return [_named(item, names) for item in cell]
    if not isinstance(cell, int) or cell == -1:
        return None if cell == -1 else cell
    return names[cell] if 0 <= cell < len(names) else str(cell)
