"""Vertex AI import files: JSON lines with `imageGcsUri` and one or several `classificationAnnotation`s."""

from __future__ import annotations

from collections.abc import Iterator

from tagger.data.labels import tables
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, dicts, split_of, unique

SOURCE = "imageGcsUri"
_SPLIT = "aiplatform.googleapis.com/ml_use"


def matches(file: LabelFile) -> bool:
    """Return whether these are JSON lines with the URL of an image."""
    return file.kind == "jsonl" and SOURCE in file.columns


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per line; one without annotation is unlabelled, one with an empty list is known to have none."""
    for name, row in tables.json_images(file, SOURCE, notes):
        if "boundingBoxAnnotations" in row:
            notes.add("lines with boxes, which were ignored", name)
        several = row.get("classificationAnnotations")
        given = dicts(several if isinstance(several, list) else [row.get("classificationAnnotation")])
        labels = unique(str(annotation.get("displayName") or "") for annotation in given)
        resources = row.get("dataItemResourceLabels")
        use = str(resources.get(_SPLIT) or "") if isinstance(resources, dict) else ""
        yield Record(name, labels or (() if several == [] else None), split_of(use, notes))


FORMAT = Format("vertex", "JSON lines with imageGcsUri and classificationAnnotation", matches, read, "jsonl")
