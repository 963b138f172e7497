"""One row per file whatever is wrong with it; increments do exactly what is missing."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pictures import MODEL, bomb, photo
from processes import TIMEOUT

import tagger
from tagger import schema, storage
from tagger.errors import AccessDenied, ModelError, SourceError, TableError, TooManyFailed, UsageError, WriteError
from tagger.inference.pipeline import BYTES_AHEAD, bounded
from tagger.tagging import run as job
from tagger.tagging.config import TagConfig

RUN_COLUMNS = ["run_id", "tagged_at", "engine"]


def run(source: object, out: object, model: str = MODEL, **options: Any) -> tagger.Summary:
    return tagger.tag(str(source), model, str(out), TagConfig(**{"batch_size": 4, **options}))


def rows(out: object, **options: Any) -> dict[str, dict[str, Any]]:
    frame = tagger.read_results(str(out), **options)
    return {Path(row["uri"]).name: row for row in frame.to_dict("records")}


def assert_same_table(one: object, other: object, ignore: Sequence[str] = ()) -> None:
    """Compare latest rows as the design defines it: scores within 1e-4; run_id, tagged_at and engine ignored."""
    left, right = (tagger.read_results(str(out)).drop(columns=[*RUN_COLUMNS, *ignore]) for out in (one, other))
    assert list(left["uri"]) == list(right["uri"])
    for column in left.columns:
        for uri, a, b in zip(left["uri"], left[column], right[column], strict=True):
            if column in ("tags", "candidates") and a is not None:
                assert [p["tag"] for p in a] == [p["tag"] for p in b], (uri, column)
                assert np.allclose([p["score"] for p in a], [p["score"] for p in b], atol=1e-4), (uri, column)
            elif column in ("top_score", "unknown_score"):
                assert (pd.isna(a) and pd.isna(b)) or abs(a - b) < 1e-4, uri
            else:
                assert a is b or a == b or (pd.isna(a) and pd.isna(b)), (uri, column, a, b)


# --- one row per file -------------------------------------------------------------------------------------------------


def plant_bad_files(folder: Path) -> dict[str, str]:
    """Add every kind of trouble to a folder; return name -> expected status."""
    good = io.BytesIO()
    photo(50, (300, 200)).save(good, "JPEG")
    png = io.BytesIO()
    photo(51, (300, 200)).save(png, "PNG")
    contents = {
        "zero.jpg": (b"", "corrupt"),
        "truncated.jpg": (good.getvalue()[: len(good.getvalue()) // 2], "truncated"),
        "truncated.png": (png.getvalue()[: len(png.getvalue()) // 2], "truncated"),
        "text.jpg": (b"this is text", "unsupported"),
        "png_in_disguise.jpg": (png.getvalue(), "ok"),
        "copy_a.jpg": (good.getvalue(), "ok"),
        "copy_b.jpg": (good.getvalue(), "ok"),
        "with space.jpg": (good.getvalue(), "ok"),
        "quote'\".jpg": (good.getvalue(), "ok"),
        "new\nline.jpg": (good.getvalue(), "ok"),
        "emoji😀.jpg": (good.getvalue(), "ok"),
        "percent%41.jpg": (good.getvalue(), "ok"),
        ".hidden.jpg": (good.getvalue(), "hidden"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    expected = {name.replace("%41", "%2541"): status for name, (_, status) in contents.items() if status != "hidden"}
    Path(os.fsdecode(os.fsencode(folder) + b"/bytes\xff.jpg")).write_bytes(good.getvalue())
    (folder / "bomb.png").write_bytes(bomb())
    photo(52, (1, 1)).save(folder / "dot.png")
    photo(53, (1, 20_000)).save(folder / "strip.png")
    (folder / "broken_link.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "is_a_folder.jpg").mkdir()
    return expected | {
        "bytes%FF.jpg": "ok", "bomb.png": "too_large", "dot.png": "ok", "strip.png": "ok",
        "broken_link.jpg": "unreadable", "loop.jpg": "unreadable",
    }  # fmt: skip


def test_every_file_gets_its_row_and_bad_ones_leave_their_neighbours_alone(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "clean")
    expected = plant_bad_files(photos) | {f"{index}.jpg": "ok" for index in range(6)}
    summary = run(photos, tmp_path / "dirty")
    found = rows(tmp_path / "dirty")
    assert {name: row["status"] for name, row in found.items()} == expected
    assert summary.found == len(expected)
    assert summary.tagged + sum(summary.failed.values()) == summary.found
    assert summary.skipped == {"hidden": 1}
    clean = rows(tmp_path / "clean")
    for name, row in clean.items():
        for column in ("image_id", "top_tag", "width", "height", "format", "bytes"):
            assert found[name][column] == row[column], (name, column)
        assert abs(found[name]["top_score"] - row["top_score"]) < 1e-4
    for name, row in found.items():
        if row["status"] in schema.TAGGED:
            assert (row["error"] is None or pd.isna(row["error"])) == (row["status"] == "ok")
            assert len(row["tags"]) == 1
            assert len(row["candidates"]) == 5
            assert row["top_tag"] == row["candidates"][0]["tag"]
        else:
            assert row["error"], name
            assert "\n" not in row["error"]
            assert all(row[c] is None or pd.isna(row[c]) for c in ("tags", "candidates", "top_tag", "top_score")), name
    assert found["copy_a.jpg"]["image_id"] == found["copy_b.jpg"]["image_id"]
    assert found["png_in_disguise.jpg"]["format"] == "PNG"
    assert (found["strip.png"]["width"], found["strip.png"]["height"]) == (1, 20_000)


def test_truncated_files_fail_where_that_is_asked_for(photos: Path, tmp_path: Path) -> None:
    plant_bad_files(photos)
    tagged = run(photos, tmp_path / "out").models[0]
    assert tagged.truncated == 2
    assert "(2 of them truncated)" in "\n".join(tagged.lines())
    failed = run(photos, tmp_path / "out", truncated="fail")
    assert failed.reasons == {"other settings": failed.found}
    assert {rows(tmp_path / "out")[name]["status"] for name in ("truncated.jpg", "truncated.png")} == {"corrupt"}


def test_files_that_vanish_or_change_after_ingest_get_the_row_of_what_was_read(photos: Path, tmp_path: Path) -> None:
    manifest = str(tmp_path / "m.parquet")
    tagger.ingest(str(photos), manifest)
    (photos / "0.jpg").unlink()
    before = (photos / "2.jpg").stat()
    photo(99).save(photos / "2.jpg")
    summary = run(manifest, tmp_path / "out")
    assert (summary.tagged, summary.failed) == (5, {"unreadable": 1})
    row = rows(tmp_path / "out")["2.jpg"]
    assert row["bytes"] == before.st_size, "the key is the manifest's"
    assert run(photos, tmp_path / "out").reasons == {"changed file": 1}, "so the next listing sees it as new work"


def test_scores_that_are_not_numbers_are_a_failed_row_not_a_tag(
    timm_folder: Path, photos: Path, tmp_path: Path
) -> None:
    import safetensors.torch

    folder = tmp_path / "nan"
    shutil.copytree(timm_folder, folder)
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state["fc.bias"][0] = float("nan")
    safetensors.torch.save_file(state, folder / "model.safetensors")
    summary = run(photos, tmp_path / "out", model=f"local-dir:{folder}", engine="eager")
    assert summary.failed == {"failed": 6}
    assert all("not finite" in row["error"] for row in rows(tmp_path / "out").values())
    with pytest.raises(TooManyFailed):
        summary.check_failures()


# --- several models ---------------------------------------------------------------------------------------------------


def test_several_models_in_one_pass_give_the_rows_of_one_pass_each(
    photos: Path, tmp_path: Path, timm_folder: Path
) -> None:
    plant_bad_files(photos)
    both = [MODEL, f"local-dir:{timm_folder}"]
    run(photos, tmp_path / "each")
    run(photos, tmp_path / "each", model=both[1])
    summary = run(photos, tmp_path / "once", model=both, shard_size=10)
    assert_same_table(tmp_path / "once", tmp_path / "each")
    assert [model.model for model in summary.models] == ["cifar10-speedrun", "tiny"]
    assert summary.models[0].tagged == summary.models[1].tagged
    assert summary.found == sum(summary.models[0].failed.values()) + summary.models[0].tagged


def test_of_several_models_each_does_only_what_it_has_not_done(photos: Path, tmp_path: Path, timm_folder: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    photo(70).save(photos / "new.jpg")
    both = [MODEL, f"local-dir:{timm_folder}"]
    summary = run(photos, out, model=both, shard_size=2)
    assert [model.reasons for model in summary.models] == [{"new": 1}, {"new": 7}]
    assert [model.done_before for model in summary.models] == [6, 0]
    assert len(tagger.read_results(str(out))) == len(tagger.read_results(str(out), latest=False)) == 14
    assert "nothing to do" in run(photos, out, model=both).text()


def test_two_models_of_one_name_are_refused(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "cifar10-speedrun")
    with pytest.raises(UsageError, match="two models are called cifar10-speedrun"):
        run(photos, tmp_path / "out", model=[MODEL, str(tmp_path / "cifar10-speedrun")])


# --- increments -------------------------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_a_new_file_is_all_a_third_does(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(photos, out)
    assert (first.tagged, first.done_before, first.reasons) == (6, 0, {"new": 6})
    listing = sorted(path.name for path in out.iterdir())
    second = run(photos, out)
    assert (second.tagged, second.done_before, second.parts) == (0, 6, 0)
    assert "0 images decoded" in second.text()
    assert sorted(path.name for path in out.iterdir()) == listing
    photo(60).save(photos / "new.jpg")
    third = run(photos, out)
    assert (third.tagged, third.done_before, third.reasons) == (1, 6, {"new": 1})
    assert third.run_id.startswith("00000002-")


def test_a_file_that_goes_back_to_its_first_version_gets_the_right_row_each_time(photos: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "out", photos / "0.jpg"
    first, stat = file.read_bytes(), file.stat()
    run(photos, out)
    ids = [rows(out)["0.jpg"]["image_id"]]
    photo(61).save(file)
    assert run(photos, out).reasons == {"changed file": 1}
    ids.append(rows(out)["0.jpg"]["image_id"])
    file.write_bytes(first)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(photos, out).reasons == {"changed file": 1}
    ids.append(rows(out)["0.jpg"]["image_id"])
    assert ids[0] == ids[2] != ids[1]
    assert len(tagger.read_results(str(out), latest=False)) == 8


def test_two_models_live_in_one_table_and_a_retrained_one_replaces_itself(
    photos: Path, tmp_path: Path, timm_folder: Path
) -> None:
    import safetensors.torch

    out = tmp_path / "out"
    other = tmp_path / "tiny"
    shutil.copytree(timm_folder, other)
    assert run(photos, out).tagged == 6
    assert run(photos, out, model=f"local-dir:{other}", engine="eager").reasons == {"new": 6}
    assert run(photos, out).tagged == 0, "model A again: its rows are still the latest of A"
    assert len(tagger.read_results(str(out))) == 12
    original = (other / "model.safetensors").read_bytes()
    state = safetensors.torch.load_file(other / "model.safetensors")
    state["fc.bias"][2] += 50
    safetensors.torch.save_file(state, other / "model.safetensors")
    assert run(photos, out, model=f"local-dir:{other}", engine="eager").reasons == {"another version of the model": 6}
    frame = tagger.read_results(str(out))
    assert set(frame[frame["model"] == "tiny"]["top_tag"]) == {"blue"}
    (other / "model.safetensors").write_bytes(original)
    assert run(photos, out, model=f"local-dir:{other}", engine="eager").reasons == {"another version of the model": 6}
    run(photos, tmp_path / "fresh", model=f"local-dir:{other}", engine="eager")
    again = tagger.read_results(str(out))
    fresh = tagger.read_results(str(tmp_path / "fresh"))
    assert list(again[again["model"] == "tiny"]["top_tag"]) == list(fresh["top_tag"])


def test_other_settings_are_new_work_and_say_so(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    assert run(photos, out, top_k=3).reasons == {"other settings": 6}
    assert all(len(row["candidates"]) == 3 for row in rows(out).values())
    assert run(photos, out, top_k=3, threshold=0.99).reasons == {"other settings": 6}
    assert all(all(p["score"] >= 0.99 for p in row["tags"]) for row in rows(out).values())
    assert run(photos, out, top_k=3, threshold=0.0).tagged == 6
    assert all(len(row["tags"]) == 10 for row in rows(out).values())
    assert run(photos, out, top_k=3, threshold=0.0, batch_size=2, shard_size=1).tagged == 0, "not part of any key"
    assert run(photos, out, redo=True, top_k=3, threshold=0.0).reasons == {"redo": 6}


def test_unreadable_files_are_tried_every_run_others_only_when_asked(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (photos / "bad.jpg").write_bytes(b"junk")
    (photos / "link.jpg").symlink_to(tmp_path / "later.jpg")
    assert run(photos, out).failed == {"unsupported": 1, "unreadable": 1}
    second = run(photos, out)
    assert (second.reasons, second.failed, second.failed_before) == (
        {"unreadable before": 1}, {"unreadable": 1}, {"unsupported": 1},
    )  # fmt: skip
    assert run(photos, out, retry_failed=True).reasons == {"unreadable before": 1, "failed before": 1}
    photo(62).save(tmp_path / "later.jpg")
    assert run(photos, out).tagged == 1
    assert rows(out)["link.jpg"]["status"] == "ok"


def test_multilabel_models_tag_what_passes_half(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "multi"
    shutil.copytree(MODEL, folder)
    bundle = json.loads((folder / "tagger.json").read_text())
    (folder / "tagger.json").write_text(json.dumps(bundle | {"task": "multilabel"}))
    run(photos, tmp_path / "out", model=str(folder), engine="eager")
    for row in rows(tmp_path / "out").values():
        assert all(pair["score"] >= 0.5 for pair in row["tags"])
        assert sum(pair["score"] for pair in row["candidates"]) != pytest.approx(1)
    learnt = dict.fromkeys(bundle["label_names"], 1.0) | {"cat": 0.0}
    (folder / "tagger.json").write_text(json.dumps(bundle | {"task": "multilabel", "thresholds": learnt}))
    assert run(photos, tmp_path / "out", model=str(folder), engine="eager").reasons == {"other settings": 6}
    assert all([pair["tag"] for pair in row["tags"]] == ["cat"] for row in rows(tmp_path / "out").values())


def test_embeddings_are_stored_when_asked_and_mix_with_rows_without(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    run(photos, out, embeddings=True)
    assert all(len(row["embedding"]) == 192 for row in rows(out).values())
    pattern = str(out / "*.parquet")
    assert len(pd.concat(pd.read_parquet(path) for path in out.glob("*.parquet"))) == 12
    table = ds.dataset([str(path) for path in out.glob("*.parquet")]).to_table()
    assert table.schema.equals(schema.RESULTS)
    assert len(pl.read_parquet(pattern)) == 12
    counted = duckdb.sql(f"SELECT count(*), count(embedding), count(tags[1].tag) FROM '{pattern}'").fetchall()
    assert counted == [(12, 6, 12)]


# --- parts ------------------------------------------------------------------------------------------------------------


def test_parts_are_sorted_have_the_schema_and_nothing_temporary_stays(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(photos, out, shard_size=4)
    names = sorted(path.name for path in out.iterdir())
    parts = [f"part-{summary.run_id}-00000.parquet", f"part-{summary.run_id}-00001.parquet"]
    assert names == ["_manifests", "_runs", *parts]
    for name in parts:
        table = pq.read_table(out / name)
        assert table.schema.equals(schema.RESULTS)
        assert table["uri"].to_pylist() == sorted(table["uri"].to_pylist())
        assert pq.ParquetFile(out / name).metadata.row_group(0).column(0).compression == "ZSTD"
    record = json.loads((out / "_runs" / f"{summary.run_id}.json").read_text())
    assert (record["state"], record["tagged"], record["found"]) == ("finished", 6, 6)


def test_a_part_with_a_damaged_footer_is_set_aside_and_its_rows_redone(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out, shard_size=3)
    run(photos, tmp_path / "good")
    victim = sorted(out.glob("*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:-20])
    (out / "part-00000001-00000000-00009.parquet").write_bytes(b"")
    assert len(tagger.read_results(str(out))) == 3, "readers leave it out"
    summary = run(photos, out)
    assert len(summary.damaged_parts) == 2
    assert summary.reasons == {"new": 3}
    assert len(list(out.glob("_damaged-*"))) == 2
    assert_same_table(out, tmp_path / "good")


def test_a_part_with_damaged_data_is_set_aside_and_its_rows_redone_by_the_same_run(
    photos: Path, tmp_path: Path, run_tagger: Any
) -> None:
    out = tmp_path / "out"
    run(photos, out, shard_size=3)
    shutil.copytree(out, tmp_path / "good")
    victim = min(out.glob("*.parquet"))
    content = bytearray(victim.read_bytes())
    content[pq.ParquetFile(victim).metadata.row_group(0).column(14).data_page_offset + 40] ^= 4  # no column of a plan
    victim.write_bytes(content)
    ran = run_tagger("tag", photos, "--model", MODEL, "--out", out)
    assert ran.returncode == 0, ran.stderr
    assert f"set aside a damaged part: {victim.name}" in ran.stdout
    assert [path.name for path in out.glob("_damaged-*")] == [f"_damaged-{victim.stem}"]
    assert "3 tagged, 0 failed" in ran.stdout
    assert_same_table(out, tmp_path / "good")


def test_an_out_that_holds_something_else_is_refused_and_left_alone(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="has other files"):
        run(photos, photos)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    pd.DataFrame({"mine": [1]}).to_parquet(foreign / "sales.parquet")
    with pytest.raises(TableError, match=r"sales.parquet: expected a results table.*not written by tagger"):
        run(photos, foreign)
    newer = tmp_path / "newer"
    newer.mkdir()
    table = schema.RESULTS.empty_table().replace_schema_metadata(
        {"tagger.table": "results", "tagger.schema": str(schema.VERSION + 1)}
    )
    pq.write_table(table, newer / "part-00000001-aa-00000.parquet")
    with pytest.raises(TableError, match="upgrade tagger"):
        run(photos, newer)
    with pytest.raises(OSError, match="is a file"):
        run(photos, photos / "0.jpg")
    assert [path.name for path in foreign.iterdir()] == ["sales.parquet"]


def test_an_older_table_is_read_with_nulls_and_continued(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    (part,) = out.glob("*.parquet")
    older = pq.read_table(part).drop_columns(["embedding", "engine"])
    pq.write_table(older, part)
    photo(63).save(photos / "new.jpg")
    assert run(photos, out).tagged == 1
    frame = tagger.read_results(str(out))
    assert len(frame) == 7
    assert frame["engine"].isna().sum() == 6
    assert tagger.query(str(out), "SELECT count(*) AS n FROM images WHERE engine IS NULL").to_pylist() == [{"n": 6}]


def test_two_overlapping_runs_end_with_the_right_table(photos: Path, tmp_path: Path) -> None:
    out, plans = tmp_path / "out", []
    for index in range(20, 40):
        photo(index).save(photos / f"{index}.jpg")
    for _ in range(2):  # both plans are made before either writes
        plans.append(job.prepare(str(photos), MODEL, str(out), TagConfig(shard_size=3, batch_size=4)))
    assert plans[0].run_id[:8] == plans[1].run_id[:8]
    threads = [threading.Thread(target=job.run_shards, args=(plan, range(plan.shards))) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    run(photos, tmp_path / "alone")
    assert_same_table(out, tmp_path / "alone")
    assert run(photos, out).tagged == 0


def test_overlapping_runs_of_a_model_and_its_copy_under_another_name_both_end_whole(
    photos: Path, tmp_path: Path
) -> None:
    out, copy = tmp_path / "out", tmp_path / "copy"
    shutil.copytree(MODEL, copy)
    plans = [
        job.prepare(photos, models, out, TagConfig(shard_size=2, batch_size=2))
        for models in (MODEL, copy, [MODEL, copy])
    ]
    for plan in plans:  # each sees what the others have committed since all were planned
        job.run_shards(plan, range(plan.shards))
    frame = tagger.read_results(out)
    assert frame.groupby("model")["uri"].nunique().to_dict() == {"cifar10-speedrun": 6, "copy": 6}
    assert len(tagger.read_results(out, latest=False)) == 12, "nothing was done twice"
    assert set(frame["model_id"]) == {frame["model_id"][0]}
    both = run(photos, out, model=[MODEL, str(copy)])
    assert [model.done_before for model in both.models] == [6, 6]


def test_a_run_skips_what_another_has_committed_since_it_was_planned(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    late = job.prepare(str(photos), MODEL, str(out), TagConfig(shard_size=2, batch_size=2))
    run(photos, out)
    existing = set(os.listdir(out))
    assert job.run_shards(late, range(late.shards)).shards == ()
    assert set(os.listdir(out)) == existing


def test_a_run_skips_what_one_that_was_planned_long_before_has_just_committed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    long = job.prepare(str(photos), MODEL, str(out), TagConfig(shard_size=2))
    job.run_shards(long, [0])
    nightly = job.prepare(str(photos), MODEL, str(out), TagConfig(shard_size=1))
    assert (len(nightly.entries), nightly.run_id > long.run_id) == (4, True)
    job.run_shards(long, [1])
    counts = job.run_shards(nightly, range(nightly.shards))
    assert (counts.files, counts.statuses) == (2, [{"ok": 2}])
    redone = job.prepare(str(photos), MODEL, str(out), TagConfig(redo=True))
    job.run_shards(long, [2])
    assert job.run_shards(redone, range(redone.shards)).files == 6


def test_a_retried_range_skips_the_shards_that_are_there(photos: Path, tmp_path: Path) -> None:
    plan = job.prepare(str(photos), MODEL, str(tmp_path / "out"), TagConfig(shard_size=2, batch_size=2))
    assert job.run_shards(plan, [0]).shards == (0,)
    counts = job.run_shards(plan, range(plan.shards))
    assert (sorted(counts.shards), counts.statuses) == ([0, 1, 2], [{"ok": 6}]), "the parts are the record"


def test_parts_that_are_deleted_during_a_run_are_redone(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def delete(progress: job.Progress) -> None:
        if list(out.glob("*.parquet")) and not (tmp_path / "deleted").exists():
            out.rename(tmp_path / "deleted")

    summary = tagger.tag(photos, MODEL, out, TagConfig(shard_size=1, batch_size=1), on_progress=delete)
    assert list((tmp_path / "deleted").glob("*.parquet")), "some were written before"
    assert (summary.tagged, summary.parts) == (6, 6)
    assert len(rows(out)) == len(list(out.glob("*.parquet"))) == 6


def test_a_run_during_which_older_parts_are_deleted_says_to_run_it_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    photo(80).save(photos / "new.jpg")

    def delete(progress: job.Progress) -> None:
        for part in out.glob("part-00000001-*"):
            part.unlink()

    with pytest.raises(WriteError, match="1 part files were deleted during the run, such as part-00000001-"):
        tagger.tag(photos, MODEL, out, on_progress=delete)
    assert run(photos, out).tagged == 6
    assert len(rows(out)) == 7


def test_a_model_that_changes_between_plan_and_run_is_an_error(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    plan = job.prepare(str(photos), str(folder), str(tmp_path / "out"), TagConfig())
    bundle = json.loads((folder / "tagger.json").read_text())
    (folder / "tagger.json").write_text(json.dumps(bundle | {"calibration": {"temperature": 2.0}}))
    with pytest.raises(ModelError, match="changed since the run was planned"):
        job.run_shards(plan, [0])


# --- failures allowed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("max_failed", "bad", "fails"),
    [
        (None, 5, False),
        (None, 6, True),
        ("50%", 3, False),
        ("49%", 3, True),
        ("2", 2, False),
        ("2", 3, True),
        ("0", 1, True),
    ],
)
def test_max_failed_counts_over_the_files_found(
    photos: Path, tmp_path: Path, max_failed: str | None, bad: int, fails: bool
) -> None:
    for path in sorted(photos.rglob("*.jpg"))[:bad]:
        path.write_bytes(b"junk")
    for _ in range(2):  # the second run tags nothing, with the same outcome
        summary = run(photos, tmp_path / "out", max_failed=max_failed)
        if fails:
            with pytest.raises(TooManyFailed, match=f"{bad} of 6 files failed"):
                summary.check_failures()
        else:
            summary.check_failures()


@pytest.mark.parametrize(
    "options",
    [{"max_failed": "lots"}, {"max_failed": "101%"}, {"max_failed": "1.5"}, {"top_k": 0}, {"threshold": 1.5},
     {"shard_size": 0}, {"device": "tpu"}, {"engine": "x"}],
)  # fmt: skip
def test_options_that_cannot_be_right_are_refused_with_their_value(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=str(next(iter(options.values())))):
        TagConfig(**options)


def test_an_empty_folder_is_a_run_without_rows(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    summary = run(tmp_path / "empty", tmp_path / "out")
    summary.check_failures()
    assert summary.found == 0
    assert not (tmp_path / "out").exists()


def test_rows_come_out_the_same_whatever_the_batch_and_shard_size(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "one", batch_size=1, shard_size=1)
    run(photos, tmp_path / "many", batch_size=32, shard_size=5000)
    assert_same_table(tmp_path / "one", tmp_path / "many")


def test_real_photographs_get_their_class_and_the_tags_of_the_reference(
    shared: Path, some_photos: Path, tmp_path: Path
) -> None:
    from timm.data import ImageNetInfo

    from tagger.models import backbone

    model = f"local-dir:{shared}/backbones/mobilenetv2_100.imagenet"
    options = {"model": model, "batch_size": 32, "shard_size": 40}
    summary = run(some_photos, tmp_path / "out", **options)
    assert (summary.tagged, summary.failed) == (63, {})
    found = rows(tmp_path / "out")
    names = backbone.imagenet_label_names(1000)
    assert names is not None
    name_of = dict(zip(ImageNetInfo().label_names(), names, strict=True))
    right = sum(row["top_tag"] == name_of[name.partition("_")[0]] for name, row in found.items())
    assert right >= 0.85 * 63
    run(some_photos, tmp_path / "reference", engine="eager", **options)
    for name, row in rows(tmp_path / "reference").items():
        assert found[name]["top_tag"] == row["top_tag"]
        assert found[name]["top_score"] == pytest.approx(row["top_score"], abs=1e-3)


def test_a_store_that_does_not_answer_damages_no_part(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(photos, out)

    def hiccup(uri: str, count: int, size: int | None) -> bytes:
        raise SourceError(f"{uri}: 503 Slow Down")

    with monkeypatch.context() as broken:
        broken.setattr(storage, "read_tail", hiccup)
        with pytest.raises(SourceError, match="503"):
            run(photos, out)
    assert not list(out.glob("_damaged-*"))
    assert run(photos, out).reasons == {}


def test_what_an_earlier_attempt_wrote_is_counted(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"junk")
    plan = job.prepare(str(photos), MODEL, str(tmp_path / "out"), TagConfig(shard_size=2))
    first = job.run_shards(plan, [0, 1])
    counts = job.run_shards(plan, range(plan.shards))
    assert (counts.files, sorted(counts.shards)) == (7, list(range(plan.shards)))
    assert first.files == 4
    assert counts.statuses == [{"ok": 6, "unsupported": 1}]
    assert job.run_shards(plan, range(plan.shards)).statuses == [{"ok": 6, "unsupported": 1}]


def test_files_that_nobody_may_read_do_not_stop_a_later_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fsspec.filesystem("memory")
    for index in range(3):
        store.pipe_file(f"/nightly/{index}.jpg", (photos / "0.jpg").read_bytes())
    honest = storage.read_bytes

    def forbidden(uri: str, attempts: int = 3, timeout: float = 60) -> bytes:
        if "/2.jpg" in uri:
            raise AccessDenied(f"{uri}: permission denied")
        return honest(uri, attempts)

    monkeypatch.setattr(storage, "read_bytes", forbidden)
    first = run("memory://nightly", tmp_path / "out")
    assert (first.models[0].tagged, first.models[0].failed) == (2, {"unreadable": 1})
    again = run("memory://nightly", tmp_path / "out")
    assert (again.models[0].tagged, again.models[0].failed) == (0, {"unreadable": 1})


def test_large_files_are_read_a_few_at_a_time_and_in_order() -> None:
    held, most = [0], [0]

    def read(size: int) -> int:
        held[0] += size
        most[0] = max(most[0], held[0])
        return size

    sizes = [300 << 20, 100 << 20, 200 << 20, 700 << 20, 1, 2, 3, 500 << 20, 4]
    with ThreadPoolExecutor(1) as pool:
        for size, expected in zip(
            bounded(lambda size: pool.submit(read, size), sizes, 4, lambda size: size), sizes, strict=True
        ):
            held[0] -= size
            assert size == expected
    assert most[0] == 700 << 20 > BYTES_AHEAD, "one always goes on, alone"


def test_what_killed_runs_left_behind_goes_after_a_day(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(photos, out)
    names = ["_tmp-old", "_tmp-new", "_plans/00000001-old", "_plans/00000001-new", "_runs/_tmp-old"]
    (out / "_plans").mkdir()
    for name in names:
        (out / name).write_bytes(b"x")
        if name.endswith("old"):
            os.utime(out / name, (time.time() - 100_000,) * 2)
    run(photos, out)
    assert [name for name in names if (out / name).exists()] == ["_tmp-new", "_plans/00000001-new"]
