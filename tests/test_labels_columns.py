"""Tables whose columns the user names: `--file-column`, `--label-column`, `--split-column`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from label_files import by_name, ingest, notes_of, splits, write_images

from tagger.errors import TableError, UsageError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_images(tmp_path / "source", [f"{index}.jpg" for index in range(1, 7)])


HAM = "lesion_id,image_id,dx,dx_type,age,sex\nHAM_1,1,bkl,histo,80.0,male\nHAM_1,2,nv,histo,80.0,male\n"
NIH = "Image Index,Finding Labels,Follow-up #\n1.jpg,Hernia|Mass,0\n2.jpg,No Finding,0\n3.jpg,Mass,1\n4.jpg,Hernia,2\n"
CHEXPERT = (
    "Path,Sex,Age,No Finding,Edema,Mass\nx/1.jpg,Male,60,1.0,,\nx/2.jpg,Male,60,,1.0,0.0\nx/3.jpg,Male,60,,-1.0,1.0\n"
)


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (HAM, {"file_column": "image_id", "label_column": "dx"}, {"1.jpg": ["bkl"], "2.jpg": ["nv"]}),
        (HAM, {"label_column": ("dx", "sex")}, {"1.jpg": ["bkl", "male"], "2.jpg": ["male", "nv"]}),
        ("id_code,diagnosis\n1,2\n2,0\n", {"file_column": "id_code"}, {"1.jpg": ["2"], "2.jpg": ["0"]}),
        ("tag;pic\ncat;1\ndog;2\n", {"file_column": "pic"}, {"1.jpg": ["cat"], "2.jpg": ["dog"]}),
        (NIH, {"file_column": "Image Index", "label_column": "finding labels"},
         {"1.jpg": ["Hernia", "Mass"], "2.jpg": [], "3.jpg": ["Mass"], "4.jpg": ["Hernia"]}),
        (CHEXPERT, {"label_column": ("No Finding", "Edema", "Mass")}, {"1.jpg": ["No Finding"], "2.jpg": ["Edema"]}),
        ("a,image,b,c\n1,1,x,y|z\n1,2,x,y\n1,3,w,z\n", {"label_column": ("b", "c")},
         {"1.jpg": ["x", "y", "z"], "2.jpg": ["x", "y"], "3.jpg": ["w", "z"]}),
        ("path,cat,dog,sure\n1.jpg,1,0,1\n2.jpg,0,1,1\n", {"label_column": ("cat", "dog")},
         {"1.jpg": ["cat"], "2.jpg": ["dog"]}),
        ([{"pic": "1.jpg", "kind": "cat", "label": "x"}, {"pic": "2.jpg", "kind": ["a", "b"], "label": "y"}],
         {"file_column": "pic", "label_column": "kind"}, {"1.jpg": ["cat"], "2.jpg": ["a", "b"]}),
        ('{"pic": "1.jpg", "kind": "cat"}\n{"pic": "2.jpg", "kind": []}\n',
         {"file_column": "pic", "label_column": "kind"}, {"1.jpg": ["cat"], "2.jpg": []}),
    ],
)  # fmt: skip
def test_named_columns_of_any_table_are_read(
    source: Path, tmp_path: Path, content: object, options: dict[str, object], expected: dict[str, list[str]]
) -> None:
    assert by_name(ingest(source, tmp_path / "l.csv", content, **options)) == expected


def test_named_columns_are_read_from_parquet_and_give_splits(source: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"label": ["w", "w"], "split": ["x", "x"], "pic": ["1", "2"], "kind": ["cat", "dog"], "fold": ["train", "dev"]}
    )
    frame.to_parquet(tmp_path / "l.parquet")
    found = ingest(source, tmp_path / "l.parquet", file_column="pic", label_column="kind", split_column="fold")
    assert (by_name(found), splits(found)) == (
        {"1.jpg": ["cat"], "2.jpg": ["dog"]}, {"1.jpg": "train", "2.jpg": "val"},
    )  # fmt: skip
    assert found.label_source
    assert found.label_source.format.name == "named-columns"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (HAM, {"label_column": "kind"}, r"--label-column kind: no such columns in .*; have lesion_id, image_id"),
        ("kind,KIND,path\n1,2,3\n", {"label_column": "Kind"}, "--label-column Kind: 2 such columns"),
        ("b,B,path\n1,2,3\n", {"label_column": ("path", "a")}, "--label-column a: no such columns"),
        ({"labels": {"1": "cat"}}, {"split_column": "fold"}, r"fold: no such columns .* it has no columns"),
    ],
)  # fmt: skip
def test_a_named_column_that_is_not_there_is_an_error(
    source: Path, tmp_path: Path, content: object, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ingest(source, tmp_path / "l.csv", content, **options)


def test_named_columns_without_a_table_are_an_error(tmp_path: Path) -> None:
    folders = write_images(tmp_path / "s", ["cat/1.jpg", "dog/2.jpg"])
    with pytest.raises(UsageError, match=r"--label-column and --split-column need a table: .* read as class-folders"):
        ingest(folders, label_column="kind")


def test_the_command_takes_several_label_columns(
    run_tagger: Callable[..., subprocess.CompletedProcess[str]], source: Path, tmp_path: Path
) -> None:
    (tmp_path / "l.csv").write_text(HAM)
    ran = run_tagger(
        "ingest", source, "--labels", tmp_path / "l.csv", "--out", tmp_path / "m.parquet", "--json",
        "--label-column", "dx", "--label-column", "sex,dx_type",
    )  # fmt: skip
    counts = json.loads(ran.stdout)["labels"]
    assert counts["classes"] == {"histo": 2, "male": 2, "bkl": 1, "nv": 1}
    assert counts["format"] == "named-columns"


def test_gaps_beside_minus_one_mean_no_and_are_reported(source: Path, tmp_path: Path) -> None:
    found = ingest(source, tmp_path / "l.csv", CHEXPERT, label_column=("No Finding", "Edema", "Mass"))
    assert "files with 0, -1 and blanks, read as no, unsure and no: 1 (" in notes_of(found)
    assert "rows with a value that is neither 0 nor 1, left unlabelled: 1 (x/3.jpg)" in notes_of(found)


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_separator_that_excel_writes_first_is_no_row(source: Path, tmp_path: Path, first: str) -> None:
    rows = f"{first}\r\npath;label\r\n1.jpg;hot, dog\r\n2.jpg;cat\r\n"
    assert by_name(ingest(source, tmp_path / "l.csv", rows)) == {"1.jpg": ["hot, dog"], "2.jpg": ["cat"]}
    bare = f"{first}\r\n1.jpg;x, y\r\n2.jpg;cat\r\n"
    assert by_name(ingest(source, tmp_path / "l.csv", bare)) == {"1.jpg": ["x, y"], "2.jpg": ["cat"]}


@pytest.mark.parametrize("content", [",,,\n,,\n", ";;\n", "\n" * 2000 + "path,label\n1.jpg,cat\n"])
def test_a_file_of_separators_or_blank_lines_is_one_plain_error(source: Path, tmp_path: Path, content: str) -> None:
    with pytest.raises(TableError, match=r"l\.csv: (no label format matches|the label file has no text)"):
        ingest(source, tmp_path / "l.csv", content)
