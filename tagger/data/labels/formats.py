"""The label formats, in the order of detection: the first that matches a file's content is used."""

from __future__ import annotations

from tagger.data.labels import (
    automl,
    azure,
    celeba,
    class_folders,
    cntk_map,
    coco,
    cub,
    cvat_imagenet,
    cvat_xml,
    fiftyone,
    label_column,
    label_studio,
    labelme,
    one_hot,
    reviewed,
    sagemaker,
    sidecar_text,
    text_list,
    vertex,
    via,
    voc,
    xmp,
)
from tagger.data.labels.record import Format

FORMATS: dict[str, Format] = {
    known.name: known
    for known in (
        reviewed.FORMAT,
        azure.FORMAT,
        coco.FORMAT,
        fiftyone.FORMAT,
        via.FORMAT,
        labelme.FORMAT,
        sagemaker.FORMAT,
        vertex.FORMAT,
        *label_studio.FORMATS,
        cvat_xml.FORMAT,
        automl.FORMAT,
        cntk_map.FORMAT,
        celeba.FORMAT,
        one_hot.FORMAT,
        *label_column.FORMATS,
        cvat_imagenet.FORMAT,
        voc.FORMAT,
        cub.FORMAT,
        text_list.FORMAT,
        sidecar_text.FORMAT,
        xmp.FORMAT,
        class_folders.FORMAT,
    )
}
