"""List a source, find its labels, and write a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tagger import schema, storage
from tagger.data import manifest
from tagger.data.config import LabelOptions
from tagger.data.labels.source import Ingested, read_labelled, refuse_without_labels
from tagger.errors import TableError, UsageError
from tagger.storage import StrPath


def ingest(
    source: StrPath,
    out: StrPath,
    labels: StrPath | None = None,
    on_found: Callable[[int], None] = lambda found: None,
    **options: Any,
) -> Ingested:
    """List a source, find its labels and write its manifest.

    `labels` is a label file or a folder of them; without it label files in the root of the source, else class folders,
    are taken when there are any. The other options are those of LabelOptions. Raises SourceError, also where `labels`
    has none of the images, TableError or UsageError.
    """
    given = {"labels": labels, **options}
    plain = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in given.items()}
    return write_manifest(os.fspath(source), os.fspath(out), LabelOptions(**plain), on_found)


def write_manifest(
    source: str, out: str, options: LabelOptions, on_found: Callable[[int], None] = lambda found: None
) -> Ingested:
    """List a source, find its labels and write its manifest, like ingest()."""
    out_uri = storage.absolute(out)
    if not out_uri.endswith(".parquet"):
        raise UsageError(f"--out {out}: a manifest is a single file whose name ends in .parquet")
    if storage.exists(out_uri):
        _refuse_foreign(out_uri)
    ingested = read_labelled(source, options, on_found)
    if options.labels:
        refuse_without_labels(ingested, source, options.labels)
    storage.write_atomic(out_uri, schema.serialise(ingested.table, "manifest"))
    return ingested


def _refuse_foreign(uri: str) -> None:
    """Raise TableError if the file would overwrite anything but a manifest."""
    if manifest.table_in(uri) != "manifest":
        raise TableError(f"{uri}: exists and is not a tagger manifest; choose another --out, nothing was overwritten")
