"""Compaction changes no row, while readers read, runs write and processes are killed."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from pictures import MODEL, photo
from processes import TIMEOUT, finish, started, wait_until
from test_results import make_row
from test_s3 import bucket, client, server  # noqa: F401
from test_tagging import assert_same_table, run

import tagger
from tagger import schema, storage
from tagger.errors import SourceNotFound, UsageError, WriteError
from tagger.tagging import compact as compaction
from tagger.tagging import run as job
from tagger.tagging.config import TagConfig
from tagger.tagging.parts import list_parts
from tagger.tagging.status import status

Run = Callable[..., subprocess.CompletedProcess[str]]
HISTORY = "SELECT * FROM history ORDER BY uri, model, run_id, tagged_at, top_score, status, error"


def write_parts(out: str, parts: int = 12, seed: int = 1) -> None:
    """Write parts of several runs, with files that are in many of them."""
    rng = random.Random(seed)
    for part in range(parts):
        rows = {(row["uri"], row["model"]): row for row in (make_row(rng, part % 4 + 1) for _ in range(60))}
        content = schema.serialise(schema.from_rows(list(rows.values()), "results"), "results")
        storage.write_atomic(storage.join(out, f"part-{part % 4 + 1:08d}-{seed:08x}-{part:05d}.parquet"), content)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_parts(str(tmp_path / "out"))
    return tmp_path / "out"


def parts_of(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*.parquet"))


def test_the_rows_stay_the_same_and_other_readers_see_each_once(out: Path, run_tagger: Run) -> None:
    history, latest = tagger.query(out, HISTORY), tagger.read_results(out)
    ran = run_tagger("compact", out, "--grace", 0, "--json")
    assert ran.returncode == 0, ran.stderr
    done = json.loads(ran.stdout)
    assert (done["parts_before"], done["merged"], done["written"], done["parts"], done["deleted"]) == (12, 12, 1, 1, 12)
    (part,) = parts_of(out)
    assert part.startswith("part-00000004-")
    assert tagger.query(out, HISTORY).equals(history)
    assert tagger.read_results(out).equals(latest)
    assert duckdb.sql(f"SELECT count(*) FROM '{out}/*.parquet'").fetchall() == [(len(history),)]
    assert pq.read_schema(out / part).equals(schema.RESULTS)
    again = tagger.compact(out, grace=0)
    assert (again.merged, again.deleted, again.parts) == (0, 0, 1)
    assert "nothing to merge in 1 parts" in again.text()


def test_during_the_grace_period_our_readers_see_each_row_once(out: Path) -> None:
    history = tagger.query(out, HISTORY)
    seen = []

    def look(step: str, done: int, total: int | None) -> None:
        if step.startswith("waiting"):
            assert len(parts_of(out)) == 13
            seen.append(tagger.query(out, HISTORY).equals(history))
            seen.append(status(out).rows == len(tagger.read_results(out, latest=False)) == len(history))

    assert tagger.compact(out, grace=0.01, on_step=look).deleted == 12
    assert seen == [True, True]


def test_parts_are_merged_up_to_a_size_and_large_ones_stay(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "ROWS", 100)
    first = tagger.compact(out, grace=0)
    assert (first.merged, first.written, first.parts) == (12, 6, 6)
    write_parts(str(out), 2, seed=5)
    history = tagger.query(out, HISTORY)
    second = tagger.compact(out, grace=0)
    assert (second.merged, second.parts) == (2, 7)
    monkeypatch.setattr(compaction, "ROWS", 10_000)
    assert tagger.compact(out, grace=0).parts == 1
    assert tagger.query(out, HISTORY).equals(history)


def test_a_killed_compaction_loses_and_doubles_nothing(tmp_path: Path) -> None:
    whole, out, rng = tmp_path / "whole", tmp_path / "out", random.Random(0)
    write_parts(str(whole), 150)
    history = tagger.query(whole, HISTORY)
    moments: Counter[str] = Counter()
    for kill in range(8):
        if not kill % 4:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(whole, out)
        before = len(parts_of(out))
        with started("tagger.cli", "compact", out, "--grace", rng.choice([0, 0.3])) as process:
            if kill % 2:
                wait_until(lambda: any("merged" in name for name in parts_of(out)), process)
                time.sleep(rng.uniform(0, 0.02))
            else:
                time.sleep(rng.uniform(0.5, 1.5))
        process.wait(TIMEOUT)
        after = len(parts_of(out))
        moments["before" if after == before else "waiting" if after > before else "deleting"] += 1
        assert tagger.query(out, HISTORY).equals(history)
    with started("tagger.cli", "compact", out, "--grace", 0) as process:
        finish(process)
    assert len(parts_of(out)) == 1
    assert tagger.query(out, HISTORY).equals(history)
    assert len(moments) > 1, "it was killed at different moments"


@pytest.mark.parametrize("remote", [False, True])
def test_no_query_fails_or_differs_while_parts_are_added_merged_and_deleted(
    remote: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = f"s3://{request.getfixturevalue('bucket')}/results" if remote else str(tmp_path / "out")
    write_parts(out, 12 if remote else 60)
    old = HISTORY.replace("history", "history WHERE uri NOT LIKE '/later/%'")
    expected, stop, numbers = tagger.query(out, old), threading.Event(), itertools.count()

    def ask(read: Callable[[], bool]) -> list[bool]:
        answers = []
        while not stop.is_set():
            answers.append(read())
        return answers

    def by_pandas() -> bool:
        uris = tagger.read_results(out, latest=False)["uri"]
        return len(uris[~uris.str.startswith("/later/")]) == len(expected)

    def write() -> bool:
        number = next(numbers)
        row = {**make_row(random.Random(number), 5), "uri": f"/later/{number}.jpg"}
        content = schema.serialise(schema.from_rows([row], "results"), "results")
        storage.write_atomic(f"{out}/part-00000005-aa-{number:05d}.parquet", content)
        time.sleep(0.2)
        return True

    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, each) for each in (lambda: tagger.query(out, old).equals(expected), by_pandas, write)]
        for _ in range(3):
            tagger.compact(out, grace=0)
        stop.set()
        answers = [each.result(TIMEOUT) for each in asked]
    assert all(map(all, answers))
    assert all(len(each) > 1 for each in answers)
    added = tagger.query(out, "SELECT count(*) AS rows FROM history WHERE uri LIKE '/later/%'")
    assert added["rows"].to_pylist() == [len(answers[2])], "nothing that was written is lost"


def test_a_run_goes_on_over_a_compaction_of_its_parts(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    photo(90).save(photos / "old.jpg")
    run(photos, out)
    for index in range(6):
        photo(50 + index).save(photos / f"new{index}.jpg")
    plan = job.prepare(photos, MODEL, out, TagConfig(shard_size=2, batch_size=2))
    work = job.Work(plan)
    counts = work.run(at_most=2)
    assert tagger.compact(out, grace=0).merged == 3
    retried = job.run_shards(plan, range(plan.shards))
    assert (retried.files, retried.statuses) == (6, [{"ok": 6}]), "what was merged is not tagged again"
    assert retried.timed == 2
    assert (counts + work.run()).files == 4, "what the retry did is not done again"
    assert job.finish(plan, retried).tagged == 6
    run(photos, tmp_path / "alone")
    assert_same_table(out, tmp_path / "alone")
    assert len(tagger.read_results(out, latest=False)) == 13
    assert run(photos, out).done_before == 13


def test_compactions_at_the_same_time_double_nothing(out: Path) -> None:
    history = tagger.query(out, HISTORY)
    parts = list_parts(str(out))
    for group in (parts.uris[:8], parts.uris[4:]):  # both have listed before either wrote
        compaction._merge(str(out), parts, list(group), [])
    for uri in parts.uris:
        storage.remove(uri)
    assert list_parts(str(out)).overlap
    assert tagger.query(out, HISTORY).equals(history)
    assert len(tagger.read_results(out, latest=False)) == status(out).rows == len(history)
    assert tagger.compact(out, grace=0).parts == 1
    assert duckdb.sql(f"SELECT count(*) FROM '{out}/*.parquet'").fetchall() == [(len(history),)]


def test_a_second_compaction_of_a_local_table_is_refused(out: Path) -> None:
    def again(step: str, done: int, total: int | None) -> None:
        if step.startswith("waiting"):
            with pytest.raises(WriteError, match="another process is writing"):
                tagger.compact(out, grace=0)

    assert tagger.compact(out, grace=0.01, on_step=again).merged == 12


def test_damaged_parts_are_named_and_stay_and_a_damaged_merged_part_deletes_nothing(out: Path) -> None:
    victim = min(out.glob("*.parquet"))
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.write_bytes(content)
    seen = len(parts_of(out))

    def damage(step: str, done: int, total: int | None) -> None:
        for path in out.glob("*-merged.parquet") if step.startswith("waiting") else ():
            merged = bytearray(path.read_bytes())
            merged[len(merged) // 3] ^= 1
            path.write_bytes(merged)

    with pytest.raises(WriteError, match=r"-merged.parquet is damaged, the parts that it replaces were not deleted"):
        tagger.compact(out, grace=0.01, on_step=damage)
    assert len(parts_of(out)) == seen + 1
    next(out.glob("*-merged.parquet")).unlink()
    done = tagger.compact(out, grace=0)
    assert (done.damaged, done.merged, done.deleted) == ((victim.name,), 11, 11)
    assert victim.exists()


def test_a_table_in_a_bucket_is_compacted_too(bucket: str) -> None:  # noqa: F811
    out = f"s3://{bucket}/results"
    write_parts(out)
    history = tagger.query(out, HISTORY)
    done = tagger.compact(out, grace=0)
    assert (done.merged, done.deleted, done.parts) == (12, 12, 1)
    assert tagger.query(out, HISTORY).equals(history)


def test_what_cannot_be_compacted_is_one_clear_error(tmp_path: Path, run_tagger: Run) -> None:
    with pytest.raises(SourceNotFound, match="no results here"):
        tagger.compact(tmp_path / "none")
    with pytest.raises(UsageError, match="--grace must be at least 0, got -1"):
        tagger.compact(tmp_path, grace=-1)
    assert run_tagger("compact", tmp_path, "--grace", "-1").returncode == 1
    assert not (tmp_path / "none").exists()
