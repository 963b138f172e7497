"""The traps of single label formats, as met in real files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import label_files
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_files import by_name, ingest, notes_of, splits, write_images

import tagger
from tagger.data.config import LabelOptions
from tagger.data.labels.source import read_labelled
from tagger.errors import SourceError, TableError, UsageError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_images(tmp_path / "source", [f"{index}.jpg" for index in range(1, 7)])


# --- tables ---------------------------------------------------------------------------------------------------------


def test_space_separates_tags_only_when_every_word_stands_elsewhere_too(source: Path, tmp_path: Path) -> None:
    rows = "image_name,tags\n1,haze primary\n2,clear primary\n3,haze\n4,clear\n"
    assert by_name(ingest(source, tmp_path / "l.csv", rows)) == {
        "1.jpg": ["haze", "primary"], "2.jpg": ["clear", "primary"], "3.jpg": ["haze"], "4.jpg": ["clear"],
    }  # fmt: skip
    unclear = "image_name,tags\n1,hot dog\n2,cat\n"
    with pytest.raises(UsageError, match=r"'hot dog' is ambiguous; use --label-delimiter with one of ' '"):
        ingest(source, tmp_path / "l.csv", unclear)
    assert by_name(ingest(source, tmp_path / "l.csv", unclear, label_delimiter=""))["1.jpg"] == ["hot dog"]
    assert by_name(ingest(source, tmp_path / "l.csv", unclear, label_delimiter=" "))["1.jpg"] == ["dog", "hot"]


def test_a_sign_that_separates_leaves_spaces_in_the_names(source: Path, tmp_path: Path) -> None:
    found = ingest(source, tmp_path / "l.csv", "image;labels\n1.jpg;hot dog| cat\n2.jpg;cat\n")
    assert by_name(found) == {"1.jpg": ["cat", "hot dog"], "2.jpg": ["cat"]}
    with pytest.raises(UsageError, match="--label-delimiter"):
        ingest(source, tmp_path / "l.csv", 'image,labels\n1.jpg,"a|b;c"\n')
    found = ingest(source, tmp_path / "l.csv", "image,label\n1.jpg,a|b\n")
    assert by_name(found) == {"1.jpg": ["a|b"]}
    assert "labels that look like several in one (if so, use --label-delimiter): 1 (a|b)" in notes_of(found)


def test_fastai_s_is_valid_is_a_split(source: Path, tmp_path: Path) -> None:
    found = ingest(source, tmp_path / "l.csv", "fname,labels,is_valid\n1.jpg,a b,True\n2.jpg,a,False\n3.jpg,b,False\n")
    assert by_name(found)["1.jpg"] == ["a", "b"]
    assert splits(found) == {"1.jpg": "val", "2.jpg": "train", "3.jpg": "train"}
    assert "splits: val 1" not in found.text()
    assert "splits: 2 train, 1 val, 3 in none" in found.text().replace("1 val, 2 train", "2 train, 1 val")


def test_ids_that_look_like_numbers_are_text(source: Path, tmp_path: Path) -> None:
    write_images(source, ["007.jpg", "1.2.840.jpg"])
    found = ingest(source, tmp_path / "l.csv", "id,label\n007,1\n1.2.840,0\n")
    assert by_name(found) == {"007.jpg": ["1"], "1.2.840.jpg": ["0"]}
    (tmp_path / "names.txt").write_text("no\nyes\n")
    names = str(tmp_path / "names.txt")
    found = ingest(source, tmp_path / "l.csv", "id,label\n007,1\n1.2.840,0\n3,2\n", label_names=names)
    assert by_name(found) == {"007.jpg": ["yes"], "1.2.840.jpg": ["no"]}
    assert "labels of unknown classes: 1 (2)" in notes_of(found)
    pd.DataFrame({"image_id": [1, 2], "label": [1.0, None]}).to_parquet(tmp_path / "l.parquet")
    assert by_name(ingest(source, tmp_path / "l.parquet")) == {"1.jpg": ["1"]}


def test_a_stem_with_two_files_is_ambiguous(source: Path, tmp_path: Path) -> None:
    write_images(source, ["1.png"])
    found = ingest(source, tmp_path / "l.csv", "id,label\n1,cat\n2,cat\n")
    assert by_name(found) == {"2.jpg": ["cat"]}
    assert "rows whose name matches several files, ignored: 1 (" in notes_of(found)


def test_one_hot_rows_of_zeros_gaps_and_other_values_are_said(source: Path, tmp_path: Path) -> None:
    text = "filename, Acne, Blackhead\n1.jpg, 1, 0\n2.jpg, 0, 0\n3.jpg,1,1\n4.jpg, , 1\n5.jpg, 1.0, 0\n"
    found = ingest(source, tmp_path / "_classes.csv", text)
    assert by_name(found) == {"1.jpg": ["Acne"], "2.jpg": [], "3.jpg": ["Acne", "Blackhead"], "5.jpg": ["Acne"]}
    assert "rows of zeros, taken as known to have no label: 1 (2.jpg)" in notes_of(found)
    assert "rows with a value that is neither 0 nor 1, left unlabelled: 1 (4.jpg)" in notes_of(found)
    single = ingest(source, tmp_path / "_classes.csv", "filename,a,b\n1.jpg,1,0\n2.jpg,0,1\n")
    assert "single-label" in single.text()
    with pytest.raises(TableError, match="legend of segmentation masks"):
        ingest(source, tmp_path / "_classes.csv", "Pixel Value, Class\n0, background\n1, cat\n")


def test_hugging_face_metadata_with_short_rows_twins_spaces_and_blank_lines(source: Path, tmp_path: Path) -> None:
    text = "file_name,label,note\n1.jpg,cat ,x\n2.jpg,dog\n2.jpg,dog,\n3.jpg\n4.jpg,cat,a,b\n\n  \n"
    found = ingest(source, tmp_path / "metadata.csv", text)
    assert by_name(found) == {"1.jpg": ["cat"], "2.jpg": ["dog"]}
    for line in (
        "rows shorter than the header: 2",
        "rows with more cells than the header, left unlabelled: 1",
        "merged: 1",
    ):
        assert line in notes_of(found)
    assert "rows without a label: 2 (3.jpg, 4.jpg)" in notes_of(found)
    rows = [{"file_name": "1.jpg", "labels": ["a", "b"]}, {"file_name": "2.jpg", "labels": None},
            {"file_name": "3.jpg", "labels": []},
            {"file_name": "4.jpg", "labels": '["a"]', "extra": {"x": 1}}]  # fmt: skip
    lines = "\n".join(map(json.dumps, rows)) + "\n\n"
    found = ingest(source, tmp_path / "metadata.jsonl", lines)
    assert by_name(found) == {"1.jpg": ["a", "b"], "3.jpg": [], "4.jpg": ["a"]}
    with pytest.raises(TableError, match="line 2 is not JSON"):
        ingest(source, tmp_path / "metadata.jsonl", '{"file_name": "1.jpg", "label": "a"}\n{"file_name"\n')


def test_parquet_lists_keep_null_and_empty_apart(source: Path, tmp_path: Path) -> None:
    lists = pa.array([["a", "b"], [], None], pa.list_(pa.string()))
    pq.write_table(pa.table({"path": ["1.jpg", "2.jpg", "3.jpg"], "tags": lists}), tmp_path / "l.parquet")
    found = ingest(source, tmp_path / "l.parquet")
    assert by_name(found) == {"1.jpg": ["a", "b"], "2.jpg": []}
    again = tagger.ingest(str(source), str(tmp_path / "again.parquet"), str(tmp_path / "m.parquet"))
    assert again.table.equals(found.table), "a manifest is a label file too"


def test_lists_as_pandas_writes_them_into_csv_are_lists(source: Path, tmp_path: Path) -> None:
    pd.DataFrame({"path": ["1.jpg", "2.jpg"], "labels": [["a b", "c"], []]}).to_csv(tmp_path / "l.csv")
    assert by_name(ingest(source, tmp_path / "l.csv")) == {"1.jpg": ["a b", "c"], "2.jpg": []}


def test_automl_splits_ragged_rows_spaces_and_boxes(source: Path, tmp_path: Path) -> None:
    rows = (
        "TRAIN,gs://bucket/1.jpg,a,b\nVALIDATION, gs://bucket/2.jpg,a\nTEST,gs://bucket/3.jpg\n"
        "UNASSIGNED,gs://bucket/4.jpg,car,0.1,0.1,,,0.3,0.3,,\nUNASSIGNED,gs://bucket/4.jpg,bus,0.1,0.1,,,1,1,,\n"
    )
    found = ingest(source, tmp_path / "l.csv", rows)
    assert by_name(found) == {"1.jpg": ["a", "b"], "2.jpg": ["a"], "4.jpg": ["bus", "car"]}
    assert splits(found) == {"1.jpg": "train", "2.jpg": "val", "3.jpg": "test"}
    assert "rows with a box, which was ignored: 2 (" in notes_of(found)


# --- CNTK -----------------------------------------------------------------------------------------------------------


def test_cntk_maps_mix_plain_files_sequences_own_folder_and_zip_members(source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(source / "x.zip", "w") as archive:
        archive.write(source / "1.jpg", "inner/a.jpg")
    uri = f"zip://inner/a.jpg::{source}/x.zip"
    (tmp_path / "list.txt").write_text("\n".join([*(f"{source}/{name}.jpg" for name in range(1, 5)), uri]))
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    lines = (
        f".../source/1.jpg\t0\n...\\source\\2.jpg\t1\n7\t{source}/3.jpg\t1\nsource/4.jpg\t2\n"
        f"{source}/x.zip@\\inner\\a.jpg\t1\n{source}/x.zip@/../../etc/a.jpg\t1\n"
    )
    (tmp_path / "map.txt").write_text(lines)
    found = tagger.ingest(
        str(tmp_path / "list.txt"), str(tmp_path / "m.parquet"), str(tmp_path / "map.txt"),
        label_names=str(tmp_path / "names.txt"),
    )  # fmt: skip
    labels = dict(zip(found.table["uri"].to_pylist(), found.table["labels"].to_pylist(), strict=True))
    assert labels[uri] == ["dog"]
    assert by_name(found) == {"1.jpg": ["cat"], "2.jpg": ["dog"], "3.jpg": ["dog"], "x.zip": ["dog"]}
    assert "labels of unknown classes: 1 (2)" in notes_of(found)
    assert "zip members outside their archive: 1 (" in notes_of(found)
    with pytest.raises(UsageError, match="add --label-names FILE"):
        ingest(source, tmp_path / "map.txt")


def test_relative_paths_of_a_map_may_start_at_the_working_directory(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source)
    (tmp_path / "names.txt").write_text("cat\n")
    found = ingest(source, tmp_path / "maps" / "map.txt", "1.jpg\t0\n", label_names=str(tmp_path / "names.txt"))
    assert by_name(found) == {"1.jpg": ["cat"]}


def test_a_table_that_looks_like_a_map_but_has_a_header_is_a_table(source: Path, tmp_path: Path) -> None:
    found = ingest(source, tmp_path / "map.txt", "label\tpath\n3\t1.jpg\n")
    assert (by_name(found), found.label_source and found.label_source.format.name) == ({"1.jpg": ["3"]}, "single-label")


# --- COCO, Label Studio, CVAT, FiftyOne, Azure ----------------------------------------------------------------------


def test_coco_with_sparse_ids_roboflow_s_parent_and_unknown_categories(source: Path, tmp_path: Path) -> None:
    document = {
        "categories": [{"id": 0, "name": "animals", "supercategory": "none"},
                       {"id": 90, "name": "cat", "supercategory": "animals"},
                       {"id": 7, "name": "dog", "supercategory": "animals"},
                       {"id": 8, "name": "owl", "supercategory": "animals"}],
        "annotations": [{"image_id": 1, "category_id": 90}, {"image_id": 1, "category_id": 90, "bbox": [0.1, 0, 1, 1]},
                        {"image_id": 1, "category_id": 7}, {"image_id": 3, "category_id": 55}],
        "images": [{"id": 1, "file_name": "1", "coco_url": "https://x/y"}, {"id": 2, "file_name": "2.jpg"},
                   {"id": 3, "file_name": "images/3.jpg"}],
    }  # fmt: skip
    found = ingest(source, tmp_path / "l.json", document)
    assert by_name(found) == {"1.jpg": ["cat", "dog"], "2.jpg": []}
    assert "parent categories that no annotation uses, dropped: 1 (animals)" in notes_of(found)
    assert "labels of unknown classes: 1 (55)" in notes_of(found)
    assert "classes without an image: 1 (owl)" in notes_of(found)
    assert "images without annotations, taken as known to have no label: 1 (2.jpg)" in notes_of(found)
    with pytest.raises(TableError, match=r"read as coco, gives no image a label \(.*rows without a label: 3"):
        ingest(source, tmp_path / "l.json", {**document, "annotations": []})


def test_label_studio_skips_cancelled_answers_and_old_names(source: Path, tmp_path: Path) -> None:
    def answer(labels: list[Any], kind: str = "choices", **more: Any) -> dict[str, Any]:
        return {"result": [{"type": kind, "from_name": "c", "value": {kind: labels}}], **more}

    tasks = [
        {"data": {"image": "/data/upload/1/ad2a7904-1.jpg"}, "annotations": [answer(["cat"]), answer(["dog"])]},
        {"data": {"image": "2.jpg"}, "annotations": [answer(["cat"], was_cancelled=True)]},
        {"data": {"image": "/data/local-files/?d=source/3.jpg"},
         "completions": [answer(["cat"], skipped=True), answer([])]},
        {"data": {"image": "4.jpg"}, "annotations": [answer([["Animal", "Cat"], ["Plant"]], "taxonomy")]},
        {"data": {"image": "5.jpg"}, "annotations": [], "predictions": [answer(["cat"])]},
        {"data": {"image": "6.jpg"}, "annotations": [answer(["x"], "rectanglelabels")]},
    ]  # fmt: skip
    found = ingest(source, tmp_path / "l.json", tasks)
    assert by_name(found) == {"1.jpg": ["cat", "dog"], "3.jpg": [], "4.jpg": ["Animal/Cat", "Plant"]}
    assert "cancelled annotations, skipped: 2 (" in notes_of(found)
    assert "tasks with predictions but no annotation (predictions are not labels): 1 (" in notes_of(found)
    assert "neither choices nor taxonomy, ignored: 1 (rectanglelabels)" in notes_of(found)


def test_label_studio_rows_hold_choices_in_several_shapes(source: Path, tmp_path: Path) -> None:
    def row(name: str, **more: Any) -> dict[str, Any]:
        return {"image": f"/data/upload/1/0123abcd-{name}", "id": 1, "annotator": 1, "annotation_id": 2, **more}

    rows = [row("1.jpg", animal="cat"), row("2.jpg", animal={"choices": ["cat", "dog"]}), row("3.jpg", animal=["dog"]),
            row("4.jpg", animal={"choices": []}), row("5.jpg"), row("6.jpg", animal=[["A", "B"]])]  # fmt: skip
    found = ingest(source, tmp_path / "l.json", rows)
    assert by_name(found) == {
        "1.jpg": ["cat"], "2.jpg": ["cat", "dog"], "3.jpg": ["dog"], "4.jpg": [], "6.jpg": ["A/B"],
    }  # fmt: skip
    rows = [row("1.jpg", animal="cat", colour="red")]
    with pytest.raises(UsageError, match="several columns may hold labels, animal, colour; choose with --label-field"):
        ingest(source, tmp_path / "l.json", rows)
    assert by_name(ingest(source, tmp_path / "l.json", rows, label_field="animal")) == {"1.jpg": ["cat"]}
    with pytest.raises(UsageError, match=r"--label-field size: .* has the columns animal, colour"):
        ingest(source, tmp_path / "l.json", rows, label_field="size")


def result(field: str, *choices: str, **more: Any) -> dict[str, Any]:
    return {"type": "choices", "from_name": field, "value": {"choices": choices, **more.pop("value", {})}, **more}


def test_two_controls_of_label_studio_are_told_apart(source: Path, tmp_path: Path) -> None:
    tasks = [{"data": {"image": f"{at}.jpg"}, "annotations": [{"result": results}]} for at, results in enumerate(
        ([result("kind", "cat"), result("quality", "bad")], [result("quality", "good")], [result("kind", "dog")]), 1
    )]  # fmt: skip
    with pytest.raises(UsageError, match="several questions, kind and quality; choose with --label-field"):
        ingest(source, tmp_path / "l.json", tasks)
    kinds = ingest(source, tmp_path / "l.json", tasks, label_field="kind")
    assert by_name(kinds) == {"1.jpg": ["cat"], "3.jpg": ["dog"]}
    assert "answers to questions other than --label-field, ignored: 2 (quality" in notes_of(kinds)
    both = ingest(source, tmp_path / "l.json", tasks, label_field=("kind", "quality"))
    assert by_name(both)["1.jpg"] == ["bad", "cat"]


def test_answers_about_a_region_are_not_labels_of_the_image(source: Path, tmp_path: Path) -> None:
    box = {"type": "rectanglelabels", "from_name": "box", "id": "r1", "value": {"x": 1, "rectanglelabels": ["ear"]}}
    results = [
        [box, result("part", "torn", id="r1"), result("kind", "cat", id="c1")],
        [result("part", "torn", value={"x": 1, "y": 2})],
        [result("kind", "dog")],
    ]
    tasks = [{"data": {"image": f"{at}.jpg"}, "annotations": [{"result": r}]} for at, r in enumerate(results, 1)]
    found = ingest(source, tmp_path / "l.json", tasks)
    assert by_name(found) == {"1.jpg": ["cat"], "3.jpg": ["dog"]}
    assert "answers about a region, ignored: 2 (part" in notes_of(found)


def test_uploads_of_the_same_name_are_not_guessed(source: Path, tmp_path: Path) -> None:
    tasks = [
        {"data": {"image": f"/data/upload/1/{prefix}-1.jpg"}, "annotations": [{"result": label_files.choices([label])}]}
        for prefix, label in (("ad2a7904", "cat"), ("bbbb7904", "dog"))
    ]
    with pytest.raises(SourceError) as raised:  # nothing is left that has a label
        ingest(source, tmp_path / "l.json", tasks)
    assert "rows whose name matches several files, ignored: 2 (" in str(raised.value)


def test_cvat_subsets_tell_files_of_one_name_apart(tmp_path: Path) -> None:
    source = write_images(tmp_path / "source", ["images/train/1.jpg", "images/val/1.jpg", "images/val/2.jpg"])
    xml = (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        '<image id="0" name="1.jpg" subset="train" width="1" height="1"><tag label="a" source="manual"/>'
        '<tag label="b &amp; c"/><attribute name="x">y</attribute></image>'
        '<image id="1" name="1.jpg" subset="val"><tag label="a"/></image>'
        '<image id="2" name="2.jpg" subset="val"><box label="d" xtl="0"/></image></annotations>'
    )
    found = ingest(source, tmp_path / "a.xml", xml)
    assert found.table["labels"].to_pylist() == [["a", "b & c"], ["a"], None]
    assert found.table["split"].to_pylist() == ["train", "val", "val"]
    assert "shapes (boxes, polygons, ...), ignored: 1 (2.jpg)" in notes_of(found)


def test_xml_with_entities_or_a_dtd_is_refused(source: Path, tmp_path: Path) -> None:
    bomb = (
        '<!DOCTYPE annotations [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n'
        '<annotations><image name="&b;"/></annotations>'
    )
    for head in ("", '<?xml version="1.0"?>\n'):
        for format in ("auto", "cvat-xml"):
            with pytest.raises(TableError, match=r"no label format matches|DTD or entities"):
                ingest(source, tmp_path / "a.xml", head + bomb, label_format=format)
    outside = '<!DOCTYPE annotations SYSTEM "file:///etc/passwd"><annotations/>'
    with pytest.raises(TableError, match="refused"):
        ingest(source, tmp_path / "a.xml", outside, label_format="cvat-xml")


def test_cvat_s_imagenet_text_quotes_names_and_holds_several_ids(source: Path, tmp_path: Path) -> None:
    write_images(source, ["a b.jpg"])
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "synsets.txt").write_text("cat\ndog\n\nowl\n")
    (tmp_path / "set" / "train.txt").write_text('1.jpg 0\n"a b".jpg 0 2\n2.jpg\n3.jpg 9\n')
    (tmp_path / "set" / "val.txt").write_text("4.jpg 1\n")
    found = ingest(source, tmp_path / "set")
    assert by_name(found) == {"1.jpg": ["cat"], "a b.jpg": ["cat", "owl"], "4.jpg": ["dog"]}
    assert splits(found) == {"1.jpg": "train", "a b.jpg": "train", "2.jpg": "train", "3.jpg": "train", "4.jpg": "val"}
    assert "labels of unknown classes: 1 (9)" in notes_of(found)
    assert by_name(ingest(source, tmp_path / "set" / "val.txt")) == {"4.jpg": ["dog"]}


def test_fiftyone_finds_stems_below_data_and_null_is_unlabelled(tmp_path: Path) -> None:
    source = write_images(tmp_path / "set", ["data/1.jpg", "data/sub/1.png", "data/v1.2.jpg", "data/3.jpg"])
    labels = {"1": 0, "sub/1": "dog", "v1.2": 1, "3": None}
    (source / "labels.json").write_text(json.dumps({"classes": ["cat", "owl"], "labels": labels}))
    found = ingest(source)
    assert found.table["labels"].to_pylist() == [["cat"], None, ["owl"], ["dog"]]
    with pytest.raises(UsageError, match="add --label-names FILE"):
        ingest(source, source / "labels.json", {"labels": labels})
    names = ingest(source, source / "labels.json", {"labels": {"1": "cat"}})
    assert names.counts()["labels"]["classes"] == {"cat": 1}


def test_azure_pages_know_negative_tags_and_need_names(source: Path, tmp_path: Path) -> None:
    def image(image_id: str, *tags: tuple[str, str | None]) -> dict[str, Any]:
        return {
            "id": image_id,
            "originalImageUri": "https://x/y?sig=1",
            "tags": [{"tagId": i, "tagName": n} for i, n in tags],
        }

    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "0.json").write_text(json.dumps([image("1", ("t1", "cat")), image("2", ("t2", "_negative_"))]))
    (pages / "1.json").write_text(json.dumps([[image("3", ("t1", "cat"), ("t3", "dog"))], [image("4")]]))
    assert by_name(ingest(source, pages)) == {"1.jpg": ["cat"], "2.jpg": [], "3.jpg": ["cat", "dog"]}
    nameless = [image("1", ("t1", None)), image("2", ("t2", None))]
    with pytest.raises(UsageError, match="save the response of GetTags"):
        ingest(source, tmp_path / "page.json", nameless)
    tags = [{"id": "t1", "name": "cat", "type": "Regular", "imageCount": 1},
            {"id": "t2", "name": "nothing here", "type": "Negative", "imageCount": 1}]  # fmt: skip
    (tmp_path / "tags.txt").write_text(json.dumps(tags))
    named = ingest(source, tmp_path / "page.json", label_names=str(tmp_path / "tags.txt"))
    assert by_name(named) == {"1.jpg": ["cat"], "2.jpg": []}
    (pages / "tags.json").write_text(json.dumps(tags))
    (pages / "0.json").write_text(json.dumps(nameless))
    assert by_name(ingest(source, pages))["2.jpg"] == []


def test_class_names_that_differ_in_case_or_spaces_stay_apart_and_are_said(source: Path, tmp_path: Path) -> None:
    found = ingest(source, tmp_path / "l.csv", "path,label\n1.jpg,Cat\n2.jpg,cat\n3.jpg,hot dog\n4.jpg,hotdog\n")
    assert by_name(found) == {"1.jpg": ["Cat"], "2.jpg": ["cat"], "3.jpg": ["hot dog"], "4.jpg": ["hotdog"]}
    assert (
        "class names that differ only in case or spaces, treated as different: 2 ('Cat' / 'cat', 'hot dog' / 'hotdog')"
        in notes_of(found)
    )


def test_hostile_values_are_counted_or_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n")
    digits = "9" * 5000
    found = ingest(source, tmp_path / "l.csv", f"path,label\n1.jpg,{digits}\nhttp://[x/2.jpg?d=1,0\n",
                   label_names=str(tmp_path / "names.txt"))  # fmt: skip
    assert by_name(found) == {"2.jpg": ["cat"]}
    assert "labels of unknown classes: 1 (9999" in notes_of(found)
    for name, content in (
        ("deep.json", "[" * 100_000),
        ("digits.json", f'{{"labels": {{"1": {digits}}}}}'),
        ("encoding.xml", '<?xml version="1.0" encoding="no-such"?><annotations></annotations>'),
        ("wide.xml", '<?xml version="1.0" encoding="gbk"?><annotations></annotations>'),
        ("cell.csv", 'path,label\n1.jpg,"' + "x" * 200_000 + '"\n'),
    ):
        with pytest.raises(TableError, match=name):
            ingest(source, tmp_path / name, content)


def test_captions_are_not_classes(source: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="with columns file_name, text"):
        ingest(source, tmp_path / "metadata.csv", "file_name,text\n1.jpg,a cat on a mat\n")
    write_images(source, [f"x{index}.jpg" for index in range(60)])
    rows = "".join(f"x{index}.jpg,a picture of thing {index}\n" for index in range(60))
    found = ingest(source, tmp_path / "l.csv", f"path,remark\n{rows}")
    assert "classes, nearly one per image (are these labels?): 60 (a picture of thing 0" in notes_of(found)


def test_a_file_in_two_splits_is_in_none(source: Path, tmp_path: Path) -> None:
    found = ingest(
        source, tmp_path / "l.csv", "path,label,split\n1.jpg,a,train\n1.jpg,a,Test\n2.jpg,a,valid\n3.jpg,a,holdout\n"
    )
    assert splits(found) == {"2.jpg": "val", "3.jpg": "test"}
    assert "images in two splits, assigned to neither: 1 (" in notes_of(found)
    strange = ingest(source, tmp_path / "l.csv", "path,label,split\n1.jpg,a,gold\n2.jpg,a,dev\n")
    assert "other than train, val or test, treated as without a split: 1 (gold)" in notes_of(strange)
    assert splits(strange) == {"2.jpg": "val"}


def test_a_project_called_test_is_no_test_split(tmp_path: Path) -> None:
    for folder in ("test", "test/val"):
        write_images(tmp_path / folder, ["1.jpg", "2.jpg"])
        (tmp_path / folder / "labels.csv").write_text("path,label\n1.jpg,a\n2.jpg,b\n")
    found = read_labelled(str(tmp_path / "test"), LabelOptions(str(tmp_path / "test" / "labels.csv")))
    assert set(splits(found).values()) == set()
    inside = read_labelled(str(tmp_path / "test"), LabelOptions(str(tmp_path / "test" / "val" / "labels.csv")))
    assert set(splits(inside).values()) == {"val"}


def test_a_column_of_names_says_more_than_one_of_ids(source: Path, tmp_path: Path) -> None:
    for header in ("file_name,label,label_name", "path,label,class_name"):
        found = ingest(source, tmp_path / "l.csv", f"{header}\n1.jpg,3,cat\n2.jpg,4,dog\n")
        assert by_name(found) == {"1.jpg": ["cat"], "2.jpg": ["dog"]}


def test_a_quote_that_is_never_closed_is_an_error_that_names_the_line(source: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="line 3 opens a quote that is not closed"):
        ingest(source, tmp_path / "l.csv", 'path,label\n1.jpg,a\n2.jpg,"Big Bird\n3.jpg,b\n')
    found = ingest(source, tmp_path / "l.csv", 'path,label\n1.jpg,5" screen\n2.jpg,"two\nlines"\n')
    assert by_name(found)["2.jpg"] == ["two\nlines"]


def test_fastais_is_valid_is_read_in_every_table(source: Path, tmp_path: Path) -> None:
    found = ingest(
        source, tmp_path / "l.csv", "path,cat,dog,is_valid\n1.jpg,1,0,True\n2.jpg,0,1,False\n3.jpg,1,1,1.0\n"
    )
    assert splits(found) == {"1.jpg": "val", "2.jpg": "train", "3.jpg": "val"}


# --- one-hot: content decides, then the name ------------------------------------------------------------------------

ODD_NAMES = (
    "text", "size", "width", "height", "caption", "objects", "description", "set", "subset", "photo", "image", "name",
    "prompt", "bytes", "bbox", "file", "label_0", "class_1", "tag", "id",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_class_of_a_one_hot_table_may_have_any_name(source: Path, tmp_path: Path, name: str) -> None:
    found = ingest(source, tmp_path / "l.csv", f"filename,cat,dog,{name}\n1.jpg,1,0,0\n2.jpg,0,0,1\n3.jpg,0,1,1\n")
    assert by_name(found) == {"1.jpg": ["cat"], "2.jpg": [name], "3.jpg": sorted(["dog", name])}


@pytest.mark.parametrize(
    ("header", "rows", "expected"),
    [
        ("filename,label_0,label_1", "1.jpg,1,0|2.jpg,0,1", {"1.jpg": ["label_0"], "2.jpg": ["label_1"]}),
        ("id,photo,drawing", "1,1,0|2,0,1", {"1.jpg": ["photo"], "2.jpg": ["drawing"]}),
        ("path,label,size", "1.jpg,a,1|2.jpg,b,0", {"1.jpg": ["a"], "2.jpg": ["b"]}),
        ("path,species,size", "1.jpg,a,1|2.jpg,b,0", {"1.jpg": ["a"], "2.jpg": ["b"]}),
        ("path,cat,set", "1.jpg,a,train|2.jpg,b,test", {"1.jpg": ["a"], "2.jpg": ["b"]}),
        ("path,label", "1.jpg,1|2.jpg,0", {"1.jpg": ["1"], "2.jpg": ["0"]}),
        ("Unnamed: 0,filename,a,b", "0,1.jpg,1,0|1,2.jpg,1,1", {"1.jpg": ["a"], "2.jpg": ["a", "b"]}),
        ("image_id,Bald,Young", "1.jpg,-1,1|2.jpg,-1,-1|3.jpg,1,+1",
         {"1.jpg": ["Young"], "2.jpg": [], "3.jpg": ["Bald", "Young"]}),
        ("image_id,Bald,Young", "1.jpg,-1.0,1.0|2.jpg,1.0,1.0", {"1.jpg": ["Young"], "2.jpg": ["Bald", "Young"]}),
        ("path,Edema,Mass", "1.jpg,,1|2.jpg,0,1", {"2.jpg": ["Mass"]}),
        ("path,Edema,Mass", "1.jpg,-1,1|2.jpg,0,1|3.jpg,,1", {"2.jpg": ["Mass"], "3.jpg": ["Mass"]}),
        ("path,Edema,Mass", "1.jpg,,1|2.jpg,1,|3.jpg,,", {"1.jpg": ["Mass"], "2.jpg": ["Edema"], "3.jpg": []}),
        ("path,Edema,Mass", "1.jpg,TRUE,False|2.jpg,true,true", {"1.jpg": ["Edema"], "2.jpg": ["Edema", "Mass"]}),
    ],
)  # fmt: skip
def test_the_values_of_a_table_say_whether_its_columns_are_classes(
    source: Path, tmp_path: Path, header: str, rows: str, expected: dict[str, list[str]]
) -> None:
    found = ingest(source, tmp_path / "l.csv", "\n".join([header, *rows.split("|")]))
    assert by_name(found) == expected


def test_minus_one_means_unsure_when_a_zero_stands_anywhere_in_the_file(source: Path, tmp_path: Path) -> None:
    late = "1.jpg,-1,1\n" + "gone.jpg,-1,1\n" * 2000 + "2.jpg,0,1\n"
    assert by_name(ingest(source, tmp_path / "l.csv", f"path,Edema,Mass\n{late}")) == {"2.jpg": ["Mass"]}


# --- several labels in a cell ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["id,attribute_ids", "id,codes", "image,label", "file_name,labels"])
@pytest.mark.parametrize(("sign", "cell"), [(" ", "1 2 30"), ("|", "1|2|30"), (",", '"1, 2, 30"'), (";", "1;2;30")])
def test_ids_in_one_cell_are_several_labels_under_any_name(
    source: Path, tmp_path: Path, header: str, sign: str, cell: str
) -> None:
    found = ingest(source, tmp_path / "l.csv", f"{header}\n1,{cell}\n2,2\n")
    assert by_name(found) == {"1.jpg": ["1", "2", "30"], "2.jpg": ["2"]}
    assert f"different cells of {header.partition(',')[2]} separated at {sign!r}: 1 (" in notes_of(found)


def planet(rare: str) -> str:
    """Rows as in Kaggle's Planet file, whose second row holds a rare word."""
    weather, ground = ("clear", "haze", "cloudy"), ("primary", "water", "road", "agriculture")
    pairs = [f"{sky} {one} {other}" for sky in weather for one in ground for other in ground if one != other]
    rows = ["haze primary", f"clear {rare}", *pairs]
    lines = [f"{index},{rows[index % len(rows)] if index < 3000 else 'cloudy'}" for index in range(1, 5000)]
    return "\n".join(["image_name,tags", *lines, f"5000,{rare} road"])


def test_one_rare_word_does_not_hide_the_separator(source: Path, tmp_path: Path) -> None:
    found = ingest(source, tmp_path / "l.csv", planet("blow_down"))
    assert by_name(found)["1.jpg"] == ["blow_down", "clear"]
    assert by_name(found)["2.jpg"] == ["clear", "primary", "water"]
    assert "different cells of tags separated at ' ': 39 (" in notes_of(found)
    odd = ingest(source, tmp_path / "l.csv", planet("blow_down").replace("5000,blow_down road", "5000,a, b"))
    assert by_name(odd)["1.jpg"] == ["blow_down", "clear"]


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("path,remark", ["a cat, sitting", "a dog, standing", "a dog"]),
        ("path,label", ["black cat", "white cat", "black dog", "white dog"]),
        ("path,make", ["Boeing 737", "Boeing 747", "Airbus 320"]),
        ("path,city", ["Austin, TX", "Dallas, TX", "Boston, MA"]),
    ],
)
def test_names_of_several_words_stay_one_label(source: Path, tmp_path: Path, header: str, cells: list[str]) -> None:
    rows = "".join(f'{index}.jpg,"{cell}"\n' for index, cell in enumerate(cells, 1))
    found = ingest(source, tmp_path / "l.csv", f"{header}\n{rows}")
    assert list(by_name(found).values()) == [[cell] for cell in cells]


def test_numbered_names_are_not_separated_at_the_space(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the separator of the labels in 'class 1' is ambiguous"):
        ingest(source, tmp_path / "l.csv", "path,tags\n1.jpg,class 1\n2.jpg,class 2\n")


def test_a_sign_separates_under_any_name_when_its_parts_recur(source: Path, tmp_path: Path) -> None:
    found = ingest(source, tmp_path / "l.csv", "path,finding\n1.jpg,Mass|Edema\n2.jpg,Edema\n3.jpg,Mass\n")
    assert by_name(found) == {"1.jpg": ["Edema", "Mass"], "2.jpg": ["Edema"], "3.jpg": ["Mass"]}


# --- class names by id ----------------------------------------------------------------------------------------------

NAME_FILES = {
    "lines": "CBB\nCBSD\nCGM\n",
    "blank at the end": "CBB\nCBSD\nCGM\n\n\n",
    "numbered": "0 CBB\n1 CBSD\n2 CGM\n",
    "numbered from elsewhere": "2: CGM\n0: CBB\n1: CBSD\n",
    "synset words": "n02085620 CBB\nn02085782 CBSD\nn02085936 CGM\n",
    "number last": "CGM 2\nCBSD 1\nCBB 0\n",
    "csv": "id,name\n0,CBB\n2,CGM\n1,CBSD\n",
    "csv of names": "name\nCBB\nCBSD\nCGM\n",
    "csv turned round": "class;index;n\nCBB;0;5\nCBSD;1;5\nCGM;2;7\n",
    "csv with a header nobody knows": "nr,disease\n0,CBB\n1,CBSD\n2,CGM\n",
    "csv without a header": "1,CBSD\n2,CGM\n0,CBB\n",
    "pandas csv": ",label\n0,CBB\n1,CBSD\n2,CGM\n",
    "json list": '["CBB", "CBSD", "CGM"]',
    "json object": '{"0": "CBB",\n "1": "CBSD",\n "2": "CGM"}',
    "json turned round": '{"CGM": 2, "CBB": 0, "CBSD": 1}',
    "json objects": '[{"id": 1, "name": "CBSD"}, {"id": 0, "name": "CBB"}, {"id": 2, "name": "CGM"}]',
    "json config": '{"model_type": "vit", "id2label": {"0": "CBB", "1": "CBSD", "2": "CGM"}}',
    "imagenet index": '{"0": ["n01", "CBB"], "1": ["n02", "CBSD"], "2": ["n03", "CGM"]}',
    "coco": '{"categories": [{"id": 0, "name": "CBB"}, {"id": 1, "name": "CBSD"}, {"id": 2, "name": "CGM"}]}',
    "data.yaml": "path: ../x\ntrain: images/train\nnc: 3\nnames: [CBB, CBSD, CGM]\n",
    "data.yaml with ids": "nc: 3\nnames:\n  0: CBB\n  2: CGM\n  1: CBSD\n",
    "data.yaml list": "names:\n- CBB\n- CBSD\n- CGM\nnc: 3\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", NAME_FILES)
def test_class_names_are_read_with_their_ids(source: Path, tmp_path: Path, kind: str) -> None:
    names = tmp_path / "names.txt"
    names.write_text(NAME_FILES[kind])
    rows = "path,label\n1.jpg,0\n2.jpg,1\n3.jpg,2\n4.jpg,3\n"
    found = ingest(source, tmp_path / "l.csv", rows, label_names=str(names))
    assert by_name(found) == {"1.jpg": ["CBB"], "2.jpg": ["CBSD"], "3.jpg": ["CGM"]}
    assert "labels of unknown classes: 1 (3)" in notes_of(found)


@pytest.mark.parametrize(
    "names",
    [
        ["great white shark", "tiger shark"], ["tench, Tinca tinca", "goldfish, Carassius auratus"],
        ["707-320", "727-200"], ["class 5", "class 9"], ["1 euro", "1 euro", "5 euro"], ["3", "7"],
    ],
)  # fmt: skip
def test_names_with_commas_spaces_and_digits_are_names(source: Path, tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "names.txt").write_text("\n".join(names))
    rows = "image,label\n1.jpg,0\n2.jpg,1\n"
    found = ingest(source, tmp_path / "l.csv", rows, label_names=str(tmp_path / "names.txt"), label_delimiter="")
    assert by_name(found) == {"1.jpg": [names[0]], "2.jpg": [names[1]]}


@pytest.mark.parametrize(
    "content",
    [
        b"path,label\n1.jpg,cat\n", b"1.jpg\n2.jpg\n", b'{"version": "1", "author": "x"}', b"nc: 3\nnames: 5\n",
        b"<html></html>", b"PAR1\0\0\1", b"\x89PNG\r\n\x1a\n\0\0", b"[[1], [2]]", b'{"a": {"b": 1}}', b"x" * 1000,
    ],
)  # fmt: skip
def test_a_file_that_holds_no_class_names_is_refused(source: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "names.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=r"names.yaml: no class names in it .* expected one name per line"):
        ingest(source, tmp_path / "l.csv", "path,label\n1.jpg,0\n", label_names=str(tmp_path / "names.yaml"))


def test_an_id_with_two_names_is_an_error(source: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("id,name\n3,cat\n3,horse\n")
    with pytest.raises(TableError, match="id 3 has two names, 'cat' and 'horse'"):
        ingest(source, tmp_path / "l.csv", "path,label\n1.jpg,3\n", label_names=str(tmp_path / "names.txt"))


# --- one row per label, confidence ----------------------------------------------------------------------------


def test_rows_with_one_label_each_are_one_set_when_the_user_says_so(source: Path, tmp_path: Path) -> None:
    rows = "path,label\n1.jpg,cat\n1.jpg,dog\n2.jpg,dog\n"
    apart = ingest(source, tmp_path / "l.csv", rows)
    assert by_name(apart) == {"2.jpg": ["dog"]}
    assert "left unlabelled (--merge-rows takes all their labels): 1 (" in notes_of(apart)
    together = ingest(source, tmp_path / "l.csv", rows, merge_rows=True)
    assert by_name(together) == {"1.jpg": ["cat", "dog"], "2.jpg": ["dog"]}
    boxes = "filename,width,height,class,xmin,ymin\n1.jpg,8,8,cat,1,2\n1.jpg,8,8,dog,3,4\n1.jpg,8,8,cat,5,6\n"
    assert by_name(ingest(source, tmp_path / "l.csv", boxes, merge_rows=True)) == {"1.jpg": ["cat", "dog"]}


@pytest.mark.parametrize("name", ["confidence", "Score", "prob", "Confidence", "label_confidence", "pred_scores"])
def test_a_row_of_confidence_0_is_never_a_label(source: Path, tmp_path: Path, name: str) -> None:
    rows = f"file_name,label,{name}\n1.jpg,dog,0\n2.jpg,cat,1\n3.jpg,cat,0.7\n4.jpg,dog,0.0\n4.jpg,cat,1\n5.jpg,owl,\n"
    found = ingest(source, tmp_path / "l.csv", rows)
    assert by_name(found) == {"2.jpg": ["cat"], "3.jpg": ["cat"], "4.jpg": ["cat"], "5.jpg": ["owl"]}
    assert f"rows with 0 in {name}, whose labels do not apply: 2 (1.jpg: dog, 4.jpg: dog)" in notes_of(found)
    assert f"rows with neither 0 nor 1 in {name}, whose labels were used: 2 (3.jpg: 0.7" in notes_of(found)
    assert "images with negatives alone, left unlabelled: 1 (" in notes_of(found)


@pytest.mark.parametrize("cell", ["0%", "0.0 %", '"0,0"', "-0.0"])
def test_a_confidence_of_0_is_read_as_people_write_it(source: Path, tmp_path: Path, cell: str) -> None:
    found = ingest(source, tmp_path / "l.csv", f"file_name,label,confidence\n1.jpg,dog,{cell}\n2.jpg,cat,90%\n")
    assert by_name(found) == {"2.jpg": ["cat"]}


def test_an_image_that_every_class_is_denied_for_is_known_to_have_none(source: Path, tmp_path: Path) -> None:
    rows = "ImageID,Source,LabelName,Confidence\n1,verification,/m/01,1\n1,verification,/m/02,1\n2,machine,/m/01,0\n"
    (tmp_path / "names.csv").write_text("/m/01,Tortoise\n/m/02,Container\n")
    found = ingest(source, tmp_path / "l.csv", f"{rows}2,machine,/m/02,0\n3,machine,/m/02,0\n",
                   label_names=str(tmp_path / "names.csv"))  # fmt: skip
    assert by_name(found) == {"1.jpg": ["Container", "Tortoise"], "2.jpg": []}


def test_a_label_that_is_given_and_denied_is_a_conflict(source: Path, tmp_path: Path) -> None:
    rows = "file_name,label,confidence\n1.jpg,cat,1\n1.jpg,cat,0\n2.jpg,dog,1\n"
    found = ingest(source, tmp_path / "l.csv", rows)
    assert by_name(found) == {"2.jpg": ["dog"]}
    assert "1.jpg (cat against not cat)" in notes_of(found)


def test_a_confidence_is_not_a_class(source: Path, tmp_path: Path) -> None:
    found = ingest(source, tmp_path / "l.csv", "path,cat,dog,score\n1.jpg,1,0,0.9\n2.jpg,0,1,1\n")
    assert by_name(found) == {"1.jpg": ["cat"], "2.jpg": ["dog"]}
    assert "neither 0 nor 1 in score, whose labels were used: 1 (1.jpg: 0.9)" in notes_of(found)


# --- lists as text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['ant' 'macro']", ["ant", "macro"]), ("['ant', 'macro']", ["ant", "macro"]),
        ("['ant'\n 'macro']", ["ant", "macro"]), ("[hot dog, ant]", ["ant", "hot dog"]), ("[hot dog]", ["hot dog"]),
        ('["ant", "macro"]', ["ant", "macro"]), ("""["it's" 'b']""", ["b", "it's"]), ("['a, b' 'c']", ["a, b", "c"]),
        ("[1 2 10]", ["1", "10", "2"]), ("[1. 2.]", ["1", "2"]), ("[1, 2]", ["1", "2"]), ("['a' None nan]", ["a"]),
        ("[]", []), ("('a', 'b')", ["a", "b"]), ("{'a'}", ["a"]), ("[u'a', u'b']", ["a", "b"]),
        ("[ant, macro]", ["ant", "macro"]), ("['a']", ["a"]), (r"['a\\b' 'c']", [r"a\b", "c"]),
        ("[['A', 'B'], ['C']]", ["A/B", "C"]),
        ("(unknown)", ["(unknown)"]), ("[ant, ..., owl]", None),
        ("['a' ... 'z']", None), ("['a' 'b', 'c']", None), ("['a', 'b' 'c']", None), ("[['A' 'B'], ['C' 'D']]", None),
        ("{['a']}", None),
        ("{'x': 'a'}", None), ('{"x": ["a"]}', None), ("['a' + 'b']", None), ("['a", ["['a"]), ("[b'a' b'b']", None),
        ("()", []), ("set()", []), ("array(['a', 'b'], dtype=object)", None), ("frozenset({'a'})", None),
        ("np.array(['a'])", None), ("tree (big)", ["tree (big)"]), ("cat(s)", ["cat(s)"]),
    ],
)  # fmt: skip
def test_a_list_printed_into_a_cell_is_read_right_or_refused(
    source: Path, tmp_path: Path, cell: str, expected: list[str] | None
) -> None:
    pd.DataFrame({"path": ["1.jpg", "2.jpg"], "label": [cell, "x"]}).to_csv(tmp_path / "l.csv", index=False)
    found = ingest(source, tmp_path / "l.csv")
    assert by_name(found) == {"2.jpg": ["x"], **({} if expected is None else {"1.jpg": expected})}
    assert ("cells in brackets that are not a valid list, left unlabelled: 1 (" in notes_of(found)) == (
        expected is None
    )


def test_a_list_of_objects_is_no_list_of_labels(source: Path, tmp_path: Path) -> None:
    cell = '"[{""class"": ""cat""}]"'
    found = ingest(source, tmp_path / "l.csv", f"path,label\n1.jpg,{cell}\n2.jpg,x\n")
    assert by_name(found) == {"2.jpg": ["x"]}
    assert "lists of objects, left unlabelled: 1 ([{'class': 'cat'}])" in notes_of(found)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_manifest_comes_back_from_pandas_as_it_was(source: Path, tmp_path: Path, suffix: str) -> None:
    lists = [
        ["ant", "macro"],
        [],
        None,
        ["it's", 'say "hi"'],
        ["a|b", "c, d"],
        [f"a long label {n}" for n in range(30)],
    ]
    names = [f"{index}.jpg" for index in range(1, 7)]
    pq.write_table(pa.table({"path": names, "labels": pa.array(lists, pa.list_(pa.string()))}), tmp_path / "l.parquet")
    before = ingest(source, tmp_path / "l.parquet")
    frame, out = pd.read_parquet(source.parent / "m.parquet"), tmp_path / f"again.{suffix}"
    if suffix == "csv":
        frame.to_csv(out)
    elif suffix == "jsonl":
        frame.to_json(out, orient="records", lines=True, date_format="iso")
    else:
        frame.to_parquet(out)
    assert by_name(ingest(source, out)) == by_name(before)


# --- keys that are not unique ---------------------------------------------------------------------------------


def test_coco_images_with_one_id_are_left_unlabelled_and_named(tmp_path: Path) -> None:
    source = write_images(tmp_path / "source", ["camA/1.jpg", "camB/1.jpg", "camB/2.jpg"])
    document = {
        "images": [{"id": 1, "file_name": "camA/1.jpg"}, {"id": 1, "file_name": "camB/1.jpg"},
                   {"id": 2, "file_name": "camB/2.jpg"}, {"id": 2, "file_name": "camB/2.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 5}, {"image_id": 2, "category_id": 5}],
        "categories": [{"id": 5, "name": "cat"}],
    }  # fmt: skip
    found = ingest(source, tmp_path / "l.json", document)
    assert by_name(found) == {"2.jpg": ["cat"]}
    assert "image ids of several files, left unlabelled: 1 (1: camA/1.jpg and camB/1.jpg)" in notes_of(found)


def test_a_coco_category_defined_twice_labels_nothing(source: Path, tmp_path: Path) -> None:
    document = {
        "images": [{"id": index, "file_name": f"{index}.jpg"} for index in (1, 2)],
        "annotations": [{"image_id": 1, "category_id": 5}, {"image_id": 1, "category_id": 6},
                        {"image_id": 2, "category_id": 6}],
        "categories": [{"id": 5, "name": "cat"}, {"id": 5, "name": "horse"}, {"id": 6, "name": "owl"}],
    }  # fmt: skip
    found = ingest(source, tmp_path / "l.json", document)
    assert by_name(found) == {"2.jpg": ["owl"]}
    assert "category ids with several names, their images left unlabelled: 1 (5: cat and horse)" in notes_of(found)


def test_cvat_images_of_one_name_in_two_tasks_are_a_conflict(source: Path, tmp_path: Path) -> None:
    images = "".join(
        f'<image id="{task}" name="{name}.jpg" task_id="{task}"><tag label="{label}"/></image>'
        for task, name, label in ((0, 1, "cat"), (1, 1, "dog"), (0, 2, "cat"), (1, 2, "cat"))
    )
    found = ingest(source, tmp_path / "a.xml", f"<annotations>{images}</annotations>")
    assert by_name(found) == {"2.jpg": ["cat"]}
    assert "1.jpg (cat against dog)" in notes_of(found)


def test_azure_tags_defined_twice_are_an_error(source: Path, tmp_path: Path) -> None:
    tags = [{"id": "t", "name": name, "type": "Regular", "imageCount": 1} for name in ("cat", "dog")]
    (tmp_path / "tags.json").write_text(json.dumps(tags))
    page = [{"id": "1", "originalImageUri": "https://x/y", "tags": [{"tagId": "t", "tagName": None}]}]
    with pytest.raises(TableError, match="tag t has two names, 'cat' and 'dog'"):
        ingest(source, tmp_path / "page.json", page, label_names=str(tmp_path / "tags.json"))


def test_a_class_with_two_columns_is_an_error(source: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="two columns are named 'cat'"):
        ingest(source, tmp_path / "l.csv", "path,cat,dog,cat\n1.jpg,1,0,0\n2.jpg,0,1,1\n")


# --- label files without a label ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "format", "sample"),
    [
        ("l.csv", 'path,label\n1.jpg,"{""x"": 1}"\n', "single-label", "path='1.jpg'"),
        ("l.csv", "path,label\n1.jpg,\n", "single-label", "path='1.jpg', label=''"),
        ("l.csv", "path,a,b\n1.jpg,-1,1\n2.jpg,0,-1\n", "one-hot", "a='-1'"),
        ("a.xml", '<annotations><image name="1.jpg"/></annotations>', "cvat-xml", "<annotations>"),
        ("l.json", '{"labels": {"1": null}}', "fiftyone", "('1', None)"),
        ("l.csv", "UNASSIGNED,gs://b/1.jpg\n", "automl", "UNASSIGNED,gs://b/1.jpg"),
    ],
)
def test_a_named_label_file_that_gives_no_label_is_an_error_with_a_sample(
    source: Path, tmp_path: Path, name: str, content: str, format: str, sample: str
) -> None:
    with pytest.raises(TableError) as raised:
        ingest(source, tmp_path / name, content)
    message = str(raised.value)
    assert f"read as {format}, gives no image a label (" in message
    assert sample in message.partition("Its first row: ")[2].partition(" Expected: ")[0]
    assert "Try another --label-format; nothing was written" in message.partition("Expected: ")[2]
    assert not (source.parent / "m.parquet").exists()
