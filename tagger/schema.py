"""The Arrow schema and the footer of every table. Columns are only ever added, nullable."""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.errors import TableError, first_line

VERSION = 2
ROW_GROUP = 65_536

_TIME = pa.timestamp("us", tz="UTC")
_SCORED = pa.list_(pa.struct([("tag", pa.string()), ("score", pa.float32())]))

KEY = pa.schema([("uri", pa.string()), ("bytes", pa.int64()), ("modified_at", _TIME), ("etag", pa.string())])
"""Columns that identify one version of one file."""

FOUND = pa.schema([*KEY, ("location", pa.string())])
"""A file of a source. `location` is the URL to read, with its signature, if it differs from the `uri`; else null."""

MANIFEST = pa.schema([*FOUND, ("labels", pa.list_(pa.string())), ("split", pa.string())])

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
        ("unknown_score", pa.float32()),
        ("unknown", pa.bool_()),
        ("model", pa.string()),
        ("model_id", pa.string()),
        ("settings_id", pa.string()),
        ("engine", pa.string()),
        ("run_id", pa.string()),
        ("tagged_at", _TIME),
    ]
)

LABELS = pa.schema(
    [
        ("uri", pa.string()),
        ("image_id", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("previous", pa.list_(pa.string())),
        ("model_id", pa.string()),
        ("decided_at", _TIME),
        ("by", pa.string()),
    ]
)
"""One row per decision of a reviewer; the latest per image counts.

`labels`: [] = known to have none, null = an earlier decision was withdrawn. `previous`: the tags that the model gave.
"""

PLAN = pa.schema([*FOUND, ("wanted", pa.int64())])
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
"""One row per model and seed; accuracies are of the test images, `flops` of one image, forward.

`accuracy_tta`: with test-time augmentation, the mean over six views of each image. `cut`: what a time budget cut off.
"""

DRIFT = pa.schema(
    [
        ("model", pa.string()),
        ("reference", pa.string()),
        ("current", pa.string()),
        ("figure", pa.string()),
        ("tag", pa.string()),
        ("reference_images", pa.int64()),
        ("current_images", pa.int64()),
        ("reference_mean", pa.float64()),
        ("current_mean", pa.float64()),
        ("effect", pa.float64()),
        ("p_value", pa.float64()),
        ("limit", pa.float64()),
        ("drifted", pa.bool_()),
    ]
)
"""One row per figure of two periods of a results table; `reference` and `current` name the periods."""

SUGGESTIONS = pa.schema(
    [
        ("uri", pa.string()),
        ("image_id", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
        ("labels", pa.list_(pa.string())),
        ("candidates", _SCORED),
        ("copies", pa.list_(pa.string())),
        ("model", pa.string()),
        ("model_id", pa.string()),
    ]
)
"""One row per image to label or to check, most important first.

`reason`: uncertain, label (it looks wrong), duplicate (its copies have other labels), dark or blurred. `score`: 0 to 1,
the higher the clearer the reason. `labels`: those of the dataset. `candidates`: tags of the model, of a dataset those
of a model that has not seen the image. `copies`: uris of the near-duplicates with other labels.
"""

SCHEMAS: dict[str, pa.Schema] = {
    "manifest": MANIFEST,
    "results": RESULTS,
    "labels": LABELS,
    "plan": PLAN,
    "benchmark": BENCHMARK,
    "drift": DRIFT,
    "suggestions": SUGGESTIONS,
}

TAGGED = ("ok", "truncated")
"""Statuses of rows with tags; the tags of a truncated image are those of the part that decodes."""


def serialise(table: pa.Table, kind: str, row_group: int = ROW_GROUP, **footer: str) -> bytes:
    """Return the table as the bytes of a whole Parquet file with our footer; `footer` adds `tagger.<key>` entries."""
    entries = {"table": kind, "schema": str(VERSION), **footer}
    metadata = {f"tagger.{key}": value for key, value in entries.items()}
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata(metadata), sink,
        compression="zstd", row_group_size=row_group, write_page_checksum=True,
    )  # fmt: skip
    return _sealed(sink.getvalue())


_SEAL = b"TGCK"
_SEAL_LENGTH = 12
_END = 8
"""Bytes after a Parquet footer: its length and a magic number."""
_CHUNK = 1 << 20
TAIL = 1 << 16
"""Bytes at the end of a file that nearly always include its seal and footer."""
DAMAGE = (pa.ArrowException, OSError)
"""Errors of pyarrow on a damaged file."""


def _sealed(content: bytes) -> bytes:
    """Put a seal between pages and footer: _SEAL, the CRC-32 of the pages, the CRC-32 from the footer to the end.

    Parquet's own checksums cover neither page headers nor the footer. Other readers find pages by their offsets and
    never see the seal; a copy that they write has none.
    """
    start = len(content) - _footer_length(content)
    pages, footer = content[:start], content[start:]
    return pages + _SEAL + _crc(pages) + _crc(footer) + footer


def _footer_length(end: bytes) -> int:
    return _END + int.from_bytes(end[-_END : -_END + 4], "little")


def sealed_length(end: bytes) -> int:
    """Return the total length of the seal and the footer, from the last bytes of a file."""
    return _SEAL_LENGTH + _footer_length(end)


def is_whole(file: IO[bytes]) -> bool:
    """Return whether a file matches the checksums in its seal; true without a seal. Reads the file in chunks."""
    size = file.seek(0, io.SEEK_END)
    tail = _tail(file, size)
    seal = _seal_of(tail)
    if seal is None:
        return True
    return _footer_is_whole(tail) and seal[4:8] == _crc_of(file, size - sealed_length(tail))


def _tail(file: IO[bytes], size: int) -> bytes:
    """Return the end of a file, starting at the seal or earlier."""
    file.seek(max(0, size - TAIL))
    tail = file.read()
    if sealed_length(tail) > len(tail):
        file.seek(max(0, size - sealed_length(tail)))
        tail = file.read()
    return tail


def _seal_of(tail: bytes) -> bytes | None:
    """Return the seal before the footer; None without a seal."""
    end = len(tail) - _footer_length(tail)
    seal = tail[max(0, end - _SEAL_LENGTH) : max(0, end)]
    return seal if seal.startswith(_SEAL) and len(seal) == _SEAL_LENGTH else None


def _footer_is_whole(tail: bytes) -> bool:
    """Return whether the footer matches its checksum in the seal; true without a seal."""
    seal = _seal_of(tail)
    return seal is None or seal[8:] == _crc(tail[len(tail) - _footer_length(tail) :])


def _crc_of(file: IO[bytes], count: int) -> bytes:
    """Return the CRC-32 of the first `count` bytes of a file."""
    file.seek(0)
    value = 0
    while count > 0 and (chunk := file.read(min(count, _CHUNK))):
        value = zlib.crc32(chunk, value)
        count -= len(chunk)
    return value.to_bytes(4, "little")


def _crc(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")


def open_parquet(file: IO[bytes], pre_buffer: bool = False) -> pq.ParquetFile:
    """Open a Parquet file so that damage raises one of DAMAGE: in the footer now, in a page when it is read.

    `pre_buffer` combines reads, for stores with a high latency; everything that is read is then in memory at once.
    """
    if not _footer_is_whole(_tail(file, file.seek(0, io.SEEK_END))):
        raise pa.ArrowInvalid("the footer does not match its checksum")
    file.seek(0)
    return pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=pre_buffer)


@contextlib.contextmanager
def named_damage(name: str) -> Iterator[None]:
    """Translate pyarrow's errors about a damaged file into a TableError with the name of the file."""
    try:
        yield
    except DAMAGE as error:
        raise TableError(f"{name}: a damaged Parquet file ({first_line(error)}); write it again") from error


def footer_of(schema: pa.Schema) -> dict[str, str]:
    """Return our footer entries without their prefix; empty for a file that is not ours."""
    found = (schema.metadata or {}).items()
    return {key.decode().removeprefix("tagger."): value.decode() for key, value in found if key.startswith(b"tagger.")}


def check_footer(schema: pa.Schema, kind: str, name: str) -> dict[str, str]:
    """Return the footer of a table of this kind, or raise TableError when it is foreign or newer."""
    footer = footer_of(schema)
    if footer.get("table") != kind:
        what = f"a tagger {footer['table']} table" if "table" in footer else "not written by tagger"
        hint = "; pass it as --labels" if footer.get("table") == "labels" else ""
        columns = ", ".join(schema.names[:8])
        raise TableError(f"{name}: expected a {kind} table, but this is {what} (columns: {columns}){hint}")
    version = footer.get("schema", "")
    if not version.isdigit() or int(version) > VERSION:
        raise TableError(f"{name}: written with schema {version or 'unknown'}, newer than {VERSION}; upgrade tagger")
    return footer


def conform(table: pa.Table, kind: str) -> pa.Table:
    """Convert an older table to the current schema: missing columns become null, unknown ones are dropped."""
    schema = SCHEMAS[kind]
    columns = [
        table[field.name].cast(field.type) if field.name in table.schema.names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def without_locations(table: pa.Table) -> pa.Table:
    """Return a manifest without its locations, whose URLs may contain signatures; it is safe to publish."""
    place = table.schema.get_field_index("location")
    return table.set_column(place, FOUND.field("location"), pa.nulls(len(table), pa.string()))


def from_rows(rows: Sequence[Mapping[str, object]], kind: str) -> pa.Table:
    """Build a table of this kind from dictionaries; missing keys become null."""
    return pa.Table.from_pylist(rows, schema=SCHEMAS[kind])
