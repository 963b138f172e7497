"""Source and label files -> a manifest on disk, and what there is to say about it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tagger import schema, storage
from tagger.data import labels as label_files
from tagger.data import manifest
from tagger.data.labels import Labels, LabelSource, Notes
from tagger.data.manifest import Manifest, counts_text
from tagger.errors import SourceError, TableError, UsageError
from tagger.storage import StrPath

_CLASSES_SHOWN = 20


@dataclass(frozen=True)
class Ingested(Manifest):
    """A manifest and where its labels came from."""

    label_source: LabelSource | None = None
    labels: Labels | None = None
    notes: Notes = field(default_factory=Notes)
    why_none: str = ""
    """When there is no label source."""

    def text(self) -> str:
        """Say what was found, which labels, how many per class and split, and what deserves a warning."""
        lines = [super().text(), *self._label_lines()]
        return "\n".join([*lines, *(f"warning: {line}" for line in self.notes.lines())])

    def counts(self) -> dict[str, Any]:
        """Return the same as one JSON-able object."""
        counts: dict[str, Any] = {"found": len(self), "skipped": dict(self.skipped), "labels": None}
        if self.labels and self.label_source:
            counts["labels"] = {
                "format": self.label_source.format.name,
                "files": [storage.redact(file.uri) for file in self.label_source.files],
                "multi_label": self.labels.multi_label,
                "classes": dict(self.labels.classes),
                "labelled": self._labelled(self.labels),
                "known_none": self.labels.known_none,
                "unlabelled": self.labels.unlabelled,
                "splits": dict(self.labels.splits),
                "matched_rows": self.labels.matched_rows,
            }
        return {**counts, "warnings": self.notes.rows()}

    def _label_lines(self) -> list[str]:
        if not (self.labels and self.label_source):
            kept = len(self) - int(self.table["labels"].null_count)
            return [f"labels: {kept:,} rows keep those of the manifest" if kept else f"labels: none ({self.why_none})"]
        found, kind = self.labels, "multi-label" if self.labels.multi_label else "single-label"
        shown = [f"  {name}: {count:,}" for name, count in list(found.classes.items())[:_CLASSES_SHOWN]]
        if (more := len(found.classes) - _CLASSES_SHOWN) > 0:
            shown.append(f"  and {more:,} more")
        without = f" (such as {', '.join(found.unlabelled_examples)})" if found.unlabelled else ""
        origin = f"{self.label_source.format.name} ({self.label_source.name})"
        lines = [
            f"labels: {origin}, {kind}, {len(found.classes):,} class{'es' * (len(found.classes) != 1)}",
            *shown,
            f"{self._labelled(found):,} labelled, {found.known_none:,} known to have none, "
            f"{found.unlabelled:,} unlabelled{without}",
        ]
        if found.splits:
            open_rows = len(self) - found.splits.total()
            rest = {"in none": open_rows} if open_rows else {}
            lines.append(f"splits: {counts_text({**found.splits, **rest})}")
        return lines

    def _labelled(self, found: Labels) -> int:
        return len(self) - found.known_none - found.unlabelled


def ingest(
    source: StrPath,
    out: StrPath,
    labels: StrPath | None = None,
    label_format: str = "auto",
    label_delimiter: str | None = None,
    label_names: str | None = None,
    merge_rows: bool = False,
    on_found: Callable[[int], None] = lambda found: None,
) -> Ingested:
    """List a source, find its labels and write its manifest.

    `labels` is a label file or a folder of them; without it label files in the root of the source, else class folders,
    are taken when there are any. `label_format` is auto, none or a name in tagger.labels.FORMATS; `label_delimiter`
    separates the labels of a cell; `label_names` is a file of class names by id; `merge_rows` takes the labels of all
    rows of an image together. Raises SourceError, also where `labels` has none of the images, TableError or UsageError.
    """
    source, out = os.fspath(source), os.fspath(out)
    labels = None if labels is None else os.fspath(labels)
    label_names = None if label_names is None else os.fspath(label_names)
    out_uri = storage.absolute(out)
    if not out_uri.endswith(".parquet"):
        raise UsageError(f"--out {out}: a manifest is one file and its name ends in .parquet")
    if storage.exists(out_uri):
        _refuse_foreign(out_uri)
    ingested = read_labelled(source, labels, label_format, label_delimiter, label_names, merge_rows, on_found)
    if labels:
        _refuse_without_labels(ingested, source, labels)
    storage.write_atomic(out_uri, schema.serialise(ingested.table, "manifest"))
    return ingested


def _refuse_without_labels(ingested: Ingested, source: str, labels: str) -> None:
    """Raise an error when the label file that the user named gives no image a label or a split."""
    found, label_source = ingested.labels, ingested.label_source
    if not found or not label_source or found.splits or len(ingested) > found.unlabelled:
        return
    why = "; ".join(ingested.notes.lines()) or "it has no rows"
    if not found.matched_rows:
        raise SourceError(f"--labels {labels}: no image of {source} is in it ({why}); nothing was written")
    form = label_source.format
    raise TableError(
        f"--labels {labels}: read as {form.name}, gives no image a label ({why}). "
        f"Its first row: {label_source.sample}. Expected: {form.shape}. Try another --label-format; nothing was written"
    )


def read_labelled(
    source: str,
    labels: str | None = None,
    label_format: str = "auto",
    label_delimiter: str | None = None,
    label_names: str | None = None,
    merge_rows: bool = False,
    on_found: Callable[[int], None] = lambda found: None,
) -> Ingested:
    """List a source and find its labels, as ingest() does, without writing a manifest."""
    options = label_files.read_options(label_delimiter, label_names, merge_rows)
    return _with_labels(manifest.read_source(source, on_found), source, labels, label_format, options)


def _with_labels(
    found: Manifest, source: str, labels: str | None, label_format: str, options: label_files.Options
) -> Ingested:
    notes, root, table = Notes(), _root_of(source), found.table
    uris: list[str] = table["uri"].to_pylist()
    label_source = label_files.find(labels, label_format, root, uris, notes)
    if isinstance(label_source, str):
        return Ingested(table, found.skipped, notes=notes, why_none=label_source)
    records = label_files.read(label_source, options, notes, root)
    merges = label_source.format.merges or options.merge_rows
    joined = label_files.join(uris, records, _folders(source, root), merges, notes)
    for name, column in (("labels", joined.labels), ("split", joined.split)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.chunked_array([column]))
    return Ingested(table, found.skipped, label_source, joined, notes)


def _root_of(source: str) -> str | None:
    """Return the folder or bucket that a source is; None for a file, a glob, a list or a manifest."""
    if manifest.is_glob(source) or manifest.list_suffix(source):
        return None
    uri = storage.absolute(source)
    if storage.is_remote(uri):
        if uri != storage.public_uri(uri):
            return None  # label files match their names against uris, which hold no credentials
        return None if storage.is_image_name(uri) or uri.startswith(("http://", "https://")) else uri
    return uri if os.path.isdir(storage.local_path(uri)) else None


def _folders(source: str, root: str | None) -> Sequence[str]:
    """Return where relative names may start besides the label file's own folder."""
    if root is None:
        root = storage.public_uri(storage.parent(storage.absolute(source)))
    return (root, storage.absolute("."))


def _refuse_foreign(uri: str) -> None:
    """A manifest may be replaced by a newer one; anything else in its place is somebody's."""
    try:
        with storage.open_input(uri) as file:
            footer = schema.footer_of(pq.read_schema(file))
    except (pa.ArrowInvalid, SourceError):
        footer = {}
    if footer.get("table") != "manifest":
        raise TableError(f"{uri}: exists and is not a tagger manifest; choose another --out, nothing was overwritten")
