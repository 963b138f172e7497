"""The label formats, in the order in which they are tried: the first that takes a file's content wins."""

from __future__ import annotations

from tagger.data.labels import (
    automl,
    azure,
    class_folders,
    cntk_map,
    coco,
    cvat_imagenet,
    cvat_xml,
    fiftyone,
    label_column,
    label_studio,
    one_hot,
)
from tagger.data.labels.record import Format

FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        azure.FORMAT,
        coco.FORMAT,
        fiftyone.FORMAT,
        *label_studio.FORMATS,
        cvat_xml.FORMAT,
        automl.FORMAT,
        cntk_map.FORMAT,
        one_hot.FORMAT,
        *label_column.FORMATS,
        cvat_imagenet.FORMAT,
        class_folders.FORMAT,
    )
}
