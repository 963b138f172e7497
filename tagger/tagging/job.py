"""One tagging job: manifest -> plan -> shards -> part files -> summary."""

from __future__ import annotations

import json
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import pyarrow as pa

from tagger import checkpoint, engines, manifest, results, schema, storage
from tagger.engines import Engine
from tagger.images import MAX_PIXELS
from tagger.model_info import ModelInfo
from tagger.tagging.config import TagConfig
from tagger.tagging.pipeline import Row, tag_files
from tagger.tagging.plan import Plan, make_plan, without_committed


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: int
    total: int
    failed: int


@dataclass(frozen=True)
class ShardCounts:
    """What running some shards came to."""

    statuses: dict[str, int] = field(default_factory=dict)
    parts: int = 0
    seconds: float = 0.0
    engine: str = ""

    def __add__(self, other: ShardCounts) -> ShardCounts:
        """Add up counts of shards that ran one after the other."""
        statuses = dict(Counter(self.statuses) + Counter(other.statuses))
        seconds = self.seconds + other.seconds
        return ShardCounts(statuses, self.parts + other.parts, seconds, other.engine or self.engine)


@dataclass(frozen=True)
class Summary:
    """What a run did, as printed and as returned."""

    out: str
    run_id: str
    model: str
    model_id: str
    engine: str
    found: int
    """Files in the source."""
    done_before: int
    """Files whose row was still right and that were not read again."""
    tagged: int
    """Files tagged in this run."""
    failed: dict[str, int]
    """Status -> files that failed in this run."""
    failed_before: dict[str, int]
    """Status -> files that failed in an earlier run and have not changed since."""
    reasons: dict[str, int]
    """Why files were tagged -> files."""
    skipped: dict[str, int]
    """Why names in the source are no files to tag -> names."""
    damaged_parts: list[str]
    parts: int
    seconds: float
    images_per_second: float
    too_many_failed: bool
    """More files failed than --max-failed allows; the CLI exits with 3."""


Report = Callable[[Progress], None]


def tag(
    source: str,
    model: str,
    out: str,
    config: TagConfig | None = None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_progress: Report = lambda progress: None,
    on_found: Callable[[int], None] = lambda found: None,
) -> Summary:
    """Tag every image of a source that has no right row yet; return what was done.

    `source` is anything manifest.read_source takes, `model` anything checkpoint.describe takes, `out` a folder or URL.
    Whatever was committed stays when this is interrupted, and the next call does the rest. Raises TaggerError.
    """
    config = config or TagConfig()
    info = checkpoint.describe(model)
    files = manifest.read_source(source, on_found)
    plan = make_plan(files.table, model, info, out, config)
    on_plan(plan)
    counts = ShardCounts()
    if plan.shards:
        write_run(plan, {"source": storage.public_uri(source), "state": "started"})
        counts = run_shards(plan, range(plan.shards), on_progress, info=info)
    return finish(plan, counts, dict(files.skipped), source)


def predict(
    sources: Sequence[str],
    model: str,
    top_k: int = 3,
    device: str = "auto",
    engine: str = "auto",
    max_pixels: int = MAX_PIXELS,
) -> list[Row]:
    """Return one row per file or URL with its `candidates`, without writing anything."""
    info = checkpoint.describe(model)
    config = TagConfig(
        top_k=top_k, device=device, engine=engine, max_pixels=max_pixels, batch_size=min(len(sources), 32)
    )
    loaded = engines.load(info, checkpoint.build, device, engine, config.batch_size)
    entries = [storage.describe(source)._asdict() for source in map(storage.absolute_file, sources)]
    return list(tag_files(entries, info, loaded, config))


def run_shards(
    plan: Plan, shards: Sequence[int], on_progress: Report = lambda progress: None, info: ModelInfo | None = None
) -> ShardCounts:
    """Tag some shards of a plan; those whose part file exists are skipped, so a retry does only what is missing."""
    started = time.perf_counter()
    existing = set(storage.names_in(plan.out) or [])
    todo = [index for index in shards if plan.part(index) not in existing]
    if not todo:
        return ShardCounts()
    info = info or checkpoint.describe(plan.model)
    engine = engines.load(info, checkpoint.build, plan.config.device, plan.config.engine, plan.config.batch_size)
    run = _ShardRun(plan, info, engine, existing, on_progress)
    run.go(_rotated(todo))
    seconds = time.perf_counter() - started
    return ShardCounts(dict(run.statuses), run.parts, seconds, engine.name)


def finish(plan: Plan, counts: ShardCounts, skipped: dict[str, int], source: str) -> Summary:
    """Sum up a run, judge its failures, and record it under `_runs/`."""
    failed = {status: count for status, count in counts.statuses.items() if status != "ok"}
    failed_before = {status: count for status, count in plan.standing.items() if status != "ok"}
    all_failed = sum(failed.values()) + sum(failed_before.values())
    allowed = plan.config.failures_allowed(plan.found)
    limit = plan.found - 1 if allowed is None else allowed
    handled = sum(counts.statuses.values())
    summary = Summary(
        out=plan.out,
        run_id=plan.run_id,
        model=plan.model,
        model_id=plan.model_id,
        engine=counts.engine,
        found=plan.found,
        done_before=plan.done,
        tagged=counts.statuses.get("ok", 0),
        failed=failed,
        failed_before=failed_before,
        reasons=plan.reasons,
        skipped=skipped,
        damaged_parts=list(plan.damaged),
        parts=counts.parts,
        seconds=round(counts.seconds, 3),
        images_per_second=round(handled / counts.seconds, 1) if counts.seconds else 0.0,
        too_many_failed=plan.found > 0 and all_failed > limit,
    )
    if plan.shards:
        write_run(plan, {"source": storage.public_uri(source), "state": "finished", **asdict(summary)})
    return summary


def write_run(plan: Plan, facts: dict[str, Any]) -> None:
    """Write the JSON that describes a run; it informs people, no plan ever reads it."""
    record = {
        "run_id": plan.run_id,
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

    def __init__(self, plan: Plan, info: ModelInfo, engine: Engine, existing: set[str], on_progress: Report) -> None:
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
        with ThreadPoolExecutor(1, "write") as writer:
            for index, shard_rows in self._by_shard(rows, total):
                if commit:
                    commit.result()  # one shard is written while the next one is tagged, never two
                commit = writer.submit(self._commit, index, shard_rows)
            if commit:
                commit.result()

    def _entries(self, shards: list[int]) -> Iterator[Row]:
        for index in shards:
            entries = self._still_to_do(index)
            self._sizes.append((index, len(entries)))
            yield from entries.to_pylist()

    def _still_to_do(self, index: int) -> pa.Table:
        shard = self.plan.shard(index)
        names = [name for name in storage.names_in(self.plan.out) or [] if name.endswith(".parquet")]
        new = [name for name in names if name not in self._known and self.plan.run_id not in name]
        if new:
            shard = without_committed(self.plan, shard, [storage.join(self.plan.out, name) for name in new])
        return shard

    def _by_shard(self, rows: Iterator[Row], total: int) -> Iterator[tuple[int, list[Row]]]:
        """Cut the stream of rows where the shards end; shards that turned out to be done give nothing."""
        collected: list[Row] = []
        shard = 0
        for done, row in enumerate(rows, 1):
            while len(collected) == self._sizes[shard][1]:  # an empty shard
                shard += 1
            collected.append(row)
            self.statuses[row["status"]] += 1
            if done % 32 == 0 or done == total:
                self.on_progress(Progress(done, total, done - self.statuses["ok"]))
            if len(collected) == self._sizes[shard][1]:
                yield self._sizes[shard][0], collected
                collected = []
                shard += 1

    def _commit(self, index: int, rows: list[Row]) -> None:
        now = datetime.now(UTC)
        fixed = {
            "model": self.info.name,
            "model_id": self.plan.model_id,
            "settings_id": self.plan.settings_id,
            "engine": self.engine.name,
            "run_id": self.plan.run_id,
            "tagged_at": now,
        }
        table = schema.from_rows([{**row, **fixed} for row in rows], "results").sort_by("uri")
        storage.write_atomic(storage.join(self.plan.out, self.plan.part(index)), schema.serialise(table, "results"))
        self.parts += 1


def _rotated(shards: list[int]) -> list[int]:
    """Start somewhere else than an overlapping run does."""
    start = random.randrange(len(shards))
    return shards[start:] + shards[:start]
