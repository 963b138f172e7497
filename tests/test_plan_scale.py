"""A plan of a large table is that of a small one, reads every part at once, and needs no more memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pictures import MODEL

import tagger
from benchmarks import plan_scale
from tagger import checkpoint, schema
from tagger.data.manifest import Manifest
from tagger.tagging import pieces, plan, present
from tagger.tagging.config import TagConfig
from tagger.tagging.status import status

INFO = checkpoint.describe(MODEL)
SETTINGS = TagConfig().settings_id(INFO)


def write_history(out: Path, rng: random.Random, files: int) -> None:
    """Write ten runs over random files: some failed, of older versions, with other settings, of another model."""
    out.mkdir(exist_ok=True)
    for run in range(1, 11):
        rows = [
            {
                "uri": f"/photos/{name}.jpg", "bytes": rng.choice([1, 1, 1, 2]), "status": rng.choice(STATUSES),
                "model": rng.choice([INFO.name, INFO.name, "other"]), "model_id": rng.choice([INFO.model_id, "x"]),
                "settings_id": rng.choice([SETTINGS, SETTINGS, "y"]), "run_id": f"{run:08d}-{rng.randrange(9):08x}",
                "tagged_at": plan_scale.TIME,
            }
            for name in rng.sample(range(files), files // 2)
        ]  # fmt: skip
        content = schema.serialise(schema.from_rows(rows, "results"), "results")
        (out / f"part-{run:08d}-aa-00000.parquet").write_bytes(content)


STATUSES = ["ok", "ok", "truncated", "corrupt", "unreadable"]


@pytest.mark.parametrize("options", [{}, {"retry_failed": True}, {"redo": True}])
def test_a_plan_in_pieces_is_the_plan_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    write_history(tmp_path / "out", random.Random(4), 500)
    rows = [{"uri": f"/photos/{name}.jpg", "bytes": 1} for name in range(550)]
    files = Manifest(schema.from_rows(rows, "manifest"))

    def planned() -> plan.Plan:
        return plan.make_plan("/photos", files, {MODEL: INFO}, str(tmp_path / "out"), TagConfig(**options))

    whole = planned()
    monkeypatch.setattr(pieces, "PIECE", 40)
    split = planned()
    assert split.entries.equals(whole.entries)
    assert split.targets[0].reasons == whole.targets[0].reasons
    assert split.targets[0].standing == whole.targets[0].standing
    assert {"new", "changed file"} <= set(whole.targets[0].reasons) or options
    assert len(whole.entries) == (550 if options.get("redo") else sum(whole.targets[0].reasons.values()))


def test_pieces_hold_every_row_once_beside_those_of_its_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 10)
    left = pa.table({"uri": [f"a{number}" for number in range(100)], "row": range(100)})
    right = [pa.table({"uri": [f"a{number}" for number in range(start, start + 50)]}) for start in (0, 25, 75)]
    found = list(pieces.pieces([left], right, 150))
    assert len(found) == 16
    assert sorted(row for one, _ in found for row in one["row"].to_pylist()) == list(range(100))
    for one, other in found:
        known = pc.is_in(other["uri"], one["uri"].combine_chunks()).to_pylist()
        assert all(known) or all(
            int(uri[1:]) >= 100 for uri in other.filter(pc.invert(pa.array(known)))["uri"].to_pylist()
        )


POOLS = []
"""Memory pools stay until the process ends: a table may outlive the test."""


def peak_of(call: Callable[[], object]) -> int:
    """Return the peak memory of Arrow during a call."""
    pool, before = pa.proxy_memory_pool(pa.system_memory_pool()), pa.default_memory_pool()
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        call()
    finally:
        pa.set_memory_pool(before)
    return pool.max_memory() or 0


def peak_of_plan(out: Path) -> int:
    """Plan a run over one new file; return the peak memory of Arrow."""
    files = Manifest(schema.from_rows([{"uri": "s3://a-bucket-of-photos/new.jpg"}], "manifest"))

    def make() -> None:
        assert len(plan.make_plan("x", files, {MODEL: INFO}, str(out), TagConfig()).entries) == 1

    return peak_of(make)


def test_the_memory_of_a_plan_does_not_grow_with_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 20_000)
    plan_scale.write_table(str(tmp_path / "out"), 100_000, 10_000)
    small = peak_of_plan(tmp_path / "out")
    for part in list((tmp_path / "out").glob("*.parquet")):
        for copy in range(1, 4):
            (tmp_path / "out" / part.name.replace("part-00000001", f"part-0000000{copy}")).write_bytes(
                part.read_bytes()
            )
    assert peak_of_plan(tmp_path / "out") < 2 * small, "of four times as many rows"


def test_a_status_in_pieces_is_the_status_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write_history(out, random.Random(4), 500)
    for source, names in (("/photos", range(300)), ("/photos/2", range(200, 520))):
        present.write_listing(str(out), source, pa.table({"uri": [f"/photos/{name}.jpg" for name in names]}))
    whole = status(out)
    assert whole.models[INFO.name].missing
    monkeypatch.setattr(pieces, "PIECE", 40)
    assert status(out) == whole
    latest = tagger.read_results(out)
    counts = latest[latest["model"] == INFO.name]["status"].value_counts()
    assert whole.models[INFO.name].failed == {name: counts[name] for name in ("unreadable", "corrupt")}
    assert whole.models[INFO.name].done == counts["ok"] + counts["truncated"]


def test_the_memory_of_a_status_does_not_grow_with_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 20_000)
    plan_scale.write_table(str(tmp_path / "small"), 50_000, 10_000)
    plan_scale.write_table(str(tmp_path / "large"), 200_000, 10_000)
    assert peak_of(lambda: status(tmp_path / "large")) < 2 * peak_of(lambda: status(tmp_path / "small"))
