"""Overlapping runs of one source keep apart: few shards are taken twice, and each file is taken at least once."""

from __future__ import annotations

import random
from collections import Counter, deque
from pathlib import Path

import pyarrow as pa
import pytest
from pictures import MODEL

from tagger import checkpoint, schema, storage
from tagger.data.manifest import Manifest
from tagger.tagging import plan
from tagger.tagging.config import TagConfig
from tagger.tagging.worklist import Worklist

INFO = checkpoint.describe(MODEL)
SHARDS, FILES = 24, 3
FILES_OF = Manifest(schema.from_rows([{"uri": f"/{number:03d}.jpg"} for number in range(SHARDS * FILES)], "manifest"))


class Run:
    """A run that commits a shard once it has taken the next two, as a pipeline does."""

    def __init__(self, out: Path) -> None:
        self.plan = plan.make_plan("/", FILES_OF, {MODEL: INFO}, str(out), TagConfig(shard_size=FILES))
        self.work = Worklist(self.plan)
        self.work.add(range(self.plan.shards))
        self.flying: deque[tuple[int, pa.Table]] = deque()
        self.committed: list[int] = []
        self.taken: list[str] = []

    def step(self) -> bool:
        """Take a shard, or commit one; return whether there is more to do."""
        self.work._look_again = 0.0  # listing takes longer here than tagging
        if len(self.flying) < 2 and (shard := self.work.take(self.committed)):
            self.flying.append(shard)
            self.taken += shard[1]["uri"].to_pylist()
        elif self.flying:
            self.commit(*self.flying.popleft())
        else:
            return self.work.settle()
        return True

    def commit(self, index: int, entries: pa.Table) -> None:
        [target] = self.plan.targets
        ids = {"model": target.name, "model_id": target.model_id, "settings_id": target.settings_id, "status": "ok"}
        rows = [{"uri": uri, "run_id": self.plan.run_id, **ids} for uri in entries["uri"].to_pylist()]
        content = schema.serialise(schema.from_rows(rows, "results"), "results")
        storage.write_atomic(storage.join(self.plan.out, self.plan.part(index)), content)
        self.committed.append(index)


def shards_taken_twice(out: Path, runs: int, delay: int) -> float:
    """Start a run every `delay` steps and let them take steps in turn; return the shards taken more than once."""
    started: list[Run] = []
    going: list[Run] = []
    for step in range(100 * SHARDS):
        if step % max(1, delay) == 0 and len(started) < runs:
            new = [Run(out) for _ in range(1 if delay else runs)]
            started, going = started + new, going + new
        going = [run for run in going if run.step()]
        if not going and len(started) == runs:
            break
    taken = Counter(uri for run in started for uri in run.taken)
    assert len(taken) == SHARDS * FILES, "every file is taken"
    return (taken.total() - len(taken)) / FILES


@pytest.mark.parametrize("delay", [0, 6, 20])
@pytest.mark.parametrize("runs", [1, 2, 3])
def test_overlapping_runs_take_few_shards_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int, delay: int
) -> None:
    twice = []
    for seed in range(3):
        random.seed(seed)
        twice.append(shards_taken_twice(tmp_path / str(seed), runs, delay))
    assert max(twice) <= 2 * (runs - 1), "in flight when they meet"
