"""Labels as people have them: one reader per format, one place that matches them to files.

A new format is one file with a `FORMAT` and a line in `formats.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tagger import storage
from tagger.data.config import LabelOptions
from tagger.data.labels import azure, text
from tagger.data.labels.finding import LabelSource, find, split_of_folder
from tagger.data.labels.formats import FORMATS
from tagger.data.labels.joining import Joined, class_counts, join
from tagger.data.labels.moved import follow
from tagger.data.labels.names import read_names
from tagger.data.labels.record import EXAMPLES, Format, Notes, Options, Record, names_of

__all__ = [
    "EXAMPLES",
    "FORMATS",
    "Format",
    "Joined",
    "LabelSource",
    "Notes",
    "Options",
    "Record",
    "class_counts",
    "find",
    "follow",
    "join",
    "read",
    "read_options",
]


def read(source: LabelSource, options: Options, notes: Notes, root: str | None = None) -> Iterator[tuple[str, Record]]:
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
    """Read the file of class names, or a saved list of Azure's GetTags.

    Raises UsageError when it holds none.
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
