"""One tagging job: manifest -> plan -> shards -> part files -> summary."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import pyarrow as pa

from tagger import checkpoint, engines, manifest, results, schema, storage
from tagger.engines import Engine
from tagger.errors import AccessDenied, ModelError, SourceError
from tagger.images import MAX_PIXELS
from tagger.model_info import ModelInfo
from tagger.tagging.config import TagConfig
from tagger.tagging.pipeline import Row, tag_files
from tagger.tagging.plan import Plan, make_plan, without_committed
from tagger.tagging.summary import ShardCounts, Summary, summarise


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int
    total: int
    failed: int


OnPlan = Callable[[Plan], None]
OnProgress = Callable[[Progress], None]
OnFound = Callable[[int], None]


def _ignore(_: Any) -> None:
    """Report to nobody."""


def tag(
    source: str,
    model: str,
    out: str,
    config: TagConfig | None = None,
    on_plan: OnPlan = _ignore,
    on_progress: OnProgress = _ignore,
    on_found: OnFound = _ignore,
) -> Summary:
    """Tag every image of a source that has no right row yet; return what was done.

    `source` is anything manifest.read_source takes, `model` anything checkpoint.describe takes, `out` a folder or URL.
    Whatever was committed stays when this is interrupted, and the next call does the rest. Raises TaggerError.
    """
    plan = prepare(source, model, out, config or TagConfig(), on_found)
    on_plan(plan)
    return finish(plan, run_shards(plan, range(plan.shards), on_progress))


def predict(
    sources: Sequence[str],
    model: str,
    top_k: int = 3,
    device: str = "auto",
    engine: str = "auto",
    max_pixels: int = MAX_PIXELS,
) -> list[Row]:
    """Return one row per file or URL with its `candidates`; nothing is written."""
    batch_size = max(1, min(len(sources), 32))
    config = TagConfig(top_k=top_k, device=device, engine=engine, max_pixels=max_pixels, batch_size=batch_size)
    info = checkpoint.describe(model)
    loaded = engines.load(info, checkpoint.build, device, engine, batch_size)
    entries = [storage.describe(storage.absolute_file(source))._asdict() for source in sources]
    return list(tag_files(entries, info, loaded, config))


def prepare(source: str, model: str, out: str, config: TagConfig, on_found: OnFound = _ignore) -> Plan:
    """List the source, compare it with the results, and return what is to be done."""
    info = checkpoint.describe(model)
    plan = make_plan(source, manifest.read_source(source, on_found), model, info, out, config)
    if plan.shards:
        _record(plan, {"state": "started"})
    return plan


def run_shards(plan: Plan, shards: Sequence[int], on_progress: OnProgress = _ignore) -> ShardCounts:
    """Tag some shards of a plan; those whose part file exists are skipped, so a retry does only what is missing."""
    started = time.perf_counter()
    existing = set(storage.names_in(plan.out) or [])
    todo = [index for index in shards if plan.part(index) not in existing]
    if not todo:
        return ShardCounts()
    _check_access([uri for index in todo[:8] for uri in plan.shard(index)["uri"].slice(0, 8).to_pylist()][:8])
    info, engine = _load(plan.model, plan.model_id, plan.settings_id, plan.config)
    run = _ShardRun(plan, info, engine, existing, on_progress)
    run.go(_rotated(todo))
    return ShardCounts(dict(run.statuses), run.parts, time.perf_counter() - started, engine.name)


def finish(plan: Plan, counts: ShardCounts) -> Summary:
    """Sum up a run and record it under `_runs/`."""
    summary = summarise(plan, counts)
    if plan.shards:
        _record(plan, {"state": "finished", **asdict(summary)})
    return summary


def _check_access(sample: list[str]) -> None:
    """Raise AccessDenied when a store refuses a whole sample: a wrong credential is one error, not a row each."""
    refused: AccessDenied | None = None
    for uri in filter(storage.is_remote, sample):
        try:
            storage.read_bytes(uri)
        except AccessDenied as error:
            refused = error
        except SourceError:
            return
        else:
            return
    if refused:
        raise refused


@functools.lru_cache(maxsize=1)
def _load(model: str, model_id: str, settings_id: str, config: TagConfig) -> tuple[ModelInfo, Engine]:
    """Load a model once per process, however many tasks use it; raises ModelError when it is not the planned one."""
    info = checkpoint.describe(model)
    if (info.model_id, config.settings_id(info)) != (model_id, settings_id):
        raise ModelError(f"{model}: changed since the run was planned ({model_id} -> {info.model_id}); run it again")
    return info, engines.load(info, checkpoint.build, config.device, config.engine, config.batch_size)


def _record(plan: Plan, facts: dict[str, Any]) -> None:
    """Write the JSON that describes a run; it informs people, no plan ever reads it."""
    record = {
        "run_id": plan.run_id,
        "source": plan.source,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": asdict(plan.config),
        "files_to_tag": len(plan.entries),
        "versions": {name: metadata.version(name) for name in ("tagger", "torch", "timm", "pyarrow", "pillow")},
        "python": platform.python_version(),
        **facts,
    }
    uri = storage.join(plan.out, f"{results.RUNS}/{plan.run_id}.json")
    storage.write_atomic(uri, json.dumps(record, indent=2).encode())


class _ShardRun:
    """Stream several shards through one pipeline, committing each as its last row arrives."""

    def __init__(
        self, plan: Plan, info: ModelInfo, engine: Engine, existing: set[str], on_progress: OnProgress
    ) -> None:
        self.plan, self.info, self.engine, self.on_progress = plan, info, engine, on_progress
        self.statuses: Counter[str] = Counter()
        self.parts = 0
        self._known = existing
        self._sizes: list[tuple[int, int]] = []
        """(shard, rows) in the order they entered the pipeline"""

    def go(self, shards: list[int]) -> None:
        rows = tag_files(self._entries(shards), self.info, self.engine, self.plan.config)
        total = sum(len(self.plan.shard(index)) for index in shards)
        commit: Future[None] | None = None
        with contextlib.closing(rows), ThreadPoolExecutor(1, "write") as writer:
            for index, shard_rows in self._by_shard(rows, total):
                if commit:
                    commit.result()  # one shard is written while the next one is tagged, never two
                commit = writer.submit(self._commit, index, shard_rows)
            if commit:
                commit.result()

    def _entries(self, shards: list[int]) -> Iterator[Row]:
        for index in shards:
            entries = self._still_to_do(index)
            if len(entries):
                self._sizes.append((index, len(entries)))
                yield from entries.to_pylist()

    def _still_to_do(self, index: int) -> pa.Table:
        """Return a shard without the rows that an overlapping run has committed since this one began."""
        shard = self.plan.shard(index)
        names = [name for name in storage.names_in(self.plan.out) or [] if name.endswith(".parquet")]
        new = [name for name in names if name not in self._known and self.plan.run_id not in name]
        if new:
            shard = without_committed(self.plan, shard, [storage.join(self.plan.out, name) for name in new])
        return shard

    def _by_shard(self, rows: Iterable[Row], total: int) -> Iterator[tuple[int, list[Row]]]:
        """Cut the stream of rows where the shards end."""
        collected: list[Row] = []
        finished = 0
        for done, row in enumerate(rows, 1):
            collected.append(row)
            self.statuses[row["status"]] += 1
            if done % 32 == 0 or done == total:
                self.on_progress(Progress(done, total, done - self.statuses["ok"]))
            index, size = self._sizes[finished]
            if len(collected) == size:
                yield index, collected
                collected = []
                finished += 1

    def _commit(self, index: int, rows: list[Row]) -> None:
        fixed = {
            "model": self.info.name,
            "model_id": self.plan.model_id,
            "settings_id": self.plan.settings_id,
            "engine": self.engine.name,
            "run_id": self.plan.run_id,
            "tagged_at": datetime.now(UTC),
        }
        table = schema.from_rows([{**row, **fixed} for row in rows], "results").sort_by("uri")
        storage.write_atomic(storage.join(self.plan.out, self.plan.part(index)), schema.serialise(table, "results"))
        self.parts += 1


def _rotated(shards: list[int]) -> list[int]:
    """Start somewhere else than an overlapping run does."""
    start = random.randrange(len(shards))
    return shards[start:] + shards[:start]
