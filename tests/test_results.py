"""Latest means the same in Python and in SQL; every reader reads the parts as they are."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Hashable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import MODEL

import tagger
from tagger import schema, storage
from tagger.data import manifest
from tagger.errors import QueryError, SourceNotFound, TableError
from tagger.tagging import plan, run
from tagger.tagging.aggregates import open_table
from tagger.tagging.parts import list_parts, read_rows
from tagger.tagging.query import export, query
from tagger.tagging.status import status

Run = Callable[..., subprocess.CompletedProcess[str]]


def make_row(rng: random.Random, run: int) -> dict[str, Any]:
    ok = rng.random() < 0.7
    tags = [{"tag": tag, "score": rng.random()} for tag in rng.sample("abcdef", rng.randint(0, 3))]
    return {
        "uri": f"/photos/{rng.randint(0, 40)}.jpg",
        "bytes": 1,
        "status": rng.choice(schema.TAGGED if ok else ["corrupt", "unreadable"]),
        "error": None if ok else "why",
        "tags": tags if ok else None,
        "candidates": tags if ok else None,
        "model": rng.choice(["m", "n"]),
        "model_id": "id",
        "settings_id": "s",
        "run_id": f"{run:08d}-{rng.randint(0, 2**31):08x}",
        # clocks that lie: the generation must win
        "tagged_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randint(0, 5)),
    }


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = random.Random(1)
    for part in range(12):
        rows = [make_row(rng, rng.randint(1, 15)) for _ in range(60)]
        name = f"part-{part + 1:08d}-00000000-{part:05d}.parquet"
        (tmp_path / name).write_bytes(schema.serialise(schema.from_rows(rows, "results"), "results"))
    return tmp_path


def rank_of(row: dict[Hashable, Any]) -> tuple[Any, ...]:
    return int(row["run_id"][:8]), row["status"] in schema.TAGGED, row["tagged_at"], row["run_id"]


def brute_force_latest(out: Path) -> dict[tuple[str, str], tuple[Any, ...]]:
    best: dict[tuple[str, str], tuple[Any, ...]] = {}
    for row in tagger.read_results(str(out), latest=False).to_dict("records"):
        key, rank = (row["uri"], row["model"]), rank_of(row)
        best[key] = max(best.get(key, rank), rank)
    return best


def test_latest_is_the_same_by_hand_in_arrow_and_in_sql(table: Path) -> None:
    expected = brute_force_latest(table)
    assert len(expected) > 60
    frame = tagger.read_results(str(table))
    sql = tagger.query(str(table), "SELECT * FROM images ORDER BY uri, model").to_pandas()
    reported = [row for model in "mn" for row in latest_in_reports(table, model)]
    for found in (frame.to_dict("records"), sql.to_dict("records"), reported):
        ranks = {(row["uri"], row["model"]): rank_of(row) for row in found}
        assert len(found) == len(ranks)
        assert ranks == expected
    assert list(zip(frame["uri"], frame["model"], strict=True)) == sorted(expected)


def latest_in_reports(out: Path, model: str) -> list[dict[Hashable, Any]]:
    """Return the latest rows of a model as report, review and suggest see them."""
    with open_table(out, model) as opened:
        opened.create_latest(["uri", "model", "status", "run_id", "tagged_at"])
        return [{**row} for row in opened.rows("SELECT * FROM latest")]


def test_the_long_form_and_the_tags_view_agree(table: Path) -> None:
    long = tagger.read_results(str(table), long=True)
    sql = tagger.query(
        str(table), "SELECT uri, model, tag, score, rank FROM tags ORDER BY uri, model, rank"
    ).to_pandas()
    assert list(long.columns) == ["uri", "model", "tag", "score", "rank"]
    pd.testing.assert_frame_equal(
        long.sort_values(["uri", "model", "rank"]).reset_index(drop=True), sql, check_dtype=False, check_exact=False
    )


def test_history_has_every_row(table: Path) -> None:
    assert tagger.query(str(table), "SELECT count(*) AS n FROM history").to_pylist() == [{"n": 720}]


def test_sql_that_duckdb_refuses_is_one_clear_error(table: Path) -> None:
    with pytest.raises(QueryError, match="views: images, tags, history") as caught:
        tagger.query(str(table), "SELECT nonsense FROM images")
    assert "nonsense" in str(caught.value)


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    for name in ("none", ""):
        with pytest.raises(SourceNotFound, match="no results here"):
            tagger.read_results(str(tmp_path / name))


@pytest.mark.parametrize("name", ["model=x/status=failed", "x*", "x[a]?", "it's"])
def test_a_folder_of_any_name_is_queried_as_it_is(table: Path, tmp_path: Path, name: str) -> None:
    for folder in (tmp_path / name, tmp_path / "xy"):  # the neighbour that a glob would read too
        folder.mkdir(parents=True)
        for part in table.glob("*.parquet"):
            shutil.copy(part, folder)
    ask = "SELECT * FROM history ORDER BY ALL"
    assert tagger.query(tmp_path / name, ask).equals(tagger.query(table, ask))


def test_columns_of_one_name_are_numbered(table: Path) -> None:
    result = tagger.query(
        table,
        "SELECT i.uri, h.uri, 1 AS uri_1, i.model, 'x' AS uri FROM images i JOIN history h USING (run_id) LIMIT 1",
    )
    assert result.column_names == ["uri", "uri_1", "uri_1_1", "model", "uri_2"]
    assert len(json.loads(export(result, "json"))[0]) == 5
    assert export(result, "csv").decode().splitlines()[1].count(",") == 4


# --- damage -----------------------------------------------------------------------------------------------------------


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Flip one random bit."""
    bit, damaged = rng.randrange(8 * len(content)), bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("store", ["file", "memory"])
def test_a_flipped_bit_never_changes_a_row(tmp_path: Path, store: str) -> None:
    rng = random.Random(2)
    rows = schema.from_rows([make_row(rng, 1) | {"uri": f"/{index}.jpg"} for index in range(30)], "results")
    content = schema.serialise(rows, "results")
    out = str(tmp_path / "out") if store == "file" else f"memory://{tmp_path.name}"
    uri, sound = f"{out}/part-00000001-aa-00000.parquet", 0
    for _ in range(100):
        storage.write_atomic(uri, flipped(content, rng))
        queried = tagger.query(out, "SELECT * FROM history ORDER BY uri")
        read, damaged = read_rows(list_parts(out).uris)
        assert len(queried) == len(read)
        if len(read):
            assert read.equals(rows)
            sound += 1
        else:
            assert status(out, verify=True).damaged == (damaged or list_parts(out).damaged)
    assert sound < (1 if store == "file" else 10), "page headers of a remote part hold bits that decide nothing"


@pytest.mark.parametrize("kind", ["manifest", "plan"])
def test_a_flipped_bit_in_another_table_is_one_clear_error(photos: Path, tmp_path: Path, kind: str) -> None:
    rng, file = random.Random(3), tmp_path / "m.parquet"
    if kind == "manifest":
        tagger.ingest(photos, file)
        read: Callable[[str], pa.Table] = lambda path: manifest.read_source(path).table  # noqa: E731
    else:
        made = run.prepare(photos, MODEL, tmp_path / "out", tagger.TagConfig())
        shutil.move(plan.save_plan(made), file)
        read = lambda path: plan.load_plan(path).entries  # noqa: E731
    content, expected = file.read_bytes(), read(str(file))
    for _ in range(100):
        file.write_bytes(flipped(content, rng))
        with contextlib.suppress(TableError):  # any other error fails
            assert read(str(file)).equals(expected)
    file.write_bytes(content.replace(b"PAR1", b"PAR2"))
    with pytest.raises(TableError, match=str(file)):
        read(str(file))


def test_status_counts_rows_and_verify_finds_damage(table: Path, run_tagger: Run) -> None:
    found = json.loads(run_tagger("status", table, "--json").stdout)
    images = tagger.read_results(table)
    assert (found["parts"], found["rows"], found["damaged"]) == (12, 720, [])
    assert found["models"]["m"]["done"] == ((images["model"] == "m") & images["status"].isin(schema.TAGGED)).sum()
    assert (found["models"]["m"]["missing"], found["last_runs"]) == (None, [])
    victim = min(table.glob("*.parquet"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(content)
    ran = run_tagger("status", table, "--verify")
    assert ran.returncode == 1
    assert f"damaged: {victim.name}" in ran.stdout
    assert "1 damaged part files; the next `tagger tag`" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_export_gives_csv_json_and_parquet(table: Path, tmp_path: Path) -> None:
    result = tagger.query(
        str(table), "SELECT uri, tags, top_score FROM images WHERE tags IS NOT NULL ORDER BY uri LIMIT 3"
    )
    rows = json.loads(export(result, "json"))
    assert rows == json.loads(json.dumps(result.to_pylist()))
    lines = export(result, "csv").decode().splitlines()
    assert lines[0] == "uri,tags,top_score"
    assert len(lines) == 4
    (tmp_path / "x.parquet").write_bytes(export(result, "parquet"))
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == result.to_pylist()


def test_results_in_memory_storage_are_queried_too(table: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    for path in table.glob("*.parquet"):
        fs.pipe_file(f"/queried/{path.name}", path.read_bytes())
    remote = tagger.query("memory://queried", "SELECT * FROM images ORDER BY uri, model")
    assert remote.to_pylist() == tagger.query(str(table), "SELECT * FROM images ORDER BY uri, model").to_pylist()


def test_json_has_null_for_nan_and_numbers_for_large_sums(photos: Path, tmp_path: Path) -> None:
    tagger.tag(photos, MODEL, tmp_path / "out")
    table = query(tmp_path / "out", "SELECT 'nan'::DOUBLE AS a, sum(bytes) AS b, ['inf'::FLOAT] AS c FROM images")
    (row,) = json.loads(export(table, "json"))
    assert row["a"] is None
    assert row["b"] > 0
    assert row["c"] == [None]


def test_a_spreadsheet_runs_no_cell(photos: Path, tmp_path: Path) -> None:
    tagger.tag(photos, MODEL, tmp_path / "out")
    table = query(tmp_path / "out", "SELECT '=1+1' AS a, '@x' AS b, '-' AS c, -5 AS d, 'a=b' AS e")
    assert export(table, "csv").decode().splitlines()[1] == "'=1+1,'@x,'-,-5,a=b"


# --- watching ---------------------------------------------------------------------------------------------------------


def test_vanished_files_keep_their_row_and_are_counted(photos: Path, tmp_path: Path, run_tagger: Run) -> None:
    out = tmp_path / "out"
    (photos / "bad.jpg").write_bytes(b"junk")
    tagger.tag(photos, MODEL, out)
    (photos / "0.jpg").unlink()
    (photos / "new.jpg").write_bytes((photos / "2.jpg").read_bytes())
    run.prepare(photos, MODEL, out, tagger.TagConfig())  # a run that is killed after its plan
    found = status(out).models["cifar10-speedrun"]
    assert (found.images, found.done, found.failed, found.missing, found.vanished) == (7, 6, {"unsupported": 1}, 1, 1)
    assert found.text() == "7 images: 6 done, 1 failed (1 unsupported), 1 missing, 1 vanished"
    gone = tagger.query(out, "SELECT uri FROM images WHERE NOT present").to_pylist()
    assert gone == [{"uri": str(photos / "0.jpg")}]
    assert (
        len(tagger.query(out, "SELECT * FROM images", present=True))
        == len(tagger.query(out, "FROM tags", present=True)) + 1
        == 6
    )
    ran = run_tagger("query", out, "SELECT count(*) AS n FROM images", "--present", "--format", "csv")
    assert ran.stdout == "n\n6\n"


def test_a_table_without_listings_has_no_present_files(table: Path) -> None:
    assert tagger.query(table, "SELECT DISTINCT present FROM images").to_pylist() == [{"present": None}]
    with pytest.raises(TableError, match="no listing of a source is kept here yet"):
        tagger.query(table, "FROM images", present=True)


def test_files_that_are_gone_are_vanished(photos: Path, tmp_path: Path) -> None:
    tagger.tag(photos, MODEL, tmp_path / "out")
    shutil.rmtree(photos / "sub")
    tagger.tag(photos, MODEL, tmp_path / "out")
    assert status(tmp_path / "out").models["cifar10-speedrun"].vanished == 3


def test_a_run_with_nothing_to_do_is_shown_until_the_next(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(3):
        tagger.tag(photos, MODEL, out)
    idle, first = status(out).last_runs
    assert (idle.state, idle.files_to_tag, first.tagged) == ("finished", 0, 6)
    assert "nothing to do" in idle.text()
    tagger.tag(photos, MODEL, out, tagger.TagConfig(redo=True))
    assert status(out).last_runs[0].tagged == 6


def test_status_shows_the_last_runs(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tagger.tag(photos, MODEL, out)
    (photos / "bad.jpg").write_bytes(b"junk")
    tagger.tag(photos, MODEL, out)
    (photos / "new.jpg").write_bytes((photos / "2.jpg").read_bytes())
    run.prepare(photos, MODEL, out, tagger.TagConfig())
    last, second, first = status(out).last_runs
    assert (last.state, last.files_to_tag, last.tagged) == ("started", 1, 0)
    assert (second.state, second.failed, second.tagged) == ("finished", {"unsupported": 1}, 0)
    assert (first.tagged, first.source, first.age_seconds < 100) == (6, str(photos), True)
    assert first.images_per_second
    assert "not finished" in last.text()
    assert "6 of 6 tagged" in first.text()


def test_log_lines_are_json_where_asked_for(photos: Path, tmp_path: Path, run_tagger: Run) -> None:
    ran = run_tagger("tag", photos, "--model", MODEL, "--out", tmp_path / "out", "--log-format", "json", "--quiet")
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    events = [line["event"] for line in lines if line["event"] != "progress"]
    assert events == ["plan", "finished"]
    steps = [line["step"] for line in lines if line["event"] == "progress"]
    assert steps == ["reading " + MODEL, "listing", "loading the model", "tagging"]
    assert lines[2]["files_to_tag"] == lines[-1]["tagged"] == 6
    assert ran.stdout == ""


def test_an_error_is_json_too_where_asked_for(tmp_path: Path, run_tagger: Run) -> None:
    ran = run_tagger("tag", "/no/such", "--model", MODEL, "--out", tmp_path / "out", "--log-format", "json")
    assert ran.returncode == 1
    last = json.loads(ran.stderr.splitlines()[-1])
    assert (last["event"], last["error"], last["exit_code"]) == ("error", "SourceNotFound", 1)
