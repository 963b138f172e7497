"""Classes that a label file names: ids become names, and those without an image are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_files import by_name, ingest, notes_of, write_images

CLASS_LABEL = {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_images(tmp_path / "source", [f"{index}.jpg" for index in range(1, 7)])


def hugging_face(path: Path, feature: object, labels: list[object]) -> Path:
    """Write a Parquet file as `datasets` does: ids in the column, their names in the metadata."""
    table = pa.table({"file_name": [f"{at}.jpg" for at, _ in enumerate(labels, 1)], "label": labels})
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(
    ("feature", "labels", "expected"),
    [
        (CLASS_LABEL, [0, 1, 1, -1, None], {"1.jpg": ["cat"], "2.jpg": ["dog"], "3.jpg": ["dog"]}),
        (CLASS_LABEL, [0, 1, 7], {"1.jpg": ["cat"], "2.jpg": ["dog"], "3.jpg": ["7"]}),
        ({"feature": CLASS_LABEL, "_type": "Sequence"}, [[0, 1], []], {"1.jpg": ["cat", "dog"], "2.jpg": []}),
        ([CLASS_LABEL], [[0], [1]], {"1.jpg": ["cat"], "2.jpg": ["dog"]}),
        ({"dtype": "int64", "_type": "Value"}, [0, 1], {"1.jpg": ["0"], "2.jpg": ["1"]}),
    ],
)
def test_class_labels_of_hugging_face_are_names(
    source: Path, tmp_path: Path, feature: object, labels: list[object], expected: dict[str, list[str]]
) -> None:
    found = ingest(source, hugging_face(tmp_path / "l.parquet", feature, labels))
    assert by_name(found) == expected
    assert ("classes without an image: 1 (owl)" in notes_of(found)) == ("Value" not in str(feature))


def test_foreign_metadata_of_a_parquet_file_does_no_harm(source: Path, tmp_path: Path) -> None:
    for metadata in (b"{", b"[]", b'{"info": null}', b'{"info": {"features": {"label": [[]]}}}'):
        table = pa.table({"file_name": ["1.jpg"], "label": [0]}).replace_schema_metadata({b"huggingface": metadata})
        pq.write_table(table, tmp_path / "l.parquet")
        assert by_name(ingest(source, tmp_path / "l.parquet")) == {"1.jpg": ["0"]}


CVAT = (
    "<annotations><meta><task><labels><label><name>cat</name><type>any</type></label><label><name>owl</name></label>"
    "<label><name>box</name><type>rectangle</type><attributes><attribute><name>x</name></attribute></attributes></label>"
    '</labels></task></meta><image id="0" name="1.jpg"><tag label="cat"/></image></annotations>'
)
COCO = {
    "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "gone.jpg"}],
    "annotations": [{"image_id": 1, "category_id": 1}, {"image_id": 2, "category_id": 2}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "owl"}],
}
TAGS = [{"id": name, "name": name, "imageCount": 1, "type": "Regular"} for name in ("cat", "owl")]
PAGE = [{"id": "1", "originalImageUri": "https://x/y", "tags": [{"tagId": "cat", "tagName": "cat"}]}]


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("a.xml", CVAT, None),
        ("l.json", COCO, None),
        ("labels.json", {"classes": ["cat", "owl"], "labels": {"1": 0}}, None),
        ("l.csv", "path,cat,owl\n1.jpg,1,0\n2.jpg,1,0\n", None),
        ("l.csv", "path,label\n1.jpg,0\n", "cat\nowl\n"),
        ("map.txt", "1.jpg\t0\n", "cat\nowl\n"),
        ("page.json", PAGE, json.dumps(TAGS)),
        ("l.csv", "ImageID,LabelName,Confidence\n1,/m/01,1\n", "/m/01,cat\n/m/02,owl\n"),
    ],
)
def test_classes_without_an_image_are_counted(
    source: Path, tmp_path: Path, name: str, content: object, names: str | None
) -> None:
    (tmp_path / "names.txt").write_text(names or "")
    found = ingest(source, tmp_path / name, content, label_names=names and str(tmp_path / "names.txt"))
    assert by_name(found)["1.jpg"] == ["cat"]
    assert "classes without an image: 1 (owl)" in notes_of(found)


def test_synsets_without_an_image_are_counted(source: Path, tmp_path: Path) -> None:
    (tmp_path / "synsets.txt").write_text("cat\nowl\n")
    assert "classes without an image: 1 (owl)" in notes_of(ingest(source, tmp_path / "val.txt", "1.jpg 0\n"))


def test_fiftyone_files_without_classes_and_with_boxes(source: Path, tmp_path: Path) -> None:
    box = {"label": "cat", "bounding_box": [0, 0, 1, 1], "confidence": 0.5}
    found = ingest(source, tmp_path / "labels.json", {"classes": None, "labels": {"1": "dog", "2": [box, box]}})
    assert by_name(found) == {"1.jpg": ["dog"], "2.jpg": ["cat"]}
    assert "images with boxes, which were ignored: 1 (data/2)" in notes_of(found)
    assert "classes without an image" not in notes_of(found)


def test_confidence_in_fiftyone_files(source: Path, tmp_path: Path) -> None:
    labels = {
        "1": {"label": 0, "confidence": 0.9}, "2": {"label": "dog", "confidence": 1.0, "attributes": {}},
        "3": {"label": 1, "confidence": 0}, "4": [{"label": 0, "confidence": 1}, {"label": 1, "confidence": 0.0}],
        "5": [{"label": 0, "confidence": 0}, {"label": 1, "confidence": 0}, {"label": "dog", "confidence": 0}],
        "6": {"label": None, "confidence": None},
    }  # fmt: skip
    found = ingest(source, tmp_path / "labels.json", {"classes": ["cat", "owl"], "labels": labels})
    assert by_name(found) == {"1.jpg": ["cat"], "2.jpg": ["dog"], "4.jpg": ["cat"], "5.jpg": []}
    assert "labels of confidence 0, which do not apply: 3 (data/3: owl, data/4: owl" in notes_of(found)
    assert "labels with a confidence between 0 and 1, which were used: 1 (data/1: 0.9)" in notes_of(found)
