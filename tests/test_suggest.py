"""`tagger suggest`: which images to label next, which labels to look at again."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photo, write_stripes
from PIL import Image, ImageFilter

import tagger
from tagger import schema
from tagger.data import decisions, scan
from tagger.evaluation import label_errors
from tagger.tagging.suggest import suggestions, suspects
from tagger.tagging.suggest.config import SuggestConfig

Rows = list[dict[str, Any]]


def row(uri: str, margin: float, embedding: Any = None, **values: Any) -> dict[str, Any]:
    """A row of a results table whose two best scores differ by this much."""
    pairs = [{"tag": "cat", "score": (1 + margin) / 2}, {"tag": "dog", "score": (1 - margin) / 2}]
    usual = {"status": "ok", "model": "m", "model_id": "1", "run_id": "00000001-a", "tagged_at": datetime.now(UTC)}
    best = {"tags": pairs[:1], "candidates": pairs, "top_tag": "cat", "top_score": pairs[0]["score"]}
    return {**usual, **best, "uri": uri, "image_id": f"id of {uri}", "embedding": embedding, **values}


def write_table(out: Path, rows: Rows) -> Path:
    out.mkdir(exist_ok=True)
    table = schema.serialise(schema.from_rows(rows, "results"), "results")
    (out / f"part-{rows[0]['run_id']}-0.parquet").write_bytes(table)
    return out


def write_labels(path: Path, rows: Rows) -> Path:
    decided = [{"decided_at": datetime.now(UTC), "labels": ["cat"], **each} for each in rows]
    path.write_bytes(schema.serialise(schema.from_rows(decided, "labels"), "labels"))
    return path


def uris(found: suggestions.Suggestions) -> list[str]:
    return [str(uri).rpartition("/")[2] for uri in found.table["uri"].to_pylist()]


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clustered(tmp_path: Path) -> Path:
    """200 views of one scene, all more uncertain than ten other scenes of 20 images each."""
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(11, 16))
    rows = [row(f"/p/scene-{at}.jpg", 0.0, scenes[0] + rng.normal(0, 0.01, 16)) for at in range(200)]
    rows += [
        row(f"/p/{scene}-{at}.jpg", 0.1 + at / 50, scenes[scene] + rng.normal(0, 0.01, 16))
        for scene in range(1, 11)
        for at in range(20)
    ]
    return write_table(tmp_path / "out", rows)


def test_views_of_one_scene_are_not_all_asked(clustered: Path) -> None:
    found = tagger.suggest(clustered, config=SuggestConfig(count=11))
    assert len({uri.partition("-")[0] for uri in uris(found)}) == 11
    assert found.found == {"uncertain": 400}
    assert min(found.table["score"].to_pylist()) > 0.7, "of each scene an uncertain view is asked"


def test_labelled_images_and_what_is_like_them_are_left_out(clustered: Path, tmp_path: Path) -> None:
    given = [{"uri": "/moved.jpg", "image_id": "id of /p/1-0.jpg"}, {"uri": "/p/2-0.jpg"}]
    labels = write_labels(tmp_path / "labels.parquet", given)
    found = tagger.suggest(clustered, config=SuggestConfig(count=9, labels=str(labels)))
    assert sorted(int(uri.partition("-")[0]) for uri in uris(found) if "scene" not in uri) == [*range(3, 11)]
    assert "2 labelled images are left out" in found.notes
    every = tagger.suggest(clustered, config=SuggestConfig(count=1000, labels=str(labels)))
    assert len(every) == len(set(uris(every))) == 398
    manifest = tmp_path / "manifest.parquet"
    listed = [{"uri": f"/p/scene-{at}.jpg", "labels": ["cat"] if at else None} for at in range(200)]
    manifest.write_bytes(schema.serialise(schema.from_rows(listed, "manifest"), "manifest"))
    rest = tagger.suggest(clustered, config=SuggestConfig(count=1000, labels=str(manifest)))
    assert sum("scene" in uri for uri in uris(rest)) == 1


def test_only_the_latest_row_counts_and_copies_are_one_image(tmp_path: Path) -> None:
    old = [row("/p/a.jpg", 0.0), row("/p/b.jpg", 0.3), row("/p/c.jpg", 0.2, status="corrupt", candidates=None)]
    write_table(tmp_path / "out", old)
    new = [
        row("/p/a.jpg", 0.9, run_id="00000002-a"),
        row("/p/b2.jpg", 0.3, image_id="id of /p/b.jpg", run_id="00000002-a"),
    ]
    found = tagger.suggest(write_table(tmp_path / "out", new))
    assert uris(found) == ["b.jpg", "a.jpg"]


def test_the_model_tagged_last_is_taken_or_the_one_that_is_named(tmp_path: Path) -> None:
    out = write_table(
        tmp_path / "out", [row("/p/a.jpg", 0.1), row("/p/a.jpg", 0.5, model="other", run_id="00000002-a")]
    )
    found = tagger.suggest(out)
    assert found.table["model"].to_pylist() == ["other"]
    assert any("--model chooses m" in note for note in found.notes)
    assert tagger.suggest(out, config=SuggestConfig(model="m")).table["model"].to_pylist() == ["m"]
    with pytest.raises(tagger.TaggerError, match=r"--model x: not in .*other, m"):
        tagger.suggest(out, config=SuggestConfig(model="x"))


def test_without_embeddings_near_duplicates_are_found_by_reading_the_images(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    for at in range(4):
        photo(at).save(folder / f"{at}.jpg", quality=92)
    photo(0).save(folder / "copy.jpg", quality=60)
    names = ["0.jpg", "copy.jpg", "1.jpg", "vanished.jpg", "2.jpg", "3.jpg"]
    rows = [row(str(folder / name), at / 10) for at, name in enumerate(names)]
    found = tagger.suggest(write_table(tmp_path / "out", rows), config=SuggestConfig(count=4))
    assert uris(found) == ["0.jpg", "1.jpg", "vanished.jpg", "2.jpg"]
    assert "no embeddings" in found.notes[0]
    assert found.notes[1] == "1 images cannot be read"


def test_embeddings_of_another_version_of_the_model_are_not_compared(tmp_path: Path) -> None:
    rows = [row(f"/p/{at}.jpg", 0.1, [1.0, at]) for at in range(5)]
    rows += [row("/p/old.jpg", 0.0, [1.0, 2.0, 3.0], model_id="0"), row("/p/nan.jpg", 0.0, [float("nan"), 1.0])]
    found = tagger.suggest(write_table(tmp_path / "out", rows))
    assert sorted(uris(found)) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "nan.jpg"]
    assert found.notes == ("1 images without an embedding like the others are left out",)


@pytest.mark.parametrize("embedding", [None, [1.0, 0.0]])
def test_one_image_with_a_hundred_thousand_tags(tmp_path: Path, embedding: Any) -> None:
    pairs = [{"tag": "a", "score": float("nan")}, *({"tag": f"t{at}", "score": 1e-5} for at in range(100_000))]
    rows = [row("/p/nan.jpg", 0, embedding, candidates=pairs), row("/p/a.jpg", 0, embedding, candidates=pairs[1:])]
    found = tagger.suggest(write_table(tmp_path / "out", rows), tmp_path / "s.json")
    assert uris(found) == ["a.jpg"]
    assert len(found.table["candidates"][0]) == suggestions.SHOWN


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.parquet", b"PAR1 junk PAR1", "a damaged Parquet file"),
        ("l.parquet", schema.serialise(schema.RESULTS.empty_table(), "results"), "expected a labels table"),
        ("gone.parquet", None, "gone.parquet"),
    ],
)
def test_a_labels_file_that_is_none_is_one_line(
    tmp_path: Path, run_tagger: Any, name: str, content: bytes | None, message: str
) -> None:
    out = write_table(tmp_path / "out", [row("/p/a.jpg", 0.1)])
    if content:
        (tmp_path / name).write_bytes(content)
    ran = run_tagger("suggest", out, "--labels", tmp_path / name, "--quiet", cwd=tmp_path)
    assert ran.returncode == 1
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not (tmp_path / "suggested.parquet").exists()


def test_the_command_writes_parquet_or_tasks_and_overwrites_no_other_table(tmp_path: Path, run_tagger: Any) -> None:
    out = write_table(tmp_path / "out", [row(f"/p/{at}.jpg", at / 10, [1.0, at]) for at in range(9)])
    ran = run_tagger("suggest", out, "--count", 3, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "3 images suggested" in ran.stdout
    table = suggestions.read(tmp_path / "suggested.parquet")
    assert table.schema.equals(schema.SUGGESTIONS)
    assert set(table["reason"].to_pylist()) == {"uncertain"}
    labels = write_labels(tmp_path / "labels.parquet", [{"uri": "/p/0.jpg"}])
    refused = run_tagger("suggest", out, "--out", labels)
    assert "exists and is not a table of suggestions" in refused.stderr
    assert len(decisions.read(str(labels))) == 1
    ran = run_tagger("suggest", out, "--count", 2, "--out", tmp_path / "tasks.json", "--json")
    assert json.loads(ran.stdout)["suggested"] == {"uncertain": 2}
    task = json.loads((tmp_path / "tasks.json").read_text())[0]
    assert task["data"]["image"].startswith("/data/local-files/?d=p/")
    assert task["predictions"][0]["result"][0]["value"] == {"choices": ["cat"]}
    for given, message in ((("--count", 0), "--count"), (("--multilabel",), "--multilabel has no effect")):
        assert message in run_tagger("suggest", out, *given).stderr


# --- label errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_planted_wrong_labels_are_the_first_suspects(task: str) -> None:
    rng = np.random.default_rng(0)
    names = rng.integers(0, 4, 400)
    features = (rng.normal(size=(4, 32))[names] + rng.normal(0, 0.7, (400, 32))).astype(np.float32)
    truth = np.eye(4, dtype=np.float32)[names]
    if task == "multilabel":
        truth[:, 3] += truth[:, 0]  # whoever has label 0 has label 3
    wrong = rng.choice(400, 20, replace=False)
    truth[wrong] = np.roll(truth[wrong], 1, axis=1)
    scores = label_errors.out_of_sample(features, truth, np.arange(400), task)
    found = label_errors.find(scores, truth, task)
    assert len({row for row, _ in found[:20]} & {*wrong.tolist()}) >= 18
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_copies_do_not_vouch_for_each_other() -> None:
    """Five copies with the same wrong label would each confirm the others if they were in several folds."""
    rng = np.random.default_rng(0)
    names = np.repeat([0, 1], 50)
    features = (rng.normal(size=(2, 16))[names] + rng.normal(0, 0.5, (100, 16))).astype(np.float32)
    features[:5], truth = features[0], np.eye(2, dtype=np.float32)[names]
    truth[:5] = [0, 1]
    groups = np.arange(100)
    groups[:5] = 0
    found = label_errors.find(label_errors.out_of_sample(features, truth, groups, "multiclass"), truth, "multiclass")
    assert {row for row, _ in found[:5]} == {0, 1, 2, 3, 4}


def test_a_label_that_one_image_has_cannot_be_checked() -> None:
    rng = np.random.default_rng(0)
    truth = np.eye(3, dtype=np.float32)[[0] * 20 + [1] * 20 + [2]]
    scores = label_errors.out_of_sample(rng.normal(size=(41, 8)).astype(np.float32), truth, np.arange(41), "multiclass")
    assert np.isnan(scores[40, 2])
    assert 40 not in [row for row, _ in label_errors.find(scores, truth, "multiclass")]


# --- datasets ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes with two wrong labels, a copy with another label, a black and a blurred image, and a damaged one."""
    folder = tmp_path_factory.mktemp("suggest") / "stripes"
    write_stripes(folder, 24)
    (folder / "across" / "3.png").rename(folder / "down" / "wrong-1.png")
    (folder / "down" / "5.png").rename(folder / "across" / "wrong-2.png")
    big = photo(1, (400, 300))
    big.save(folder / "plain" / "original.jpg", quality=92)
    big.resize((200, 150)).save(folder / "across" / "copy.jpg", quality=80)
    shutil.copy(folder / "down" / "0.png", folder / "plain" / "same.png")
    photo(2, (400, 300)).point(lambda value: value // 12).save(folder / "plain" / "dark.png")
    photo(3, (400, 300)).filter(ImageFilter.GaussianBlur(30)).save(folder / "down" / "blurred.png")
    (folder / "down" / "damaged.png").write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def suspected(dataset: Path, timm_folder: Path) -> suggestions.Suggestions:
    return tagger.suggest(dataset, config=SuggestConfig(backbone=f"local-dir:{timm_folder}"))


def test_labels_that_other_images_contradict_are_found(suspected: suggestions.Suggestions) -> None:
    rows = {Path(row["uri"]).name: row for row in suspected.table.to_pylist() if row["reason"] == "label"}
    assert {"wrong-1.png", "wrong-2.png"} <= {*list(rows)[:4]}
    wrong = rows["wrong-1.png"]
    assert (wrong["labels"], wrong["candidates"][0]["tag"]) == (["down"], "across")
    assert len(wrong["image_id"]) == 64
    assert wrong["model_id"]


def test_copies_with_other_labels_come_first_and_name_each_other(suspected: suggestions.Suggestions) -> None:
    first = suspected.table.slice(0, 4).to_pylist()
    assert [row["reason"] for row in first] == ["duplicate"] * 4
    assert [row["score"] for row in first] == [1.0, 1.0, 0.5, 0.5]
    pairs = {Path(row["uri"]).name: [Path(uri).name for uri in row["copies"]] for row in first}
    assert pairs == {
        "0.png": ["same.png"], "same.png": ["0.png"], "original.jpg": ["copy.jpg"], "copy.jpg": ["original.jpg"]
    }  # fmt: skip


def test_files_that_do_not_decode_are_named(suspected: suggestions.Suggestions) -> None:
    assert any("damaged.png" in note for note in suspected.notes)
    assert "damaged.png" not in uris(suspected)


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (lambda image: image, []),
        (lambda image: image.point(lambda value: value // 12), ["dark"]),
        (lambda image: image.filter(ImageFilter.GaussianBlur(12)), ["blurred"]),
    ],
)
def test_dark_and_blurred_images_are_told_from_others(change: Any, reasons: list[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((400, 300), Image.Resampling.NEAREST)
    light, sharpness = suspects.light_and_sharpness(scan.describe(change(image))["thumbnail"])
    bad = {"dark": light < suspects.DARK, "blurred": sharpness < suspects.BLURRED}
    assert [reason for reason, is_so in bad.items() if is_so] == reasons
