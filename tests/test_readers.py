"""Other programs read a results table as it is on disk, without tagger."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
from pictures import MODEL, photo

import tagger

COLUMNS = ["uri", "status", "error", "top_tag", "top_score", "tags", "tagged_at"]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, so several parts; one file is no image."""
    folder = tmp_path_factory.mktemp("readers")
    (folder / "photos").mkdir()
    (folder / "photos" / "text.jpg").write_text("no image")
    for index in range(3):
        photo(index).save(folder / "photos" / f"{index}.jpg")
        tagger.tag(folder / "photos", MODEL, folder / "results", tagger.TagConfig(device="cpu"))
    return folder / "results"


def by_pandas(parts: str) -> Rows:
    return pd.concat(map(pd.read_parquet, glob.glob(parts)))[COLUMNS].to_dict("records")  # type: ignore[return-value]


def by_pyarrow(parts: str) -> Rows:
    return ds.dataset(glob.glob(parts)).to_table(COLUMNS).to_pylist()  # type: ignore[no-any-return]


def by_polars(parts: str) -> Rows:
    return pl.scan_parquet(parts).select(COLUMNS).collect().to_dicts()


def by_duckdb(parts: str) -> Rows:
    found = duckdb.sql(f"SELECT {', '.join(COLUMNS)} FROM '{parts}'")
    return [dict(zip(COLUMNS, row, strict=True)) for row in found.fetchall()]


def by_spark(parts: str) -> Rows:
    sql = pytest.importorskip("pyspark.sql", reason="needs Spark: pip install pyspark")
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("needs a Java runtime: apt-get install default-jre-headless")
    builder = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    try:
        rows = [row.asDict(recursive=True) for row in session.read.parquet(parts).select(*COLUMNS).collect()]
        return [row | {"tagged_at": row["tagged_at"].astimezone(UTC)} for row in rows]  # it collects local times
    finally:
        session.stop()


def plain(row: dict[str, Any]) -> tuple[object, ...]:
    """Values that compare equal whichever library read them."""
    tags = None if row["tags"] is None else [(pair["tag"], round(pair["score"], 6)) for pair in row["tags"]]
    texts = [None if pd.isna(row[name]) else row[name] for name in ("error", "top_tag")]
    score = None if pd.isna(row["top_score"]) else round(row["top_score"], 6)
    at = pd.Timestamp(row["tagged_at"])
    return row["uri"], row["status"], *texts, score, tags, (at.tz_convert("UTC").tz_localize(None) if at.tz else at)


@pytest.mark.parametrize("read", [by_pandas, by_pyarrow, by_polars, by_duckdb, by_spark])
def test_a_reader_finds_every_row_with_its_tags(table: Path, read: Callable[[str], Rows]) -> None:
    expected = tagger.read_results(table, latest=False)[COLUMNS].to_dict("records")
    found = read(f"{table}/*.parquet")
    assert len(found) == 4
    assert sorted(map(plain, found), key=str) == sorted(map(plain, expected), key=str)  # type: ignore[arg-type]
