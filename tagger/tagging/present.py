"""The last listing of each source, in `_manifests/` of the results: the files that still exist."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa

from tagger import schema, storage

MANIFESTS = "_manifests"


def write_listing(out: str, source: str, files: pa.Table) -> None:
    """Replace the last listing of a source; it holds uris only."""
    source = storage.public_uri(source if storage.is_remote(source) else storage.absolute(source))
    name = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()[:16]
    content = schema.serialise(files.select(["uri"]), "manifest", source=source)
    storage.write_atomic(storage.join(out, f"{MANIFESTS}/{name}.parquet"), content)


def listings(out: str) -> list[str]:
    """Return the uris of the listings of a results folder."""
    folder = storage.join(out, MANIFESTS)
    return [storage.join(folder, name) for name in storage.names_in(folder) or [] if name.endswith(".parquet")]


def present(out: str) -> pa.ChunkedArray | None:
    """Return the uris of files in the last listing of any source; None for a table without listings."""
    found = listings(out)
    return pa.concat_tables(listed(found))["uri"] if found else None


def listed(uris: Sequence[str]) -> Iterator[pa.Table]:
    """Yield an empty table, then the uris of these listings as tables, duplicates included."""
    yield schema.MANIFEST.empty_table().select(["uri"])
    for uri in uris:
        with storage.open_input(uri) as file, schema.named_damage(uri):
            for batch in schema.open_parquet(file).iter_batches(columns=["uri"]):
                yield pa.Table.from_batches([batch])


def rows_listed(uris: Sequence[str]) -> int:
    """Return the number of uris in these listings, from their footers."""
    count = 0
    for uri in uris:
        with storage.open_input(uri) as file, schema.named_damage(uri):
            count += schema.open_parquet(file).metadata.num_rows
    return count
