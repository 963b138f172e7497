"""The report of a results table: right numbers, harmless names, thumbnails where there are sources."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pictures import MODEL, photo, without_root_powers
from PIL import Image

import tagger
from tagger import schema, storage
from tagger.errors import SourceNotFound, UsageError
from tagger.reporting import results_report
from tagger.tagging import alike, results

Run = Callable[..., subprocess.CompletedProcess[str]]
NASTY = "<script>alert(1)<_script> & [x](y) | `z` \x1b[31m\n\u202e.jpg"


def cut_short(path: Path) -> None:
    photo(7, (400, 300)).save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-3000])


@pytest.fixture
def tagged(photos: Path, tmp_path: Path) -> Path:
    """A table of six images, a copy, one cut short, one damaged and one with a nasty name."""
    shutil.copy(photos / "0.jpg", photos / "copy.jpg")
    shutil.copy(photos / "2.jpg", photos / NASTY)
    (photos / "damaged.jpg").write_bytes(b"no image")
    cut_short(photos / "short.jpg")
    tagger.tag(photos, MODEL, tmp_path / "out")
    return tmp_path / "out"


def thumbnails(page: str) -> list[Image.Image]:
    found = re.findall('data:image/jpeg;base64,([^"]+)', page)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


def test_the_numbers_are_those_of_the_table(tagged: Path) -> None:
    found = results_report.gather(tagged)
    images = tagger.read_results(tagged)
    counts = images["status"].value_counts().to_dict()
    assert counts == {"ok": 8, "truncated": 1, "unsupported": 1}
    assert [found.totals[name] for name in ("files", "tagged", "truncated", "failed")] == [10, 9, 1, 1]
    by_tag = tagger.query(tagged, "SELECT tag, count(*) AS n FROM tags GROUP BY ALL ORDER BY n DESC, tag").to_pylist()
    assert [(each.tag, each.images) for each in found.tags] == [(row["tag"], row["n"]) for row in by_tag]
    assert all(sum(each.histogram) == each.images for each in found.tags)
    assert sum(found.histogram) == 9
    assert (found.duplicates["groups"], found.duplicates["images"]) == (2, 4)
    scores = images[images["top_score"].notna()].sort_values(["top_score", "uri"])
    assert [row["uri"] for row in found.uncertain] == scores["uri"].tolist()
    assert [row["status"] for row in found.failures] == ["truncated", "unsupported"]
    assert found.changes is None
    assert results_report.gather(tagged, checkpoints="elsewhere").card is None


def test_each_tag_shows_its_most_and_least_sure_images_once(tagged: Path) -> None:
    rows = tagger.query(tagged, "SELECT tag, uri, score FROM tags ORDER BY score DESC").to_pylist()
    for tag in results_report.gather(tagged).tags:
        ranked = [row["score"] for row in rows if row["tag"] == tag.tag]
        assert [row["score"] for row in tag.most_sure] == ranked[: len(tag.most_sure)]
        shown = [row["uri"] for row in (*tag.most_sure, *tag.least_sure)]
        assert len(shown) == len(set(shown)) == min(len(ranked), 12)


def test_images_that_look_alike_are_grouped_and_exact_copies_count_once(tagged: Path, photos: Path) -> None:
    assert results_report.gather(tagged).alike is None
    for index in (0, 2):
        image = Image.open(photos / f"{index}.jpg")
        image.resize((48, 36)).save(photos / f"{index}_small.png")
        image.save(photos / f"{index}_poor.jpg", quality=40)
    tagger.tag(photos, MODEL, tagged, tagger.TagConfig(embeddings=True))
    found = results_report.gather(tagged)
    assert found.alike is not None
    assert found.alike.compared == 11  # of 13 tagged images, two of them copies
    names = [[Path(uri).name for uri in group["uris"]] for group in found.alike.shown]
    assert names[:2] == [["0.jpg", "0_poor.jpg", "0_small.png"], ["2.jpg", "2_poor.jpg", "2_small.png"]]
    assert all(1.001 > score >= 0.9 for group in found.alike.shown for score in group["scores"])
    page = results_report.html(found)
    assert f"{found.alike.images} images in {found.alike.groups} groups look alike" in page
    assert "11 images were compared" in page


def test_a_group_is_alike_to_its_first_image_not_a_chain() -> None:
    angles = np.radians([0, 15, 30, 90, 91, 0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert alike.leading(vectors, np.cos(np.radians(16))).tolist() == [0, 0, 2, 3, 3, 0]


def test_of_many_images_all_of_some_tags_are_compared(tmp_path: Path) -> None:
    kinds = np.array([*range(20_100), *range(0, 20_100, 10)])  # every tenth image twice
    count, vectors = len(kinds), np.random.default_rng(0).normal(size=(20_100, 48)).astype(np.float32)
    columns = {
        "uri": [f"/{place:05}.jpg" for place in range(count)], "image_id": [str(place) for place in range(count)],
        "status": ["ok"] * count, "top_tag": [f"t{kind % 1000}" for kind in kinds], "top_score": [0.5] * count,
        "model": ["m"] * count, "model_id": ["i"] * count, "run_id": ["00000001-aa"] * count,
        "tagged_at": [datetime(2026, 1, 1, tzinfo=UTC)] * count,
        "embedding": pa.FixedSizeListArray.from_arrays(vectors[kinds].ravel(), 48).cast(pa.list_(pa.float32())),
    }  # fmt: skip
    rows = [pa.array(columns.get(each.name, [None] * count), each.type) for each in schema.RESULTS]
    write_part(tmp_path / "out", pa.Table.from_arrays(rows, schema=schema.RESULTS))
    found = results_report.gather(tmp_path / "out")
    assert found.alike is not None
    assert 19_000 < found.alike.compared <= 20_000
    assert (found.alike.images, found.alike.groups) == (found.alike.images // 2 * 2, found.alike.images // 2)
    assert 1500 < found.alike.groups < 2000
    assert "of 22,110 images were compared, all those of some best tags." in results_report.html(found, 0)


def test_the_page_is_self_contained_and_names_are_harmless(tagged: Path, tmp_path: Path, run_tagger: Run) -> None:
    ran = run_tagger("report", tagged, "--out", tmp_path / "r.html")
    assert ran.returncode == 0, ran.stderr
    assert "9 of 10 files have been tagged by cifar10-speedrun; 1 failed" in ran.stdout
    page = (tmp_path / "r.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\\x1b[31m" in page
    assert not set("\x1b\u202e") & set(page)
    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert {image.size for image in thumbnails(page)} == {(112, 112)}
    assert json.loads(run_tagger("report", tagged, "--out", tmp_path / "s.html", "--json").stdout)["tagged"] == 9


def test_the_card_is_shown_only_of_the_version_that_tagged(tagged: Path, tmp_path: Path) -> None:
    found = results_report.gather(tagged, checkpoints=str(Path(MODEL).parent))
    assert "89.8%" in results_report.html(found, 0)
    folder = tmp_path / "checkpoints" / "cifar10-speedrun"
    shutil.copytree(MODEL, folder)
    bundle = json.loads((folder / "tagger.json").read_text())
    bundle["preprocessing"] = {**bundle.get("preprocessing", {}), "crop_pct": 0.5}
    bundle["calibration"], bundle["temperature"] = {"temperature": 2.0}, 2.0
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["crop_pct"] = 0.5
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tagger.json").write_text(json.dumps(bundle))
    page = results_report.html(results_report.gather(tagged, checkpoints=str(folder.parent)), 0)
    assert "89.8%" not in page
    assert "is not the version that tagged these files" in page


def test_thumbnails_are_missing_where_sources_vanished_or_are_damaged(tagged: Path, photos: Path) -> None:
    everything = results_report.html(results_report.gather(tagged))
    assert "thumbnails are missing" not in everything
    (photos / "4.jpg").unlink()
    (photos / "2.jpg").write_bytes(b"damaged meanwhile")
    page = results_report.html(results_report.gather(tagged))
    assert "2 of 9 thumbnails are missing" in page
    assert "no image" in page
    assert 0 < len(thumbnails(page)) < len(thumbnails(everything))


def test_thumbnails_of_images_in_an_object_store_are_read_from_there(photos: Path, tmp_path: Path) -> None:
    source = f"memory://{tmp_path.name}/photos"
    for file in photos.glob("*.jpg"):
        storage.write_atomic(f"{source}/{file.name}", file.read_bytes())
    tagger.tag(source, MODEL, tmp_path / "out")
    page = results_report.html(results_report.gather(tmp_path / "out"))
    assert "thumbnails are missing" not in page
    assert len({image.tobytes() for image in thumbnails(page)}) == 3


def test_forbidden_sources_leave_a_page_without_thumbnails(
    tagged: Path, photos: Path, tmp_path: Path, run_tagger: Run
) -> None:
    photos.chmod(0)
    ran = run_tagger("report", tagged, "--out", tmp_path / "r.html", preexec_fn=without_root_powers)
    photos.chmod(0o755)
    assert ran.returncode == 0, ran.stderr
    page = (tmp_path / "r.html").read_text()
    assert not thumbnails(page)
    assert "9 of 9 thumbnails are missing" in page


def test_no_more_images_are_read_than_allowed(tagged: Path) -> None:
    found = results_report.gather(tagged)
    assert not thumbnails(results_report.html(found, 0))
    assert len({image.tobytes() for image in thumbnails(results_report.html(found, 2))}) <= 2


def test_the_last_run_is_compared_with_the_rows_before_it(tagged: Path, photos: Path) -> None:
    photo(20).save(photos / "new.jpg")
    photo(21).save(photos / "0.jpg")
    photo(22).save(photos / "damaged.jpg")
    (photos / "4.jpg").write_bytes(b"damaged now")
    tagger.tag(photos, MODEL, tagged)
    found = results_report.gather(tagged)
    assert found.changes is not None
    counts = {name: value for name, value in found.changes.items() if name not in ("run_id", "switched")}
    assert counts == {"files": 4, "new": 1, "changed": 3, "same": 0, "newly_failed": 1, "mended": 1}
    assert (found.totals["files"], found.totals["tagged"]) == (11, 10)
    assert "The last run" in results_report.html(found, 0)


def test_only_the_latest_row_of_a_file_counts(tagged: Path, photos: Path) -> None:
    tagger.tag(photos, MODEL, tagged, tagger.TagConfig(redo=True))
    assert len(results.read_table(tagged)) == 20
    found = results_report.gather(tagged)
    assert (found.totals["files"], found.changes and found.changes["same"]) == (10, 10)
    assert {row["tag"]: row["images"] for row in map(vars, found.tags)} == {
        row["tag"]: row["n"]
        for row in tagger.query(tagged, "SELECT tag, count(*) n FROM tags GROUP BY ALL").to_pylist()
    }


def test_of_several_models_the_one_tagged_last_is_shown_or_the_one_named(
    tagged: Path, photos: Path, timm_folder: Path
) -> None:
    tagger.tag(photos, f"local-dir:{timm_folder}", tagged)
    assert results_report.gather(tagged).model == timm_folder.name
    page = results_report.html(results_report.gather(tagged, "cifar10-speedrun"), 0)
    assert "The table has results of several models. This page is about cifar10-speedrun" in page
    with pytest.raises(UsageError, match=r"--model other: not in .* whose models are tiny, cifar10-speedrun"):
        results_report.gather(tagged, "other")


def write_part(out: Path, rows: pa.Table) -> Path:
    out.mkdir(exist_ok=True)
    part = out / "part-00000001-aa-00000.parquet"
    part.write_bytes(schema.serialise(rows, "results"))
    return part


def test_a_table_in_which_nothing_was_tagged_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    tagger.tag(tmp_path / "photos", MODEL, tmp_path / "out")
    page = results_report.html(results_report.gather(tmp_path / "out"))
    assert "0 of 1 files have been tagged by cifar10-speedrun; 1 failed" in page


def test_a_hundred_thousand_tags_make_a_small_page(tmp_path: Path) -> None:
    names = [f"tag {number}" for number in range(100_000)]
    rows = [
        {"uri": f"/{name}.jpg", "status": "ok", "tags": [{"tag": name, "score": 0.5}], "top_tag": name,
         "top_score": 0.5,
         "model": "m", "model_id": "i", "run_id": "00000001-aa", "tagged_at": datetime(2026, 1, 1, tzinfo=UTC)}
        for name in names
    ]  # fmt: skip
    write_part(tmp_path / "out", schema.from_rows(rows, "results"))
    page = results_report.html(results_report.gather(tmp_path / "out"), 0)
    assert "99,970 others are not listed" in page
    assert len(page) < 200_000


@pytest.mark.parametrize("content", [b"", b"PAR1 nonsense PAR1"])
def test_a_damaged_part_is_left_out_or_named(tagged: Path, content: bytes) -> None:
    (tagged / "part-00000002-aa-00000.parquet").write_bytes(content)
    assert results_report.gather(tagged).totals["files"] == 10


def test_a_folder_without_results_is_one_clear_error(tmp_path: Path, run_tagger: Run) -> None:
    with pytest.raises(SourceNotFound, match="no results here"):
        results_report.gather(tmp_path)
    ran = run_tagger("report", tmp_path / "none", "--quiet")
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)


def test_a_table_in_an_object_store_has_the_same_report(tagged: Path, tmp_path: Path) -> None:
    out = f"memory://{tmp_path.name}/out"
    for part in tagged.glob("*.parquet"):
        storage.write_atomic(f"{out}/{part.name}", part.read_bytes())
    near, far = (results_report.gather(url) for url in (str(tagged), out))
    assert (far.totals, far.tags, far.groups, far.uncertain) == (near.totals, near.tags, near.groups, near.uncertain)
