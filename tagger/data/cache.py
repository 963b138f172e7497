"""What was computed of an image, kept by image_id under the cache folder: a second run decodes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from tagger import storage
from tagger.checkpoint.info import fingerprint

SCHEMA = pa.schema([("image_id", pa.string()), ("value", pa.binary())])


def read(name: str) -> dict[str, bytes]:
    """Return image_id -> bytes of everything kept under a name; damaged files are dropped."""
    folder = _folder(name)
    known: dict[str, bytes] = {}
    for file_name in storage.names_in(folder) or []:
        if not file_name.endswith(".parquet"):
            continue
        uri = storage.join(folder, file_name)
        try:
            with storage.open_input(uri) as file:
                table = pq.read_table(file, schema=SCHEMA)
        except (pa.ArrowInvalid, OSError):
            storage.remove(uri)
            continue
        known.update(zip(table["image_id"].to_pylist(), table["value"].to_pylist(), strict=True))
    return known


def write(name: str, found: Mapping[str, bytes]) -> None:
    """Keep more under a name."""
    if not found:
        return
    table = pa.table([pa.array(list(found)), pa.array(list(found.values()), pa.binary())], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    uri = storage.join(_folder(name), f"{fingerprint(sorted(found))}.parquet")
    storage.write_atomic(uri, sink.getvalue().to_pybytes())


def _folder(name: str) -> str:
    return storage.local_uri(str(storage.cache_folder() / name))
