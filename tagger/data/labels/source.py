"""The files of a source with their labels from label files, folders or sidecars."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tagger import storage
from tagger.data import manifest
from tagger.data.config import DEFAULTS, LabelOptions
from tagger.data.labels import azure, text
from tagger.data.labels.finding import LabelSource, find, split_of_folder
from tagger.data.labels.joining import class_counts, join
from tagger.data.labels.moved import follow
from tagger.data.labels.names import read_names
from tagger.data.labels.record import EXAMPLES, Notes, Options, Record, names_of
from tagger.data.manifest import Manifest, counts_text
from tagger.errors import SourceError, TableError, UsageError

_CLASSES_SHOWN = 20


@dataclass(frozen=True)
class Ingested(Manifest):
    """A manifest and where its labels came from."""

    label_source: LabelSource | None = None
    matched_rows: int = 0
    """Rows of the label files that match a listed file."""
    notes: Notes = field(default_factory=Notes)
    why_none: str = ""
    """The reason why there is no label source."""

    def text(self) -> str:
        """Return the files found, the labels, the images per class and split, and the warnings, in lines."""
        lines = [super().text(), *self._label_lines()]
        return "\n".join([*lines, *(f"warning: {line}" for line in self.notes.lines())])

    def counts(self) -> dict[str, Any]:
        """Return the same facts as a JSON-serialisable object."""
        labels = self._label_counts() if self.label_source else None
        return {"found": len(self), "skipped": dict(self.skipped), "labels": labels, "warnings": self.notes.rows()}

    def _label_counts(self) -> dict[str, Any]:
        sizes = pc.list_value_length(self.table["labels"])
        none = int(pc.sum(pc.equal(sizes, 0)).as_py() or 0)
        files = self.label_source.files if self.label_source else ()
        return {
            "format": self.label_source and self.label_source.format.name,
            "files": [storage.redact(file.uri) for file in files],
            "multi_label": bool(pc.any(pc.not_equal(sizes, 1)).as_py()),
            "classes": class_counts(self.table["labels"]),
            "labelled": len(self) - none - sizes.null_count,
            "known_none": none,
            "unlabelled": sizes.null_count,
            "splits": dict(Counter(split for split in self.table["split"].to_pylist() if split)),
            "matched_rows": self.matched_rows,
        }

    def _label_lines(self) -> list[str]:
        found = self._label_counts()
        if not self.label_source:
            rows = len(self) - found["unlabelled"]
            return [
                f"labels: {rows:,} rows with the labels of the manifest" if rows else f"labels: none ({self.why_none})"
            ]
        classes, splits, kind = found["classes"], found["splits"], "multi" if found["multi_label"] else "single"
        open_rows = self.table.filter(pc.is_null(self.table["labels"]))["uri"].slice(0, EXAMPLES).to_pylist()
        without = f" (such as {', '.join(open_rows)})" if open_rows else ""
        lines = [
            f"labels: {found['format']} ({self.label_source.name}), {kind}-label, "
            f"{len(classes):,} class{'es' * (len(classes) != 1)}",
            *(f"  {name}: {count:,}" for name, count in islice(classes.items(), _CLASSES_SHOWN)),
            *([f"  and {len(classes) - _CLASSES_SHOWN:,} more"] if len(classes) > _CLASSES_SHOWN else []),
            f"{found['labelled']:,} labelled, {found['known_none']:,} known to have none, "
            f"{found['unlabelled']:,} unlabelled{without}",
        ]
        if splits:
            rest = len(self) - sum(splits.values())
            lines.append(f"splits: {counts_text({**splits, **({'in none': rest} if rest else {})})}")
        return lines


def read_labelled(
    source: str,
    options: LabelOptions = DEFAULTS,
    on_found: Callable[[int], None] = lambda found: None,
) -> Ingested:
    """List a source and find its labels, as ingest() does, without writing a manifest."""
    reading = read_options(options)  # before a long listing
    return _labelled(source, manifest.read_source(source, on_found), options, reading)


def corrected(source: str, found: Ingested, labels: str) -> Ingested:
    """Return a source with its labels replaced by those of a file; images not in the file keep theirs."""
    over = _labelled(source, found, LabelOptions(labels=labels), Options())
    refuse_without_labels(over, source, labels)
    place = found.table.schema.get_field_index("labels")
    merged = pc.coalesce(over.table["labels"], found.table["labels"])
    return replace(over, table=over.table.set_column(place, "labels", merged))


def refuse_without_labels(ingested: Ingested, source: str, labels: str) -> None:
    """Raise an error if the label file named by the user has no label or split for any image."""
    label_source, table = ingested.label_source, ingested.table
    given = min(table["labels"].null_count, table["split"].null_count) < len(table)
    if not label_source or (ingested.matched_rows and given):
        return
    why = "; ".join(ingested.notes.lines()) or "it has no rows"
    if not ingested.matched_rows:
        raise SourceError(f"--labels {labels}: has no image of {source} ({why}); nothing was written")
    form = label_source.format
    raise TableError(
        f"--labels {labels}: read as {form.name}, gives no image a label ({why}). "
        f"Its first row: {label_source.sample}. Expected: {form.shape}. Try another --label-format; nothing was written"
    )


def _labelled(source: str, found: Manifest, options: LabelOptions, reading: Options) -> Ingested:
    """Find the labels of a listed source."""
    notes, root, table = Notes(), _root_of(source), found.table
    uris: list[str] = table["uri"].to_pylist()
    label_source = find(options, root, uris, notes)
    if options.label_field and (isinstance(label_source, str) or not label_source.format.has_fields):
        shown = label_source if isinstance(label_source, str) else f"{label_source.name} answers one question only"
        raise UsageError(f"--label-field {', '.join(options.label_field)}: {shown}; omit it")
    if isinstance(label_source, str):
        return Ingested(table, found.skipped, notes=notes, why_none=label_source)
    records = read_records(label_source, reading, notes, root)
    merges = label_source.format.merges or options.merge_rows
    followed = follow(records, lambda: dict(zip(uris, manifest.locations(found.table), strict=True)), notes)
    joined = join(uris, followed, _folders(source, root), merges, notes)
    for name, column in (("labels", joined.labels), ("split", joined.split)):
        chunked = pa.chunked_array([column])
        if label_source.format.corrects:
            chunked = pc.coalesce(chunked, table[name])
        table = table.set_column(table.schema.get_field_index(name), name, chunked)
    return Ingested(table, found.skipped, label_source, joined.matched_rows, notes)


def read_records(
    source: LabelSource, options: Options, notes: Notes, root: str | None = None
) -> Iterator[tuple[str, Record]]:
    """Yield (folder of the label file, record); a folder in the root called after a split gives its rows that split."""
    names = {**options.names, **{name: name for name in options.names.values()}}
    for file in source.files:
        split, found = split_of_folder(file, root), 0
        for record in source.format.read(file, options, notes):
            found += 1
            if names and record.labels:
                record = record._replace(labels=names_of(record.labels, names, notes) or None)
            if names and record.negatives:
                record = record._replace(negatives=names_of(record.negatives, names, notes))
            yield file.folder, record if record.split else record._replace(split=split)
        if not found:
            notes.add("label files without a row", storage.redact(file.uri))
    if names:
        notes.classes = dict.fromkeys(options.names.values())


def read_options(options: LabelOptions) -> Options:
    """Read the options, with the file of class names, or a saved list of Azure's GetTags.

    Raises UsageError if the file has no names.
    """
    reading = Options(options.label_delimiter, fields=options.label_field)
    if options.label_names is None:
        return reading
    uri = storage.absolute(options.label_names)
    with text.open_text(uri) as file:
        is_list = file.read(1 << 16).strip(text.BLANK).startswith("[")
    if is_list and (tags := azure.read_tags(uri)):
        return replace(reading, tags=tags)
    return replace(reading, names=read_names(options.label_names))


def _root_of(source: str) -> str | None:
    """Return the uri of a source that is a folder or bucket; None for a file, a glob, a list or a manifest."""
    if manifest.is_glob(source) or manifest.list_suffix(source):
        return None
    uri = storage.absolute(source)
    if storage.is_remote(uri):
        if uri != storage.public_uri(uri):
            return None  # names in label files are matched against uris, which have no credentials
        return None if storage.is_image_name(uri) or uri.startswith(("http://", "https://")) else uri
    return uri if os.path.isdir(storage.local_path(uri)) else None


def _folders(source: str, root: str | None) -> Sequence[str]:
    """Return the folders that names may be relative to, other than the folder of the label file."""
    if root is None:
        root = storage.public_uri(storage.parent(storage.absolute(source)))
    return (root, storage.absolute("."))
