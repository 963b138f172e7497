"""Labels that lie in the source are found, and the command says what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import label_files
import pytest
from label_files import WRITERS, write_images

import tagger
from tagger.data.labels.source import Ingested
from tagger.errors import TableError, UsageError

Run = Callable[..., subprocess.CompletedProcess[str]]


def ingest(source: Path, *arguments: str, **options: str) -> Ingested:
    found = tagger.ingest(str(source), str(source.parent / "m.parquet"), *arguments, **options)
    assert isinstance(found, Ingested)
    return found


def rows(found: Ingested, source: Path) -> dict[str, tuple[list[str] | None, str | None]]:
    return {
        Path(row["uri"]).relative_to(source).as_posix(): (row["labels"], row["split"])
        for row in found.table.to_pylist()
    }


def test_class_folders_are_labels_when_every_image_lies_in_one(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["cat/1.JPG", "cat/2.png", "big dog/1.jpg", "class10/1.jpg", "class9/1.jpg"])
    found = ingest(source)
    assert rows(found, source) == {
        "big dog/1.jpg": (["big dog"], None), "cat/1.JPG": (["cat"], None), "cat/2.png": (["cat"], None),
        "class10/1.jpg": (["class10"], None), "class9/1.jpg": (["class9"], None),
    }  # fmt: skip
    assert "labels: class-folders (" in found.text()
    assert ingest(source, label_format="none").counts()["labels"] is None


def test_split_folders_give_splits_and_a_class_may_miss_from_one(tmp_path: Path) -> None:
    names = ["train/cat/1.jpg", "train/dog/1.jpg", "valid/cat/1.jpg", "test/cat/1.jpg"]
    source = write_images(tmp_path / "s", names)
    (source / "validation").mkdir()
    assert rows(ingest(source), source) == {
        "train/cat/1.jpg": (["cat"], "train"), "train/dog/1.jpg": (["dog"], "train"),
        "valid/cat/1.jpg": (["cat"], "val"), "test/cat/1.jpg": (["cat"], "test"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [
        ["cat/1.jpg", "dog/1.jpg", "stray.jpg"],
        ["a/x/1.jpg", "b/x/1.jpg"],
        ["train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg"],
        ["train/1.jpg", "test/1.jpg"],
        ["cat/1.jpg", "dog/1.jpg", "test/1.jpg"],
        ["holiday/1.jpg", "holiday/2.jpg"],
        ["a/b/c/1.jpg", "a/b/d/1.jpg"],
        ["images/1.jpg", "masks/1.png"],
        ["train2017/1.jpg", "val2017/2.jpg"],
        ["train2017/1.jpg", "val2017/2.jpg", "unlabeled2017/3.jpg"],
        ["JPEGImages/1.jpg", "SegmentationClass/1.png"],
        ["photos/1.jpg", "thumbnails/1.jpg"],
        ["train/images/1.jpg", "train/masks/1.png", "val/images/1.jpg", "val/masks/1.png"],
        ["ground_truth/1.png", "noisy/1.png"],
        ["train_images/1.jpg", "test_images/2.jpg"],
        ["trainA/1.jpg", "trainB/2.jpg", "testA/3.jpg", "testB/4.jpg"],
    ],
)
def test_folders_that_are_not_plainly_classes_are_no_labels(tmp_path: Path, names: list[str]) -> None:
    source = write_images(tmp_path / "s", names)
    found = ingest(source)
    assert set(found.table["labels"].to_pylist()) == {None}
    assert "labels: none" in found.text()


def test_folders_in_folders_are_classes_of_their_own_when_asked_for(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["a/x/1.jpg", "b/x/1.jpg", "stray.jpg"])
    found = ingest(source, label_format="class-folders")
    assert rows(found, source) == {
        "a/x/1.jpg": (["a/x"], None), "b/x/1.jpg": (["b/x"], None), "stray.jpg": (None, None),
    }  # fmt: skip
    with pytest.raises(
        TableError, match="no class folders for there is only one class folder; --label-format class-fo"
    ):
        ingest(source, str(source / "a"))
    part = ingest(source, str(source / "a"), label_format="class-folders")
    assert part.table["labels"].to_pylist() == [None, ["x"], None]


@pytest.mark.parametrize(
    "names",
    [
        ["left/a.jpg", "left/b.jpg", "right/a.jpg", "right/b.jpg"],
        ["scans/DSC01.jpg", "scans/DSC02.jpg", "scans/c.jpg", "previews/DSC01.jpg", "previews/DSC02.jpg"],
        ["scans/1.jpg", "scans/2.jpg", "drawn/1.png", "drawn/2.png"],
        ["train/scans/a.jpg", "train/drawn/a.jpg", "val/scans/b.jpg", "val/drawn/c.jpg"],
    ],
)
def test_folders_with_images_of_the_same_names_are_classes_only_when_confirmed(
    tmp_path: Path, names: list[str]
) -> None:
    source = write_images(tmp_path / "s", names)
    with pytest.raises(UsageError, match=r"images with the same names, .* confirm with tagger ingest --label-format"):
        ingest(source)
    confirmed = ingest(source, label_format="class-folders")
    assert confirmed.counts()["labels"]["labelled"] == len(names)
    assert ingest(source, label_format="none").counts()["labels"] is None


@pytest.mark.parametrize(
    "names",
    [
        ["cat/0001.jpg", "cat/0002.jpg", "dog/0001.jpg", "dog/0002.jpg"],
        ["cat/a.jpg", "cat/b.jpg", "cat/c.jpg", "dog/a.jpg", "dog/d.jpg"],
        ["cat/0.jpg", "cat/1.jpg", "cat/1-again.jpg", "dog/0.jpg", "dog/1.jpg"],
        [f"{'val' if n > 7 else 'train'}/{label}/{n}.jpg" for label in ("cat", "dog") for n in range(9)],
        [f"{label}/image_{index}.jpg" for label in "abcde" for index in range(2)],
        ["train2017/cat/1.jpg", "train2017/dog/1.jpg", "val2017/cat/1.jpg"],
    ],
)
def test_folders_that_number_their_images_are_classes(tmp_path: Path, names: list[str]) -> None:
    source = write_images(tmp_path / "s", names)
    assert ingest(source).counts()["labels"]["labelled"] == len(names)


def test_folder_names_keep_their_bytes_and_spelling(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["50%25/1.jpg", "Cat/1.jpg", "cat/1.jpg", "ñandú/1.jpg"])
    for byte in (b"\xe9", b"\xe8"):
        os.mkdir(os.fsencode(source) + b"/" + byte)
        os.link(source / "cat" / "1.jpg", os.fsencode(source) + b"/" + byte + b"/1.jpg")
    found = ingest(source)
    assert set(found.counts()["labels"]["classes"]) == {"50%25", "Cat", "cat", "ñandú", "%E9", "%E8"}
    assert "'Cat' / 'cat'" in found.text()


def test_a_label_file_in_the_root_goes_before_class_folders(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["a/1.jpg", "b/2.jpg"])
    (source / "metadata.csv").write_text("file_name,label\na/1.jpg,cat\n")
    found = ingest(source)
    assert rows(found, source) == {"a/1.jpg": (["cat"], None), "b/2.jpg": (None, None)}
    assert f"labels: huggingface ({source}/metadata.csv), single-label, 1 class" in found.text()
    assert f"1 labelled, 0 known to have none, 1 unlabelled (such as {source}/b/2.jpg)" in found.text()


def test_a_file_that_only_looks_like_labels_is_said_and_passed_over(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["a/1.jpg", "b/2.jpg"])
    (source / "metadata.csv").write_text("camera,lens\nx,y\n")
    (source / "labels.json").write_text("")
    found = ingest(source)
    assert found.counts()["labels"]["format"] == "class-folders"
    assert "files named like label files that are not: 2 (" in found.text()
    assert "columns camera, lens" in found.text()


def test_two_formats_in_the_root_are_not_chosen_between(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["a/1.jpg"])
    (source / "metadata.csv").write_text("file_name,label\na/1.jpg,cat\n")
    (source / "labels.json").write_text('{"labels": {"1": "cat"}}')
    with pytest.raises(UsageError, match=r"label files of several formats: .*use --label-format none"):
        ingest(source)
    assert ingest(source, str(source / "metadata.csv")).counts()["labels"]["labelled"] == 1
    assert ingest(source, label_format="none").counts()["labels"] is None


@pytest.mark.parametrize("name", [name for name, writer in WRITERS.items() if writer.name.startswith("_")])
def test_a_label_file_per_split_folder_gives_the_splits(tmp_path: Path, name: str) -> None:
    source = write_images(tmp_path / "s", ["train/1.jpg", "train/2.jpg", "valid/1.jpg"])
    label_files.write(source / "train", WRITERS[name], [("1.jpg", ("cat",)), ("2.jpg", ("bird",))])
    label_files.write(source / "valid", WRITERS[name], [("1.jpg", ("bird",))])
    expected = {"train/1.jpg": (["cat"], "train"), "train/2.jpg": (["bird"], "train"), "valid/1.jpg": (["bird"], "val")}
    assert rows(ingest(source), source) == expected
    assert rows(ingest(source, str(source)), source) == expected


def test_a_moved_data_set_is_matched_by_the_ends_of_its_paths(tmp_path: Path) -> None:
    names = [f"{split}/{label}/1.jpg" for split in ("train", "val") for label in ("cat", "dog")]
    source = write_images(tmp_path / "s", names)
    lines = "".join(f"/home/ann/set/{name},{name.split('/')[1]}\n" for name in names)
    (tmp_path / "l.csv").write_text(f"path,label\n{lines}/home/ann/other/1.jpg,owl\n/home/ann/set/test/cat/1.jpg,owl\n")
    found = ingest(source, str(tmp_path / "l.csv"))
    assert [labels for labels, _ in rows(found, source).values()] == [["cat"], ["dog"], ["cat"], ["dog"]]
    said = "\n".join(found.notes.lines())
    assert "rows whose name matches several files, ignored: 1 (/home/ann/other/1.jpg (" in said
    assert "rows that name a file not in the source: 1 (/home/ann/set/test/cat/1.jpg)" in said
    assert (
        f"rows matched by the end of their path alone: 4 (/home/ann/set/train/cat/1.jpg as {source}/train/cat/1.jpg"
        in said
    )
    part = ingest(source / "val", str(tmp_path / "l.csv"))
    assert part.table["labels"].to_pylist() == [["cat"], ["dog"]]
    assert "rows that name a file not in the source: " in "\n".join(part.notes.lines())


def test_a_name_alone_that_fits_one_file_is_taken_and_said(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["1.jpg", "2.jpg"])
    (tmp_path / "l.csv").write_text("path,label\n/elsewhere/1.jpg,cat\nx/2.jpg,cat\ny/2.jpg,cat\n")
    found = ingest(source, str(tmp_path / "l.csv"))
    assert rows(found, source) == {"1.jpg": (["cat"], None), "2.jpg": (None, None)}
    said = "\n".join(found.notes.lines())
    assert "rows matched by file name alone, in another folder: 2 (/elsewhere/1.jpg, x/2.jpg)" in said
    assert "rows whose name matches several files, ignored: 2 (x/2.jpg, y/2.jpg)" in said


def test_a_file_of_another_split_is_another_file(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["val/cat/1.jpg", "val/cat/2.jpg"])
    (tmp_path / "l.csv").write_text("path,label\ntrain/cat/1.jpg,cat\nval/cat/2.jpg,cat\n")
    found = ingest(source, str(tmp_path / "l.csv"))
    assert found.table["labels"].to_pylist() == [None, ["cat"]]
    assert "rows that name a file not in the source: 1 (train/cat/1.jpg)" in found.text()


def test_names_with_percent_signs_are_not_taken_for_each_other(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["50%41.jpg", "50%2541.jpg", "a%20b.jpg"])
    (tmp_path / "l.csv").write_text("path,label\n50%41.jpg,a\n50%2541.jpg,b\na%20b.jpg,c\n")
    labels = {
        Path(uri).name: labels for uri, (labels, _) in rows(ingest(source, str(tmp_path / "l.csv")), source).items()
    }
    assert labels == {"50%2541.jpg": ["a"], "50%252541.jpg": ["b"], "a%2520b.jpg": ["c"]}


def test_accents_match_however_they_are_composed(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["cafe\u0301.jpg", "th\u00e9.jpg"])
    (tmp_path / "l.csv").write_text("path,label\ncaf\u00e9.jpg,cat\nthe\u0301.jpg,cat\n")
    assert ingest(source, str(tmp_path / "l.csv")).counts()["labels"]["labelled"] == 2


def test_a_manifest_keeps_its_labels_unless_others_are_given(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["cat/1.jpg", "dog/1.jpg"])
    ingest(source)
    (tmp_path / "l.csv").write_text("path,label\ncat/1.jpg,lion\n")
    manifest, out = str(tmp_path / "m.parquet"), str(tmp_path / "n.parquet")
    assert tagger.ingest(manifest, out).table["labels"].to_pylist() == [["cat"], ["dog"]]
    assert tagger.ingest(manifest, out, str(tmp_path / "l.csv")).table["labels"].to_pylist() == [["lion"], None]


def test_the_command_says_which_labels_it_took(run_tagger: Run, tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", [f"{index}.jpg" for index in range(30)])
    lines = "".join(f"{index}.jpg,class {index}\n" for index in range(25))
    (tmp_path / "l.csv").write_text(f"path,label\n{lines}gone.jpg,class 1\n", encoding="utf-16")
    out = tmp_path / "m.parquet"
    ran = run_tagger("ingest", source, "--labels", tmp_path / "l.csv", "--out", out)
    assert (ran.returncode, ran.stderr.count("tagger: ")) == (0, 0)
    lines = ran.stdout.splitlines()
    assert lines[0] == "30 image files found"
    assert lines[1] == f"labels: single-label ({tmp_path}/l.csv), single-label, 25 classes"
    assert lines[22] == "  and 5 more"
    assert lines[23].startswith("25 labelled, 0 known to have none, 5 unlabelled (such as ")
    assert lines[24:] == ["warning: rows that name a file not in the source: 1 (gone.jpg)", f"manifest: {out}"]
    counts = json.loads(run_tagger("ingest", source, "--labels", tmp_path / "l.csv", "--out", out, "--json").stdout)
    assert counts["labels"]["unlabelled"] == 5
    assert counts["labels"]["matched_rows"] == 25
    assert counts["warnings"] == [
        {"what": "rows that name a file not in the source", "count": 1, "examples": ["gone.jpg"]}
    ]


def test_the_command_refuses_in_one_line(run_tagger: Run, tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["1.jpg"])
    (tmp_path / "l.csv").write_text("width,height\n1,2\n")
    (tmp_path / "names.txt").write_text("\n")
    (tmp_path / "other.csv").write_text("path,label\nelse.jpg,cat\n")
    out = ("--out", tmp_path / "m.parquet")
    for options, message in (
        (
            ["--labels", tmp_path / "l.csv"],
            "with columns width, height. Nearest: one-hot (a path and a column of 0/1 or -1/1 per class)",
        ),
        (["--labels", tmp_path / "none.csv"], "none.csv: not found"),
        (["--labels", tmp_path / "other.csv"], "other.csv: has no image of"),
        (["--labels", tmp_path / "other.csv"], "rows that name a file not in the source: 1 (else.jpg)); nothing was"),
        (["--labels", tmp_path / "l.csv", "--label-format", "single"], "--label-format single: expected auto, none"),
        (["--labels", tmp_path / "l.csv", "--label-format", "coco"], "l.csv: not valid JSON"),
        (["--label-names", tmp_path / "names.txt"], "no class names in it"),
        (["--label-names", tmp_path / "none.txt"], "none.txt: not found"),
    ):
        ran = run_tagger("ingest", source, *options, *out)
        assert ran.returncode == 1, options
        assert ran.stdout == ""
        assert message in ran.stderr
        assert ran.stderr.count("tagger: ") == 1
        assert not (tmp_path / "m.parquet").exists()


def test_a_million_element_json_is_not_needed_to_tell_its_format(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["1.jpg"])
    images = [{"id": index, "file_name": f"{index}.jpg"} for index in range(20_000)]
    document = {
        "images": images,
        "annotations": [{"image_id": 1, "category_id": 3}],
        "categories": [{"id": 3, "name": "x"}],
    }
    (tmp_path / "l.json").write_text(json.dumps(document))
    assert ingest(source, str(tmp_path / "l.json")).table["labels"].to_pylist() == [["x"]]


def test_reading_labels_loads_neither_torch_nor_prefect(tmp_path: Path) -> None:
    source = write_images(tmp_path / "s", ["a/1.jpg", "b/1.jpg"])
    code = (
        "import sys, tagger; tagger.ingest(sys.argv[1], sys.argv[2]); "
        "print([m for m in ('torch', 'timm', 'prefect') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "m.parquet")]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "[]"
