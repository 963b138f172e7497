"""The Arrow schema and the footer of every table. Columns are only ever added, nullable."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.errors import TableError

VERSION = 1
ROW_GROUP = 65_536

_TIME = pa.timestamp("us", tz="UTC")
_SCORED = pa.list_(pa.struct([("tag", pa.string()), ("score", pa.float32())]))

KEY = pa.schema([("uri", pa.string()), ("bytes", pa.int64()), ("modified_at", _TIME), ("etag", pa.string())])
"""What identifies one version of one file."""

MANIFEST = pa.schema([*KEY, ("labels", pa.list_(pa.string())), ("split", pa.string())])

RESULTS = pa.schema(
    [
        *KEY,
        ("image_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("tags", _SCORED),
        ("candidates", _SCORED),
        ("top_tag", pa.string()),
        ("top_score", pa.float32()),
        ("embedding", pa.list_(pa.float32())),
        ("model", pa.string()),
        ("model_id", pa.string()),
        ("settings_id", pa.string()),
        ("engine", pa.string()),
        ("run_id", pa.string()),
        ("tagged_at", _TIME),
    ]
)

PLAN = pa.schema([*KEY, ("wanted", pa.int64())])
"""`wanted` has bit i set when model i of the run is to tag the file."""

BENCHMARK = pa.schema(
    [
        ("model", pa.string()),
        ("title", pa.string()),
        ("seed", pa.int64()),
        ("accuracy", pa.float64()),
        ("accuracy_low", pa.float64()),
        ("accuracy_high", pa.float64()),
        ("accuracy_tta", pa.float64()),
        ("log_loss", pa.float64()),
        ("calibration_error", pa.float64()),
        ("parameters", pa.int64()),
        ("flops", pa.int64()),
        ("epochs", pa.int64()),
        ("train_seconds", pa.float64()),
        ("train_images_per_second", pa.float64()),
        ("infer_one_core", pa.float64()),
        ("infer_all_cores", pa.float64()),
        ("memory_bytes", pa.int64()),
        ("device", pa.string()),
        ("versions", pa.list_(pa.string())),
        ("note", pa.string()),
        ("cut", pa.string()),
    ]
)
"""One row per model and seed of a ladder; accuracies are of the test images, `flops` of one image, forward.

`accuracy_tta`, of nets that learn from mirrored and shifted images: the mean over six such views of each test image.
"""

SCHEMAS: dict[str, pa.Schema] = {"manifest": MANIFEST, "results": RESULTS, "plan": PLAN, "benchmark": BENCHMARK}

STATUSES = ("ok", "corrupt", "unsupported", "unreadable", "too_large", "failed")


def serialise(table: pa.Table, kind: str, row_group: int = ROW_GROUP, **footer: str) -> bytes:
    """Return the table as the bytes of a whole Parquet file with our footer; `footer` adds `tagger.<key>` entries."""
    entries = {"table": kind, "schema": str(VERSION), **footer}
    metadata = {f"tagger.{key}": value for key, value in entries.items()}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd", row_group_size=row_group)
    return sink.getvalue()


def footer_of(schema: pa.Schema) -> dict[str, str]:
    """Return our footer entries without their prefix; empty for a file that is not ours."""
    found = {
        key.decode(): value.decode() for key, value in (schema.metadata or {}).items() if key.startswith(b"tagger.")
    }
    return {key.removeprefix("tagger."): value for key, value in found.items()}


def check_footer(schema: pa.Schema, kind: str, name: str) -> dict[str, str]:
    """Return the footer of a table of this kind, or raise TableError when it is foreign or newer."""
    footer = footer_of(schema)
    if footer.get("table") != kind:
        what = f"a tagger {footer['table']} table" if "table" in footer else "not written by tagger"
        columns = ", ".join(schema.names[:8])
        raise TableError(f"{name}: expected a {kind} table, but this is {what} (columns: {columns})")
    version = footer.get("schema", "")
    if not version.isdigit() or int(version) > VERSION:
        raise TableError(f"{name}: written with schema {version or 'unknown'}, newer than {VERSION}; upgrade tagger")
    return footer


def conform(table: pa.Table, kind: str) -> pa.Table:
    """Give an older table today's columns: what it lacks reads as null, what we do not know is dropped."""
    schema = SCHEMAS[kind]
    columns = [
        table[field.name].cast(field.type) if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def from_rows(rows: list[Mapping[str, Any]], kind: str) -> pa.Table:
    """Build a table of this kind from dictionaries; missing keys become null."""
    return pa.Table.from_pylist(rows, schema=SCHEMAS[kind])
