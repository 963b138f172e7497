"""Latest means the same in Python and in SQL; every reader reads the parts as they are."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import tagger
from tagger import schema
from tagger.errors import QueryError, SourceNotFound
from tagger.tagging import results


def make_row(rng: random.Random, run: int) -> dict[str, Any]:
    ok = rng.random() < 0.7
    tags = [{"tag": tag, "score": rng.random()} for tag in rng.sample("abcdef", rng.randint(0, 3))]
    return {
        "uri": f"/photos/{rng.randint(0, 40)}.jpg",
        "bytes": 1,
        "status": "ok" if ok else rng.choice(["corrupt", "unreadable"]),
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


def brute_force_latest(out: Path) -> dict[tuple[str, str], tuple[Any, ...]]:
    best: dict[tuple[str, str], tuple[Any, ...]] = {}
    for row in tagger.read_results(str(out), latest=False).to_dict("records"):
        rank = (int(row["run_id"][:8]), row["status"] == "ok", row["tagged_at"], row["run_id"])
        key = (row["uri"], row["model"])
        best[key] = max(best.get(key, rank), rank)
    return best


def test_latest_is_the_same_by_hand_in_arrow_and_in_sql(table: Path) -> None:
    expected = brute_force_latest(table)
    assert len(expected) > 60
    frame = tagger.read_results(str(table))
    sql = tagger.query(str(table), "SELECT * FROM images ORDER BY uri, model").to_pandas()
    for found in (frame, sql):
        ranks = {
            (row["uri"], row["model"]): (int(row["run_id"][:8]), row["status"] == "ok", row["tagged_at"], row["run_id"])
            for row in found.to_dict("records")
        }
        assert len(found) == len(ranks)
        assert ranks == expected
    assert list(zip(frame["uri"], frame["model"], strict=True)) == sorted(expected)


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


def test_pandas_arrow_duckdb_and_polars_read_the_parts_as_they_are(table: Path) -> None:
    pattern = str(table / "*.parquet")
    assert len(pd.read_parquet(table)) == 720
    assert ds.dataset(str(table)).to_table().schema.equals(schema.RESULTS)
    assert pl.read_parquet(pattern).height == 720
    assert duckdb.sql(f"SELECT count(DISTINCT uri) FROM '{pattern}'").fetchall() == [(41,)]


def test_sql_that_duckdb_refuses_is_one_clear_error(table: Path) -> None:
    with pytest.raises(QueryError, match="views: images, tags, history") as caught:
        tagger.query(str(table), "SELECT nonsense FROM images")
    assert "nonsense" in str(caught.value)


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    for name in ("none", ""):
        with pytest.raises(SourceNotFound, match="no results here"):
            tagger.read_results(str(tmp_path / name))


def test_export_gives_csv_json_and_parquet(table: Path, tmp_path: Path) -> None:
    result = tagger.query(
        str(table), "SELECT uri, tags, top_score FROM images WHERE tags IS NOT NULL ORDER BY uri LIMIT 3"
    )
    rows = json.loads(results.export(result, "json"))
    assert rows == json.loads(json.dumps(result.to_pylist()))
    lines = results.export(result, "csv").decode().splitlines()
    assert lines[0] == "uri,tags,top_score"
    assert len(lines) == 4
    (tmp_path / "x.parquet").write_bytes(results.export(result, "parquet"))
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == result.to_pylist()


def test_results_in_memory_storage_are_queried_too(table: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    for path in table.glob("*.parquet"):
        fs.pipe_file(f"/queried/{path.name}", path.read_bytes())
    remote = tagger.query("memory://queried", "SELECT * FROM images ORDER BY uri, model")
    assert remote.to_pylist() == tagger.query(str(table), "SELECT * FROM images ORDER BY uri, model").to_pylist()
