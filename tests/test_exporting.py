"""Labels and tags leave in formats that other tools read, and come back the same."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from label_files import write_images

import tagger
from tagger import schema
from tagger.errors import SourceNotFound, TableError, UsageError

Run = Callable[..., subprocess.CompletedProcess[str]]
FORMATS = {"csv": "l.csv", "parquet": "l.parquet", "huggingface": "metadata.csv", "label-studio": "tasks.json"}
every_format = pytest.mark.parametrize("format", FORMATS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_images(tmp_path / "source", ["a/1.jpg", "a/2 x.jpg", "50%25.jpg", 'ñ,"q".jpg', "5.jpg", "b/1.jpg"])
    os.rename(folder / "5.jpg", os.fsencode(folder) + b"/\xff.jpg")
    return folder


def written_manifest(source: Path, labels: list[list[str] | None], splits: list[str | None]) -> Path:
    out = source.parent / "labelled.parquet"
    table = tagger.ingest(str(source), str(out), label_format="none").table
    for name, values in (("labels", pa.array(labels, pa.list_(pa.string()))), ("split", pa.array(splits, pa.string()))):
        table = table.set_column(table.schema.get_field_index(name), name, values)
    out.write_bytes(schema.serialise(table, "manifest"))
    return out


def round_trip(source: Path, manifest: Path, format: str) -> pa.Table:
    out = source / FORMATS[format]
    written = tagger.export(str(manifest), str(out), format)
    assert "6 rows with labels written" in written.text()
    return tagger.ingest(str(source), str(source.parent / "again.parquet"), str(out)).table


@every_format
@pytest.mark.parametrize(
    "labels",
    [
        [["cat"], ["hot dog"], None, ["cat"], ["ñandú"], ["[x"]],
        [["a", "b|c"], [], None, ["d, e", 'f"g'], ["hot dog"], [" x"]],
        [None] * 6,
    ],
    ids=["one label each", "several", "none at all"],
)
def test_what_is_exported_comes_back_the_same(source: Path, format: str, labels: list[list[str] | None]) -> None:
    splits = ["train", "val", "test", None, "train", None]
    manifest = written_manifest(source, labels, splits)
    if format == "label-studio" and not any(labels):
        with pytest.raises(TableError, match="gives no image a label"):  # nor a split, which its tasks cannot hold
            round_trip(source, manifest, format)
        return
    again = round_trip(source, manifest, format)
    assert again["labels"].to_pylist() == labels
    assert again["split"].to_pylist() == (splits if format != "label-studio" else [None] * 6)


def test_hugging_face_metadata_must_lie_above_its_images(source: Path, tmp_path: Path) -> None:
    manifest = written_manifest(source, [["a"]] * 6, [None] * 6)
    with pytest.raises(UsageError, match=r"is not below .*; write metadata\.csv in the folder of the images"):
        tagger.export(str(manifest), str(tmp_path / "elsewhere" / "metadata.csv"), "huggingface")
    assert tagger.export(str(manifest), str(source / "metadata.csv"), "huggingface").rows == 6
    assert pd.read_csv(source / "metadata.csv")["label"].tolist() == ["a"] * 6


def results(folder: Path, uris: list[str], tags: list[list[tuple[str, float]] | None], model: str = "m") -> None:
    rows: list[dict[str, Any]] = [
        {"uri": uri, "status": "ok" if pairs is not None else "corrupt", "model": model, "run_id": "00000001-aa",
         "tagged_at": datetime(2024, 1, 1, tzinfo=UTC),
         "tags": None if pairs is None else [{"tag": tag, "score": score} for tag, score in pairs]}
        for uri, pairs in zip(uris, tags, strict=True)
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    content = schema.serialise(schema.from_rows(rows, "results"), "results")
    (folder / f"part-00000001-{model}-0.parquet").write_bytes(content)


@every_format
def test_the_latest_tags_leave_as_predictions(source: Path, tmp_path: Path, format: str) -> None:
    uris = sorted(tagger.ingest(str(source), str(tmp_path / "m.parquet")).table["uri"].to_pylist())
    tags: list[list[tuple[str, float]] | None] = [[("cat", 0.9), ("dog", 0.5)], [], None, *[[("owl", 0.7)]] * 3]
    results(tmp_path / "results", uris, tags)
    out = source / FORMATS[format]
    assert tagger.export(str(tmp_path / "results"), str(out), format).text().startswith("6 rows with tags written")
    if format == "label-studio":
        tasks = json.loads(out.read_text())
        assert [len(task["predictions"]) for task in tasks] == [1, 1, 0, 1, 1, 1]
        first = tasks[0]["predictions"][0]
        assert (first["model_version"], round(first["score"], 3)) == ("m", 0.9)
        assert first["result"][0]["value"]["choices"] == ["cat", "dog"]
        return
    table = tagger.ingest(str(source), str(tmp_path / "again.parquet"), str(out)).table
    labels = dict(zip(table["uri"].to_pylist(), table["labels"].to_pylist(), strict=True))
    assert [labels[uri] for uri in uris] == [["cat", "dog"], [], None, ["owl"], ["owl"], ["owl"]]


def test_corrected_predictions_come_back_from_label_studio(source: Path, tmp_path: Path) -> None:
    uris = tagger.ingest(str(source), str(tmp_path / "m.parquet")).table["uri"].to_pylist()
    results(tmp_path / "results", uris, [[("cat", 0.9)]] * 6)
    tagger.export(str(tmp_path / "results"), str(tmp_path / "tasks.json"), "label-studio")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    for task in tasks[:2]:
        result = task["predictions"][0]["result"]
        result[0]["value"]["choices"] = ["dog"]
        task["annotations"] = [{"result": result}]
        del task["data"]["uri"]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    again = tagger.ingest(str(source), str(tmp_path / "again.parquet"), str(tmp_path / "tasks.json"))
    corrected = [row["uri"] for row in again.table.to_pylist() if row["labels"] == ["dog"]]
    assert sorted(corrected) == sorted(uris)[:2]
    assert "tasks with predictions but no annotation (predictions are not labels): 4 (" in again.text()


def test_results_of_two_models_need_a_name(source: Path, tmp_path: Path) -> None:
    results(tmp_path / "results", ["/a.jpg"], [[("cat", 0.9)]], "m")
    results(tmp_path / "results", ["/a.jpg"], [[("dog", 0.9)]], "n")
    with pytest.raises(UsageError, match=r"must name one of the models in .*: m, n"):
        tagger.export(str(tmp_path / "results"), str(tmp_path / "l.csv"), "csv")
    with pytest.raises(UsageError, match="--model x: not in"):
        tagger.export(str(tmp_path / "results"), str(tmp_path / "l.csv"), "csv", "x")
    tagger.export(str(tmp_path / "results"), str(tmp_path / "l.csv"), "csv", "n")
    assert pd.read_csv(tmp_path / "l.csv")["tags"].tolist() == ['["dog"]']


def test_what_is_neither_manifest_nor_results_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(TableError, match="expected a manifest table"):
        tagger.export(str(tmp_path / "x.parquet"), str(tmp_path / "l.csv"), "csv")
    with pytest.raises(SourceNotFound, match="no results here"):
        tagger.export(str(tmp_path / "nothing"), str(tmp_path / "l.csv"), "csv")
    with pytest.raises(UsageError, match="--format xml: expected one of csv, parquet, huggingface, label-studio"):
        tagger.export(str(tmp_path / "x.parquet"), str(tmp_path / "l.csv"), "xml")


def test_the_command_writes_a_file_that_ingest_reads(run_tagger: Run, source: Path, tmp_path: Path) -> None:
    manifest = written_manifest(source, [["a"], ["b"], None, [], ["a", "b"], None], [None] * 6)
    ran = run_tagger("export", manifest, "--format", "csv", "--out", tmp_path / "l.csv")
    assert (ran.returncode, ran.stdout) == (0, f"6 rows with labels written: {tmp_path}/l.csv\n")
    as_json = run_tagger("export", manifest, "--format", "parquet", "--out", tmp_path / "l.parquet", "--json")
    assert json.loads(as_json.stdout) == {"out": str(tmp_path / "l.parquet"), "rows": 6, "kind": "labels"}
    again = run_tagger("ingest", source, "--labels", tmp_path / "l.csv", "--out", tmp_path / "n.parquet", "--json")
    counts = json.loads(again.stdout)["labels"]
    assert (counts["labelled"], counts["known_none"], counts["unlabelled"]) == (3, 1, 2)
    assert run_tagger("export", manifest, "--format", "xml", "--out", tmp_path / "x").returncode == 1
