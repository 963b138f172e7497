"""Labels as people have them: one reader per format, one place that matches them to files.

A new format is one file with a `FORMAT` and a line in `FORMATS`; the first that takes a file's content wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from tagger import storage
from tagger.data.labels import (
    automl,
    azure,
    class_folders,
    cntk_map,
    coco,
    cvat_imagenet,
    cvat_xml,
    fiftyone,
    finding,
    label_column,
    label_studio,
    label_studio_rows,
    one_hot,
    text,
)
from tagger.data.labels.finding import LabelSource
from tagger.data.labels.joining import Labels, join
from tagger.data.labels.names import read_names
from tagger.data.labels.record import Format, Notes, Options, Record, named
from tagger.errors import UsageError

FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        azure.FORMAT,
        coco.FORMAT,
        fiftyone.FORMAT,
        label_studio.FORMAT,
        label_studio_rows.FORMAT,
        cvat_xml.FORMAT,
        automl.FORMAT,
        cntk_map.FORMAT,
        one_hot.FORMAT,
        *label_column.FORMATS,
        cvat_imagenet.FORMAT,
        class_folders.FORMAT,
    )
}
"""In the order in which they are asked."""

__all__ = [
    "FORMATS",
    "Format",
    "LabelSource",
    "Labels",
    "Notes",
    "Options",
    "Record",
    "find",
    "join",
    "read",
    "read_options",
]


def find(
    labels: str | None, label_format: str, root: str | None, listing: Sequence[str], notes: Notes
) -> LabelSource | str:
    """Return the label files that were named, or those of the source's root; without any, the reason.

    Raises UsageError for an unknown format, TableError when no format takes the content.
    """
    if label_format not in ("auto", "none", *FORMATS):
        raise UsageError(f"--label-format {label_format}: expected auto, none or one of {', '.join(FORMATS)}")
    wanted, formats = FORMATS.get(label_format), tuple(FORMATS.values())
    if label_format == "none":
        if labels:
            raise UsageError(f"--labels {labels} and --label-format none: use one of them")
        return "switched off"
    if labels or wanted:
        place = labels or root
        if place is None:
            raise UsageError(f"--label-format {label_format}: add --labels FILE; the source is no folder")
        return finding.named_source(place, wanted, formats, listing, notes)
    if root is None:
        return "the source is no folder; add --labels FILE"
    return finding.root_source(root, formats, listing, notes)


def read(source: LabelSource, options: Options, notes: Notes, root: str | None = None) -> Iterator[tuple[str, Record]]:
    """Yield (folder of the label file, record); a folder in the root called after a split says so of its rows."""
    for file in source.files:
        split = finding.split_of_folder(file, root)
        found = 0
        for record in _with_names(source.format.read(file, options, notes), options.names, notes):
            found += 1
            yield file.folder, record if record.split else record._replace(split=split)
        if not found:
            notes.add("label files without a row", storage.redact(file.uri))


def read_options(delimiter: str | None, names: str | None, merge_rows: bool = False) -> Options:
    """Read the file of class names, or a saved list of Azure's GetTags.

    Raises UsageError when it holds none.
    """
    if names is None:
        return Options(delimiter, merge_rows=merge_rows)
    uri = storage.absolute(names)
    with text.open_text(uri, text.encoding_of(uri)) as file:
        is_list = file.read(1 << 16).strip("\ufeff \t\r\n").startswith("[")
    if is_list and (tags := azure.read_tags(uri)):
        return Options(delimiter, tags=tags, merge_rows=merge_rows)
    return Options(delimiter, read_names(names), merge_rows=merge_rows)


def _with_names(records: Iterable[Record], names: Mapping[str, str], notes: Notes) -> Iterator[Record]:
    """Turn ids into names where names were given; labels that are neither are unknown classes."""
    if not names:
        yield from records
        return
    known = set(names.values())
    for record in records:
        if record.labels and not known.issuperset(record.labels):
            record = record._replace(labels=_named(record.labels, known, names, notes) or None)
        yield record._replace(negatives=_named(record.negatives, known, names, notes)) if record.negatives else record


def _named(labels: Iterable[str], known: set[str], names: Mapping[str, str], notes: Notes) -> tuple[str, ...]:
    found = (label if label in known else named(label, names, notes) for label in labels)
    return tuple(label for label in found if label is not None)
