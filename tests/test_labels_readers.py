"""Label files of public data sets and annotation tools, as they look there."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from label_files import by_name, ingest, notes_of, splits, write_images

from tagger.data.labels.formats import FORMATS
from tagger.data.labels.source import Ingested
from tagger.errors import TableError, UsageError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_images(tmp_path / "source", [f"{index}.jpg" for index in range(1, 7)])


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def format_of(found: Ingested) -> str:
    assert found.label_source
    return found.label_source.format.name


# --- text lists -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("x/1.jpg 0\nx/2.JPG 65\n", {"1.jpg": ["0"], "2.jpg": ["65"]}),
        ("1.jpg 0 3\n2.jpg 1\n3.jpg\n4.jpg -1\n", {"1.jpg": ["0", "3"], "2.jpg": ["1"]}),
        ("1.jpg\t0\t3\n2.jpg\t1\t4\n", {"1.jpg": ["0", "3"], "2.jpg": ["1", "4"]}),
        ("1.jpg hot dog\n2.jpg cat\n", {"1.jpg": ["hot dog"], "2.jpg": ["cat"]}),
        ("1.jpg  tench, Tinca tinca\n2.jpg  cat\n", {"1.jpg": ["tench, Tinca tinca"], "2.jpg": ["cat"]}),
        ("1.jpg\thot dog\tred\n2.jpg\tcat\tblue\n", {"1.jpg": ["hot dog", "red"], "2.jpg": ["blue", "cat"]}),
        ('"1.jpg" cat\n2.jpg dog\n', {"1.jpg": ["cat"], "2.jpg": ["dog"]}),
        ("1.jpg 0 0 1\n2.jpg 1 1 0\n3.jpg 0 0 0\n", {"1.jpg": ["2"], "2.jpg": ["0", "1"], "3.jpg": []}),
        ("1.jpg -1 1 -1 1 -1\n2.jpg 1 -1 -1 -1 -1\n", {"1.jpg": ["1", "3"], "2.jpg": ["0"]}),
    ],
)
def test_text_lists_hold_a_label_or_ids(
    source: Path, tmp_path: Path, content: str, expected: dict[str, list[str]]
) -> None:
    write_images(source, ["2.JPG"] if ".JPG" in content else [])
    found = ingest(source, tmp_path / "val.txt", content)
    assert {name.replace("JPG", "jpg"): labels for name, labels in by_name(found).items()} == expected
    assert format_of(found) == "text-list"


def test_ids_of_a_text_list_get_names(source: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n")
    names = str(tmp_path / "names.txt")
    found = ingest(source, tmp_path / "val.txt", "1.jpg 0 2\n2.jpg 7\n", label_names=names)
    assert by_name(found) == {"1.jpg": ["cat", "owl"]}
    assert "classes without an image: 1 (dog)" in notes_of(found)
    vectors = ingest(source, tmp_path / "val.txt", "1.jpg 0 0 1\n2.jpg 1 1 0\n", label_names=names)
    assert by_name(vectors) == {"1.jpg": ["owl"], "2.jpg": ["cat", "dog"]}
    bare = ingest(source, tmp_path / "val.txt", "1.jpg 0\n")
    assert "files of class ids without names (add --label-names FILE): 1 (" in notes_of(bare)


@pytest.mark.parametrize(
    "content",
    [
        "1.jpg 2.jpg 0\n2.jpg 3.jpg 1\n",
        "1.jpg\n2.jpg\n",
        "1.jpg 3 4 20 30\n2.jpg 1 1 9 9\n",
        "1.jpg -1 0 1\n2.jpg 1 0 0\n",
        "a word\n1.jpg cat\n",
    ],
)
def test_pairs_boxes_and_bare_names_are_no_text_list(source: Path, tmp_path: Path, content: str) -> None:
    with pytest.raises(TableError, match="no label format matches"):
        ingest(source, tmp_path / "val.txt", content)


def test_lines_of_another_kind_in_a_text_list_are_counted(source: Path, tmp_path: Path) -> None:
    rows = "1.jpg 0\n" + "gone.jpg 1\n" * 1000 + "2.jpg hot dog\n3.jpg\n"
    found = ingest(source, tmp_path / "l.txt", rows)
    assert by_name(found) == {"1.jpg": ["0"]}
    assert "lines that are not an image and its labels: 1 (2.jpg hot dog)" in notes_of(found)


def test_words_of_a_text_list_are_separated_when_asked_for(source: Path, tmp_path: Path) -> None:
    found = ingest(source, tmp_path / "l.txt", "1.jpg cat red\n2.jpg dog\n", label_delimiter=" ")
    assert by_name(found) == {"1.jpg": ["cat", "red"], "2.jpg": ["dog"]}


def test_text_lists_of_a_folder_give_splits(source: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "meta", {"train.txt": "1.jpg 0\n2.jpg 1\n", "val.txt": "3.jpg 1\n"})
    found = ingest(source, folder)
    assert by_name(found) == {"1.jpg": ["0"], "2.jpg": ["1"], "3.jpg": ["1"]}
    assert splits(found) == {"1.jpg": "train", "2.jpg": "train", "3.jpg": "val"}


def test_image_sets_of_pascal_voc_are_read_together(source: Path, tmp_path: Path) -> None:
    main = write(tmp_path / "Main", {
        "cat_train.txt": "1 -1\n2  1\n", "cat_val.txt": "3  0\n4 -1\n", "cat_trainval.txt": "1 -1\n2  1\n3  0\n4 -1\n",
        "potted plant_train.txt": "1  1\n2  1\n", "potted plant_val.txt": "3 -1\n4 -1\n",
        "train.txt": "1\n2\n", "val.txt": "3\n4\n",
    })  # fmt: skip
    found = ingest(source, main)
    assert by_name(found) == {"1.jpg": ["potted plant"], "2.jpg": ["cat", "potted plant"], "4.jpg": []}
    assert splits(found) == {"1.jpg": "train", "2.jpg": "train", "3.jpg": "val", "4.jpg": "val"}
    assert "difficult objects, neither a label nor its absence: 2 (3: cat" in notes_of(found)
    assert by_name(ingest(source, main / "cat_train.txt")) == {"1.jpg": [], "2.jpg": ["cat"]}


CUB = {
    "images.txt": "1 001.Albatross/1.jpg\n2 002.Auk/2.jpg\n3 002.Auk/3.jpg\n",
    "image_class_labels.txt": "1 1\n2 2\n",
    "classes.txt": "1 001.Albatross\n2 Little Auk\n3 Owl\n",
    "train_test_split.txt": "1 1\n2 0\n3 1\n",
}


@pytest.mark.parametrize("labels", [None, "", "images.txt", "image_class_labels.txt"])
def test_the_lists_of_cub_are_joined_by_id(tmp_path: Path, labels: str | None) -> None:
    source = write_images(
        tmp_path / "cub", ["images/001.Albatross/1.jpg", "images/002.Auk/2.jpg", "images/002.Auk/3.jpg"]
    )
    write(source, CUB)
    found = ingest(source, None if labels is None else source / labels)
    assert by_name(found) == {"1.jpg": ["001.Albatross"], "2.jpg": ["Little Auk"]}
    assert splits(found) == {"1.jpg": "train", "2.jpg": "test", "3.jpg": "train"}
    assert "classes without an image: 1 (Owl)" in notes_of(found)


@pytest.mark.parametrize(
    ("name", "line"),
    [("images.txt", "1 002.Auk/2.jpg"), ("classes.txt", "1 Horse"), ("image_class_labels.txt", "1 2")],
)
def test_an_id_of_cub_with_two_values_is_an_error(tmp_path: Path, name: str, line: str) -> None:
    source = write_images(tmp_path / "cub", ["images/001.Albatross/1.jpg", "images/002.Auk/2.jpg"])
    write(source, {**CUB, name: f"{CUB[name]}{line}\n"})
    with pytest.raises(TableError, match=rf"{name}: id 1 has two values, .+ and {line[2:]}; remove one"):
        ingest(source)


@pytest.mark.parametrize("head", ["2\nBald Young\n", "Bald Young\n"])
def test_celeba_is_read_with_and_without_its_count(source: Path, tmp_path: Path, head: str) -> None:
    file, rows = tmp_path / "list_attr_celeba.txt", f"{head}1.jpg -1  1\n2.jpg -1 -1\n"
    assert by_name(ingest(source, file, rows)) == {"1.jpg": ["Young"], "2.jpg": []}
    found = ingest(source, file, f"{rows}\nodd line\n", label_format="celeba")
    assert by_name(found) == {"1.jpg": ["Young"], "2.jpg": []}
    assert "lines that are not an image and a value for each class: 1 (odd line)" in notes_of(found)
    assert "classes without an image: 1 (Bald)" in notes_of(found)


# --- JSON lines -------------------------------------------------------------------------------------------------------


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def classified(job: str, name: str, kind: str = "image-classification") -> dict[str, Any]:
    return {job: 3, f"{job}-metadata": {"class-name": name, "confidence": 0.9, "type": f"groundtruth/{kind}"}}


def test_sagemaker_manifests_hold_jobs_of_several_kinds(source: Path, tmp_path: Path) -> None:
    class_map = {"class-map": {"0": "cat", "1": "dog"}, "type": "groundtruth/image-classification-multilabel"}
    content = lines(
        {"source-ref": "s3://b/1.jpg", **classified("kind", "cat")},
        {"source-ref": "s3://b/2.jpg", "kind": [0, 1], "kind-metadata": class_map},
        {"source-ref": "s3://b/3.jpg", "kind": [], "kind-metadata": class_map},
        {"source-ref": "s3://b/4.jpg", "kind-metadata": {"failure-reason": "x"}, "kind": -1},
        {"source-ref": "s3://b/5.jpg"},
        {"source-ref": "s3://b/6.jpg", **classified("check", "good", "label-verification"),
         "box": {"annotations": []}, "box-metadata": {"class-map": {}, "type": "groundtruth/object-detection"}},
    )  # fmt: skip
    found = ingest(source, tmp_path / "output.manifest", content)
    assert by_name(found) == {"1.jpg": ["cat"], "2.jpg": ["cat", "dog"], "3.jpg": []}
    assert "jobs that failed, ignored: 1 (s3://b/4.jpg: kind)" in notes_of(found)
    assert "jobs that do not classify images, ignored: 2 (check (groundtruth/label-verification)" in notes_of(found)


def test_two_jobs_of_sagemaker_are_told_apart(source: Path, tmp_path: Path) -> None:
    content = lines({"source-ref": "s3://b/1.jpg", **classified("kind", "cat"), **classified("colour", "red")})
    with pytest.raises(UsageError, match="several questions, kind and colour; choose with --label-field"):
        ingest(source, tmp_path / "output.manifest", content)
    assert by_name(ingest(source, tmp_path / "output.manifest", content, label_field="colour")) == {"1.jpg": ["red"]}


def test_vertex_lines_hold_one_or_several_annotations_and_a_split(source: Path, tmp_path: Path) -> None:
    def row(at: int, **more: Any) -> dict[str, Any]:
        return {"imageGcsUri": f"gs://b/{at}.jpg", **more}

    use = {"dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": "training"}}
    content = lines(
        row(1, classificationAnnotation={"displayName": "cat"}, **use),
        row(2, classificationAnnotations=[{"displayName": "cat"}, {"displayName": "dog"}]),
        row(3, classificationAnnotations=[]),
        row(4),
        row(5, boundingBoxAnnotations=[{"displayName": "cat", "xMin": 0.1}]),
    )
    found = ingest(source, tmp_path / "import.jsonl", content)
    assert (by_name(found), splits(found)) == (
        {"1.jpg": ["cat"], "2.jpg": ["cat", "dog"], "3.jpg": []}, {"1.jpg": "train"},
    )  # fmt: skip
    assert "lines with boxes, which were ignored: 1 (gs://b/5.jpg)" in notes_of(found)


def test_one_line_is_json_lines_too(source: Path, tmp_path: Path) -> None:
    line = {"source-ref": "s3://b/1.jpg", **classified("kind", "cat")}
    assert by_name(ingest(source, tmp_path / "l.json", json.dumps(line))) == {"1.jpg": ["cat"]}
    vertex = {"imageGcsUri": "gs://b/1.jpg", "classificationAnnotation": {"displayName": "cat"}}
    assert by_name(ingest(source, tmp_path / "l.json", json.dumps(vertex))) == {"1.jpg": ["cat"]}


# --- annotation tools -------------------------------------------------------------------------------------------------


def test_flags_of_labelme_are_labels_and_shapes_are_not(source: Path, tmp_path: Path) -> None:
    def image(at: int, flags: dict[str, bool]) -> str:
        shapes = [{"label": "ear", "points": [[0, 0]], "flags": {}}]
        rest = {"imagePath": f"..\\source\\{at}.jpg", "imageData": "A" * 100_000, "imageHeight": 8}
        return json.dumps({"version": "5.4", "flags": flags, "shapes": shapes, **rest})

    files = {"1.json": image(1, {"cat": True, "wet": True}), "2.json": image(2, {"cat": False}), "3.json": image(3, {})}
    found = ingest(source, write(tmp_path / "labelme", files))
    assert by_name(found) == {"1.jpg": ["cat", "wet"], "2.jpg": []}
    assert "shapes (boxes, polygons, ...), ignored: 3 (" in notes_of(found)
    assert "none of them set, taken as known to have no label: 1 (..\\source\\2.jpg)" in notes_of(found)
    assert format_of(found) == "labelme"


VIA = {
    "1.jpg12": {"filename": "1.jpg", "size": 12, "file_attributes": {"kind": "cat", "public_domain": "no"}},
    "2.jpg13": {"filename": "2.jpg", "size": 13, "regions": [], "file_attributes": {"kind": {"cat": True, "dog": 1}}},
    "3.jpg14": {"filename": "3.jpg", "size": 14, "regions": [], "file_attributes": {"kind": {"cat": False}}},
    "4.jpg15": {"filename": "4.jpg", "size": 15, "regions": [], "file_attributes": {}},
}  # fmt: skip
VIA_EXPECTED = {"1.jpg": ["cat"], "2.jpg": ["cat", "dog"], "3.jpg": []}


@pytest.mark.parametrize("kind", ["project", "json", "csv", "csv of version 1"])
def test_file_attributes_of_via_are_labels(source: Path, tmp_path: Path, kind: str) -> None:
    options = {"region": {}, "file": {"kind": {"type": "checkbox", "options": {"cat": "", "dog": "", "owl": ""}}}}
    content: Any = VIA
    if kind == "project":
        content = {"_via_settings": {"ui": {}}, "_via_img_metadata": VIA, "_via_attributes": options}
    elif kind != "json":
        rows = [(row["filename"], json.dumps(row["file_attributes"]).replace('"', '""')) for row in VIA.values()]
        mark = "#" if kind.endswith("1") else ""
        content = f"{mark}filename,file_size,file_attributes,region_count,region_id\n"
        content += "".join(f'{name},1,"{attributes}",0,0\n' for name, attributes in rows)
    found = ingest(source, tmp_path / "via", content)
    assert by_name(found) == VIA_EXPECTED
    assert format_of(found) == "via"
    assert ("classes without an image: 1 (owl)" in notes_of(found)) == (kind == "project")


@pytest.mark.parametrize("indent", [None, 1])
def test_projects_of_via_3_are_read(source: Path, tmp_path: Path, indent: int | None) -> None:
    options = {"0": "cat", "1": "dog", "2": "owl"}
    project = {
        "project": {"pid": "x"}, "config": {},
        "attribute": {"1": {"aname": "kind", "anchor_id": "FILE1_Z0_XY0", "type": 2, "options": options},
                      "2": {"aname": "part", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": {"0": "ear"}}},
        "file": {at: {"fid": at, "fname": f"{at}.jpg", "type": 2, "loc": 1, "src": ""} for at in "123"},
        "metadata": {"1_a": {"vid": "1", "flg": 0, "z": [], "xy": [], "av": {"1": "0,1"}},
                     "1_b": {"vid": "1", "flg": 0, "z": [], "xy": [2, 1, 1, 5, 5], "av": {"2": "0"}},
                     "2_a": {"vid": "2", "flg": 0, "z": [], "xy": [], "av": {"1": "1"}}},
        "view": {at: {"fid_list": [at]} for at in "123"},
    }  # fmt: skip
    found = ingest(source, tmp_path / "via.json", json.dumps(project, indent=indent))
    assert by_name(found) == {"1.jpg": ["cat", "dog"], "2.jpg": ["dog"]}
    assert "answers about a region or a time, ignored: 1 (" in notes_of(found)
    assert "classes without an image: 2 (owl, ear)" in notes_of(found)
    assert format_of(found) == "via"


def test_the_attributes_that_via_starts_with_are_no_labels(source: Path, tmp_path: Path) -> None:
    own = {"caption": "", "public_domain": "no", "image_url": "https://x.example/1.jpg"}
    images = {"1.jpg1": {"filename": "1.jpg", "file_attributes": own}}
    with pytest.raises(TableError, match="read as via, gives no image a label"):
        ingest(source, tmp_path / "via.json", images)
    assert by_name(ingest(source, tmp_path / "via.json", images, label_field="public_domain")) == {"1.jpg": ["no"]}


def test_two_attributes_of_via_are_told_apart(source: Path, tmp_path: Path) -> None:
    images = {"1.jpg1": {"filename": "1.jpg", "file_attributes": {"kind": "cat", "quality": "good"}}}
    with pytest.raises(UsageError, match="several questions, kind and quality; choose with --label-field"):
        ingest(source, tmp_path / "via.json", images)
    assert by_name(ingest(source, tmp_path / "via.json", images, label_field="quality")) == {"1.jpg": ["good"]}


def test_a_field_is_an_error_where_files_have_none(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--label-field kind: .* answers one question only; omit it"):
        ingest(source, tmp_path / "l.csv", "path,label\n1.jpg,cat\n", label_field="kind")
    with pytest.raises(UsageError, match=r"--label-field kind: no label file"):
        ingest(source, label_field="kind")


def test_texts_beside_the_images_are_tags(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["1.jpg", "2.png", "3.jpg", "4.jpg", "a%41.jpg"])
    write(
        source,
        {"1.txt": "1girl, long_hair,solo\n", "2.png.txt": "cat\nred hat\n", "3.txt": "", "a%41.txt": "\xe9t\xe9"},
    )
    found = ingest(source, source)
    labels = {"1.jpg": ["1girl", "long_hair", "solo"], "2.png": ["cat", "red hat"], "a%2541.jpg": ["été"]}
    assert by_name(found) == labels
    assert format_of(found) == "sidecar-text"
    assert by_name(ingest(source, label_format="sidecar-text")) == labels
    (source / "1.txt").write_text("1girl long_hair")
    spaces = ingest(source, label_format="sidecar-text", label_delimiter=" ")
    assert by_name(spaces)["1.jpg"] == ["1girl", "long_hair"]


def test_texts_beside_the_images_are_not_taken_unless_named(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["cat/1.jpg", "dog/2.jpg"])
    write(source, {"cat/1.txt": "a cat, sitting"})
    assert by_name(ingest(source)) == {"1.jpg": ["cat"], "2.jpg": ["dog"]}
    found = ingest(source, source)
    assert by_name(found) == {"1.jpg": ["a cat", "sitting"]}


def test_boxes_of_yolo_beside_the_images_are_refused(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["1.jpg"])
    write(source, {"1.txt": "0 0.5 0.5 0.25 0.25\n"})
    with pytest.raises(TableError, match=r"1.txt: contains YOLO boxes"):
        ingest(source, label_format="sidecar-text")


@pytest.mark.parametrize("name", FORMATS)
def test_the_documentation_has_an_example_of_every_format(name: str) -> None:
    examples = (Path(__file__).parents[1] / "docs" / "labels.md").read_text().partition("## Examples")[2]
    assert re.search(rf"^`{name}`.*\n\n(    .+\n){{3,4}}\n", examples, re.MULTILINE)


def example(name: str) -> str:
    """The example of a format in the documentation, with real tabs and names of one folder."""
    examples = (Path(__file__).parents[1] / "docs" / "labels.md").read_text().partition("## Examples")[2]
    match = re.search(rf"^`{name}`.*\n\n((?:    .+\n)+)", examples, re.MULTILINE)
    assert match
    return textwrap.dedent(match[1]).replace("⇥", "\t")


OF_SEVERAL_FILES = {"class-folders", "parquet-list", "cub", "cvat-imagenet", "sidecar-text", "tagger-review", "xmp"}


@pytest.mark.parametrize("name", sorted(set(FORMATS) - OF_SEVERAL_FILES))
def test_the_examples_of_the_documentation_are_read(tmp_path: Path, name: str) -> None:
    names = ("1.jpg", "2.jpg", "3.jpg", "train_0.jpg", "ISIC_0027419.jpg", "ISIC_0025030.jpg", "000026e7ee790996.jpg",
             "00000001.jpg", "000023.jpg", "000001.jpg", "b5f8.jpg")  # fmt: skip
    source = write_images(tmp_path / "s", names)
    options: dict[str, Any] = {}
    if name == "named-columns":
        options = {"file_column": "image_id", "label_column": "dx", "split_column": "fold"}
    if name == "cntk-map":
        (tmp_path / "names.json").write_text('["cat", "dog"]')
        options = {"label_names": tmp_path / "names.json"}
    found = ingest(source, tmp_path / "cat_train.txt", example(name), **options)
    assert format_of(found) == name
    assert by_name(found)
