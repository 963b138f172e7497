"""Unknown images: told by the features of the training images, in every engine, table and page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from pictures import without_statistics, write_stripes
from PIL import Image

import tagger
from tagger import checkpoint
from tagger.checkpoint.unknown import FILE, from_bytes, to_bytes
from tagger.errors import ModelError, SourceError
from tagger.evaluation import unknown
from tagger.evaluation.onnx import export_onnx
from tagger.inference.config import ModelConfig
from tagger.inference.pipeline import score_rows
from tagger.reporting.results_report import report
from tagger.reviewing.images import Query, open_images
from tagger.tagging import results
from tagger.tagging.compact import compact
from tagger.tagging.config import TagConfig
from tagger.tagging.query import query
from tagger.training.config import TrainConfig
from tagger.training.train import train

Run = Callable[..., subprocess.CompletedProcess[str]]
COUNT = 40


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes across and down, in splits."""
    folder = tmp_path_factory.mktemp("stripes")
    for seed, (split, count) in enumerate({"train": COUNT, "val": 20, "test": 20}.items()):
        write_stripes(folder / split, count, seed, ("across", "down"))
    return folder


@pytest.fixture(scope="module")
def model(stripes: Path, timm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe that was trained on stripes."""
    out = tmp_path_factory.mktemp("model") / "striped"
    train(stripes, out, TrainConfig(backbone=f"local-dir:{timm_folder}", method="probe"))
    return out


@pytest.fixture(scope="module")
def photos(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test images of stripes, images of bright noise, and a file that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    shutil.copytree(stripes / "test", folder / "known")
    (folder / "foreign").mkdir()
    rng = np.random.default_rng(7)
    for number in range(12):
        noise = rng.integers(0, 2, (8, 8, 3), dtype=np.uint8) * 255
        Image.fromarray(noise).resize((64, 64), Image.Resampling.NEAREST).save(folder / "foreign" / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def table(photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("table") / "results"
    tagger.tag(photos, model, out)
    return out


# --- statistics ------------------------------------------------------------------------------------------------------


def features(count: int, seed: int, centre: float = 1.0) -> Any:
    return np.random.default_rng(seed).normal(centre, 0.3, (count, 16)).astype(np.float32)


def test_the_cut_keeps_95_percent_of_the_held_out_images() -> None:
    held_out = features(200, 1)
    found = unknown.of_features(features(300, 0), held_out)
    assert 0.04 <= found.unknown(found.distances(held_out)).mean() <= 0.05
    assert found.unknown(found.distances(features(50, 2, centre=-1.0))).all()
    assert found.unknown(found.distances(np.full((1, 16), np.nan, np.float32))).all()


def test_statistics_are_the_same_after_they_were_written_and_read() -> None:
    made = unknown.of_features(features(300, 0), features(200, 1))
    read = from_bytes(to_bytes(made), made.neighbour, made.cut, "here")
    assert read.fingerprint() == made.fingerprint()
    assert np.array_equal(read.distances(features(9, 3)), made.distances(features(9, 3)))


@pytest.mark.parametrize(("train_count", "val"), [(300, 19), (4, 100)])
def test_too_few_images_give_no_statistics(train_count: int, val: int) -> None:
    splits = {"train": np.arange(train_count), "val": np.arange(val), "test": np.arange(0)}
    assert unknown.fit(splits, lambda rows: features(len(rows), 0)) is None


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["knn", "finetune", "scratch"])
def test_other_training_methods_store_statistics(stripes: Path, timm_folder: Path, tmp_path: Path, method: Any) -> None:
    backbone = {} if method == "scratch" else {"backbone": f"local-dir:{timm_folder}"}
    options = {"epochs": 1, "batch_size": 16} if method in ("finetune", "scratch") else {}
    info = train(stripes, tmp_path / "made", TrainConfig(method=method, **backbone, **options))
    entry = json.loads((tmp_path / "made" / "tagger.json").read_text())["unknown"]
    assert info.statistics
    assert entry["cut"] == info.statistics.cut
    assert (entry["split"], entry["images"]) == ("val", 40)
    assert len(info.statistics.examples) == 2 * COUNT
    assert "% of 40 validation images is `unknown`" in (tmp_path / "made" / "README.md").read_text()


def test_the_model_id_covers_the_statistics(model: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(model, tmp_path / model.name))
    ids = {checkpoint.describe(str(copied)).model_id}
    ids.add(checkpoint.describe(str(without_statistics(model, tmp_path / "old"))).model_id)
    bundle = json.loads((copied / "tagger.json").read_text())
    bundle["unknown"]["cut"] += 0.01
    (copied / "tagger.json").write_text(json.dumps(bundle))
    assert len(ids | {checkpoint.describe(str(copied)).model_id}) == 3


def halves(content: bytes) -> bytes:
    return content[: len(content) // 2]


def other(**arrays: Any) -> Callable[[bytes], bytes]:
    return lambda content: safetensors.numpy.save(arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (halves, "damaged"),
        (other(examples=np.zeros((9, 4), np.float32)), "expected examples of float16"),
        (other(examples=np.zeros(9, np.float16)), "expected examples of float16"),
        (other(), "got nothing"),
        (other(examples=np.zeros((2, 4), np.float16)), "at least 5 examples of finite numbers, got 2"),
        (other(examples=np.full((9, 4), np.inf, np.float16)), "finite numbers"),
        (other(examples=np.ones((9, 4), np.float16)), "features of length 4, the network's"),
        (None, "has no unknown.safetensors, which tagger.json names"),
    ],
)
def test_statistics_that_cannot_be_used_are_one_error(
    model: Path, photos: Path, tmp_path: Path, change: Callable[[bytes], bytes] | None, message: str
) -> None:
    copied = Path(shutil.copytree(model, tmp_path / "model"))
    file = copied / FILE
    if change:
        file.write_bytes(change(file.read_bytes()))
    else:
        file.unlink()
    with pytest.raises(ModelError, match=rf"(?s){message}.*; `tagger calibrate` recreates it$"):
        tagger.load(copied, engine="eager").predict(photos / "known" / "across" / "0.png")


@pytest.mark.parametrize("cut", ["high", None, float("nan"), [1]])
def test_a_cut_that_is_no_number_is_refused(model: Path, tmp_path: Path, cut: object) -> None:
    copied = Path(shutil.copytree(model, tmp_path / "model"))
    bundle = json.loads((copied / "tagger.json").read_text())
    bundle["unknown"]["cut"] = cut
    (copied / "tagger.json").write_text(json.dumps(bundle))
    with pytest.raises(ModelError, match=r"tagger.json: unknown.cut: "):
        checkpoint.describe(str(copied))


# --- rows ------------------------------------------------------------------------------------------------------------


def by_folder(out: Path) -> dict[str, Any]:
    frame = tagger.read_results(out)
    return dict(iter(frame.groupby(frame["uri"].str.split("/").str[-2].where(frame["status"] == "ok", "broken"))))


def test_unknown_images_have_scores_but_no_tags(table: Path) -> None:
    kinds = by_folder(table)
    foreign, known = kinds["foreign"], pd.concat([kinds["across"], kinds["down"]])
    assert foreign["unknown"].all()
    assert known["unknown"].mean() < 0.2
    assert foreign["unknown_score"].min() > known["unknown_score"].median()
    assert (foreign["tags"].str.len() == 0).all()
    assert foreign["top_tag"].notna().all()
    assert (foreign["candidates"].str.len() > 0).all()
    assert (known[~known["unknown"].astype(bool)]["tags"].str.len() > 0).any()
    assert kinds["broken"][["unknown", "unknown_score"]].isna().all(axis=None)


def test_unknown_images_are_tagged_where_that_is_asked_for(photos: Path, model: Path, tmp_path: Path) -> None:
    tagger.tag(photos, model, tmp_path / "out")
    summary = tagger.tag(photos, model, tmp_path / "out", TagConfig(tag_unknown=True, threshold=0.0))
    assert summary.reasons == {"other settings": len(tagger.read_results(tmp_path / "out"))}
    foreign = by_folder(tmp_path / "out")["foreign"]
    assert foreign["unknown"].all()
    assert (foreign["tags"].str.len() == 2).all()


def test_the_option_changes_no_settings_of_a_model_without_statistics(model: Path, tmp_path: Path) -> None:
    old, new = checkpoint.describe(str(without_statistics(model, tmp_path / "old"))), checkpoint.describe(str(model))
    ids = [
        [config.settings_id(info) for config in (ModelConfig(), ModelConfig(tag_unknown=True))] for info in (old, new)
    ]
    assert ids[0][0] == ids[0][1] == ids[1][0] != ids[1][1]


@pytest.mark.parametrize("engine", ["eager", "onnx"])
def test_every_engine_finds_the_same_images_unknown(
    photos: Path, model: Path, table: Path, tmp_path: Path, engine: Any
) -> None:
    files = sorted(str(path) for path in photos.glob("*/**/*.png"))
    expected = tagger.load(model, engine="openvino").predict(files)
    name: Path = model
    if engine == "onnx":
        name = tmp_path / "model.onnx"
        export_onnx(model, name)
    loaded = tagger.load(name, **({"engine": "eager"} if engine == "eager" else {}))
    found = loaded.predict(files)
    assert [row["unknown"] for row in found] == [row["unknown"] for row in expected]
    distances = np.array([[row["unknown_score"] for row in rows] for rows in (found, expected)])
    assert np.abs(distances[0] - distances[1]).max() < 1e-4


def test_a_checkpoint_without_statistics_gives_nulls_and_the_same_scores(
    photos: Path, model: Path, table: Path, tmp_path: Path
) -> None:
    summary = tagger.tag(photos, without_statistics(model, tmp_path / "old"), tmp_path / "out")
    old, new = (results.read_table(out).sort_by("uri") for out in (tmp_path / "out", table))
    assert old["unknown"].null_count == old["unknown_score"].null_count == len(old)
    assert old["candidates"].equals(new["candidates"])
    assert "unknown" not in summary.text()


def test_the_packaged_network_has_no_statistics() -> None:
    assert checkpoint.describe("imagenet").statistics is None


def test_a_table_of_an_earlier_version_is_read_beside_new_rows(
    photos: Path, model: Path, tmp_path: Path, run_tagger: Run
) -> None:
    """Columns that a part lacks are null, also after a compaction."""
    out = tmp_path / "out"
    tagger.tag(photos, without_statistics(model, tmp_path / "old" / model.name), out)
    (part,) = out.glob("*.parquet")
    older = pq.read_table(part).drop_columns(["unknown_score", "unknown"])
    pq.write_table(older.replace_schema_metadata({**older.schema.metadata, b"tagger.schema": b"1"}), part)
    assert results.read_table(out)["unknown"].null_count == len(older)
    tagger.tag(photos, model, out)
    rows = "SELECT count(*) AS rows, count(unknown) AS told, sum(unknown::INT) AS unknown FROM history"
    before = query(out, rows).to_pylist()[0]
    assert (before["rows"], before["told"]) == (2 * len(older), len(older) - 1)
    assert before["unknown"] >= 12
    compact(out, grace=0)
    assert query(out, rows).to_pylist()[0] == before
    assert tagger.read_results(out)["unknown"].sum() == before["unknown"]


def test_summary_and_pages_count_unknown_images(photos: Path, model: Path, tmp_path: Path, run_tagger: Run) -> None:
    out = tmp_path / "out"
    ran = run_tagger("tag", photos, "--model", model, "--out", out)
    count = int(tagger.read_results(out)["unknown"].sum())
    assert f"52 tagged, 1 failed (1 unsupported), {count} unknown" in ran.stdout
    untagged = int((tagger.read_results(out)["tags"].str.len() == 0).sum())
    assert f"{untagged} of these have no tag: unknown (see --tag-unknown), or no score over its" in ran.stdout
    again = json.loads(run_tagger("tag", photos, "--model", model, "--out", out, "--redo", "--json").stdout)
    assert (again["models"][0]["unknown"], again["models"][0]["untagged"]) == (count, untagged)
    page = report.text(report.gather(out))
    assert f"unknown | {count} ({count / 52:.1%})" in page
    shown = run_tagger("predict", photos / "foreign" / "0.png", "--model", model).stdout
    assert "unknown: unlike the images that the model was trained on" in shown


def test_the_review_shows_unknown_images_alone_or_first(table: Path) -> None:
    with open_images(table) as images:
        alone = images.page(Query(unknown=True))
        first = images.page(Query(sort="unknown"))
        assert images.has_unknown()
    assert {row["unknown"] for row in alone} == {True}
    assert len(alone) >= 12
    scores = [row["unknown_score"] for row in first]
    assert scores == sorted(scores, reverse=True)


def test_distances_take_one_thread_while_a_run_goes_on(model: Path, photos: Path) -> None:
    import threadpoolctl

    def threads() -> list[int]:
        return [each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]

    def inspect(*image: object) -> dict[str, Any]:
        return {"threads": threads()}

    before, loaded = threads(), tagger.load(model)
    entries = [{"uri": str(photos / "foreign" / "0.png"), "bytes": None}]
    (row,) = score_rows(entries, [loaded], None, inspect)
    assert (set(row["threads"]), threads()) == ({1}, before)


# --- calibrate -------------------------------------------------------------------------------------------------------


def test_calibrate_adds_statistics_and_leaves_the_scores(
    stripes: Path, photos: Path, model: Path, tmp_path: Path, run_tagger: Run
) -> None:
    old = without_statistics(model, tmp_path / "uncalibrated")
    before = tagger.load(old).predict(photos / "foreign" / "0.png")[0]
    ran = run_tagger("calibrate", old, stripes, "--json")
    assert json.loads(ran.stdout)["unknown"]["cut"] == pytest.approx(
        checkpoint.describe(str(model)).statistics.cut, abs=1e-3
    )
    after = tagger.load(old).predict(photos / "foreign" / "0.png")[0]
    assert after["candidates"] == before["candidates"]
    assert (before["unknown"], after["unknown"]) == (None, True)
    assert after["model_id"] != before["model_id"]
    names = re.compile(f"{old.name}|{model.name}")
    cards = [names.sub("NAME", (each / "README.md").read_text()) for each in (old, model)]
    assert cards[0] == cards[1]


def test_calibrate_needs_a_checkpoint_and_splits(
    stripes: Path, photos: Path, model: Path, timm_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="statistics for unknown images can be added to checkpoint folders only"):
        unknown.calibrate(f"local-dir:{timm_folder}", stripes)
    old = without_statistics(model, tmp_path / "model")
    (old / "dataset.parquet").unlink()
    with pytest.raises(SourceError, match=r"0 train, 0 val, 0 test images; expected at least 5 in train and 20 in val"):
        unknown.calibrate(old, stripes / "test")
