"""Labels tables: decisions that are on disk, whoever is killed, and that go with the image."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import photo, write_stripes

import tagger
from tagger import schema
from tagger.data import decisions
from tagger.data.decisions import LabelsFile
from tagger.data.labels import moved
from tagger.errors import TableError, UsageError, WriteError

START = datetime(2026, 11, 1, tzinfo=UTC)


def decision(name: str, labels: list[str] | None, after: int = 0, **others: Any) -> dict[str, Any]:
    row = {"uri": name, "image_id": None, "previous": ["cat"], "model_id": "m", "by": None, **others}
    return {**row, "labels": labels, "decided_at": START + timedelta(microseconds=after)}


def labels_in(path: Path) -> dict[str, list[str]]:
    table = decisions.latest(decisions.read(str(path)))
    return dict(zip(table["uri"].to_pylist(), table["labels"].to_pylist(), strict=True))


@pytest.mark.parametrize("merged", [False, True])
def test_the_latest_decision_counts_and_the_history_stays(tmp_path: Path, merged: bool) -> None:
    file = LabelsFile(str(tmp_path / "l.parquet"))
    file.append([decision("a", ["cat"], 3), decision("b", ["dog"], 1), decision("c", [], 1), decision("d", ["x"], 1)])
    file.append([decision("a", ["earlier"], 2), decision("b", ["cat", "dög"], 2), decision("d", None, 2)])
    if merged:
        file.merge()
        assert pq.read_table(tmp_path / "l.parquet").num_rows == 7
        assert not Path(f"{file.path}.journal").exists()
    assert labels_in(tmp_path / "l.parquet") == {"a": ["cat"], "b": ["cat", "dög"], "c": []}
    assert len(decisions.read(file.uri)) == 7
    assert tagger.read_labels(tmp_path / "l.parquet")["uri"].tolist() == ["c", "b", "a"]


def test_a_decision_cut_short_costs_no_other(tmp_path: Path) -> None:
    file = LabelsFile(str(tmp_path / "l.parquet"))
    file.append([decision("a", ["cat"])])
    whole = Path(f"{file.path}.journal").read_bytes()
    with open(f"{file.path}.journal", "ab") as journal:
        journal.write(whole[: len(whole) // 2])
    file.append([decision("b", ["dog"], 1)])
    with open(f"{file.path}.journal", "ab") as journal:
        journal.write(whole.replace(b"cat", b"cow"))
    assert labels_in(tmp_path / "l.parquet") == {"a": ["cat"], "b": ["dog"]}


def test_a_merge_that_was_killed_before_its_end_repeats_nothing(tmp_path: Path) -> None:
    file = LabelsFile(str(tmp_path / "l.parquet"))
    file.append([decision("a", ["cat"])])
    journal = Path(f"{file.path}.journal").read_bytes()
    file.merge()
    Path(f"{file.path}.journal").write_bytes(journal)
    assert len(decisions.read(file.uri)) == 1


def write_many(path: str, name: str) -> None:
    file = LabelsFile(path)
    for index in range(40):
        file.append([decision(f"{name}{index}", ["cat"], index)])
        if index % 10 == 0:
            file.merge()


def test_two_reviewers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "l.parquet")
    seen = LabelsFile(path)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert len(labels_in(tmp_path / "l.parquet")) == 80
    changed = seen.changed()
    assert changed is not None
    assert len(changed) == 80
    seen.append([decision("c", ["cat"])])
    assert seen.changed() is None


def test_files_that_are_no_labels_are_refused_and_stay(tmp_path: Path) -> None:
    path = tmp_path / "l.parquet"
    pq.write_table(pa.table({"uri": ["a"], "labels": [["x"]]}), path)
    before = path.read_bytes()
    with pytest.raises(TableError, match="expected a labels table, but this is not written by tagger"):
        LabelsFile(str(path)).changed()
    path.write_bytes(before[:-9])
    with pytest.raises(TableError, match=r"l\.parquet: a damaged Parquet file"):
        LabelsFile(str(path)).changed()
    path.write_bytes(schema.serialise(schema.MANIFEST.empty_table(), "manifest"))
    with pytest.raises(TableError, match="but this is a tagger manifest table"):
        LabelsFile(str(path)).changed()
    with pytest.raises(UsageError, match=r"--labels s3://b/l\.parquet: must be a local file"):
        LabelsFile("s3://b/l.parquet")
    with pytest.raises(UsageError, match=r"the name must end in \.parquet"):
        LabelsFile(str(tmp_path / "labels.csv"))
    with pytest.raises(WriteError, match=r"the folder .*nowhere does not exist"):
        LabelsFile(str(tmp_path / "nowhere" / "l.parquet"))


def reviewed(folder: Path, labels: dict[str, list[str]], out: Path) -> Path:
    """Write decisions about files, with the hashes they have now."""
    rows = [
        decision(str(folder / name), given, at, image_id=hashlib.sha256((folder / name).read_bytes()).hexdigest())
        for at, (name, given) in enumerate(labels.items())
    ]
    LabelsFile(str(out)).append(rows)
    return out


def ingested(source: Path, labels: Path, out: Path) -> dict[str, list[str] | None]:
    table = tagger.ingest(source, out, labels).table
    return {Path(row["uri"]).name: row["labels"] for row in table.select(["uri", "labels"]).to_pylist()}


def test_labels_go_with_the_image_and_not_with_its_name(photos: Path, tmp_path: Path) -> None:
    given = {"0.jpg": ["cat"], "2.jpg": ["dog"], "4.jpg": [], "sub/1.jpg": ["cow"], "sub/3.jpg": ["owl"]}
    file = reviewed(photos, given, tmp_path / "l.parquet")
    (photos / "other").mkdir()
    shutil.move(photos / "0.jpg", photos / "other" / "0.jpg")  # moved
    shutil.move(photos / "2.jpg", photos / "two.jpg")  # renamed
    photo(99).save(photos / "sub" / "1.jpg")  # replaced
    (photos / "sub" / "3.jpg").unlink()
    found = ingested(photos, file, tmp_path / "m.parquet")
    assert found == {"0.jpg": ["cat"], "two.jpg": ["dog"], "4.jpg": [], "1.jpg": None, "5.jpg": None}
    notes = tagger.ingest(photos, tmp_path / "m.parquet", file).notes.lines()
    assert [note.partition(":")[0] for note in notes] == [moved.CHANGED, moved.LOST]


def test_a_manifest_keeps_the_labels_that_were_not_reviewed(photos: Path, tmp_path: Path) -> None:
    rows = "".join(f"{name},cat\n" for name in ("0.jpg", "2.jpg", "4.jpg"))
    (tmp_path / "l.csv").write_text(f"file_name,label\n{rows}")
    ingested(photos, tmp_path / "l.csv", tmp_path / "m.parquet")
    file = reviewed(photos, {"0.jpg": ["dog"], "sub/1.jpg": ["cow"]}, tmp_path / "l.parquet")
    found = ingested(tmp_path / "m.parquet", file, tmp_path / "n.parquet")
    assert found == {
        "0.jpg": ["dog"],
        "2.jpg": ["cat"],
        "4.jpg": ["cat"],
        "1.jpg": ["cow"],
        "3.jpg": None,
        "5.jpg": None,
    }


def test_a_labels_table_in_the_source_does_not_hide_class_folders(tmp_path: Path) -> None:
    write_stripes(tmp_path / "stripes", 2)
    reviewed(tmp_path / "stripes", {"plain/0.png": ["down"]}, tmp_path / "stripes" / "labels.parquet")
    found = tagger.ingest(tmp_path / "stripes", tmp_path / "m.parquet")
    assert found.table["labels"].null_count == 0
    assert "labels of `tagger review` in the source, not read; use --labels: 1" in found.text()


def test_a_copy_that_pandas_wrote_is_read(photos: Path, tmp_path: Path) -> None:
    file = LabelsFile(str(reviewed(photos, {"0.jpg": ["dog"]}, tmp_path / "l.parquet")))
    file.merge()
    copy = tmp_path / "copy.parquet"
    import pandas as pd

    pd.read_parquet(file.path).to_parquet(copy)
    assert ingested(photos, copy, tmp_path / "m.parquet")["0.jpg"] == ["dog"]


def test_training_takes_corrections_before_the_labels_of_the_dataset(tmp_path: Path, run_tagger: Any) -> None:
    source, out = tmp_path / "stripes", tmp_path / "model"
    write_stripes(source, 12)
    os.rename(source / "plain" / "0.png", source / "across" / "wrong.png")
    file = reviewed(source, {"across/wrong.png": ["plain"]}, tmp_path / "l.parquet")
    command = ("train", source, "--out", out, "--labels", file, "--method", "scratch", "--epochs", 1)
    ran = run_tagger(*command)
    assert ran.returncode == 0, ran.stderr
    rows = pq.read_table(out / "dataset.parquet", columns=["uri", "labels"]).to_pylist()
    labels = {Path(row["uri"]).name: row["labels"] for row in rows}
    assert len(rows) == 36
    assert labels["wrong.png"] == ["plain"]
    card = (out / "README.md").read_text()
    assert "1 of 36 labels are from" in card
    assert "--labels" in card
