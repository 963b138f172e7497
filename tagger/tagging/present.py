"""The last listing of each source, in `_manifests/` beside the results: it tells which files are still there."""

from __future__ import annotations

import hashlib

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
    """Return the uris of files that the last listing of any source has; None for a table without listings."""
    tables = []
    for uri in listings(out):
        with storage.open_input(uri) as file, schema.named_damage(uri):
            tables.append(schema.open_parquet(file).read(["uri"]))
    return pa.concat_tables(tables)["uri"] if tables else None
