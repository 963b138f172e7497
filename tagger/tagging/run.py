"""One tagging run: manifest -> plan -> shards -> part files -> summary."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tagger import checkpoint, schema, storage
from tagger.data import manifest
from tagger.errors import AccessDenied, ModelError, SourceError, SourceNotFound, TableError, WriteError
from tagger.evaluation import agreement
from tagger.inference import model as inference
from tagger.inference.batch import Batch
from tagger.inference.ceilings import Meter
from tagger.inference.decoders import Decoder, ThreadDecoder
from tagger.inference.model import Model
from tagger.inference.pipeline import score_batches
from tagger.inference.workers import decoder_for
from tagger.storage import StrPath
from tagger.tagging import present, results, rows, slices
from tagger.tagging.config import TagConfig
from tagger.tagging.parts import consistently, merged_into, read_rows
from tagger.tagging.plan import Plan, Target, make_plan, remove_leftovers
from tagger.tagging.summary import ShardCounts, Summary, summarise
from tagger.tagging.worklist import Worklist

log = logging.getLogger(__name__)

FIRST = f"{1:08d}"
"""Generation of the first run of a table."""
_SAMPLE = 8
"""Number of files read to check whether a store grants access."""
MEASURE_FILES = 20_000
"""Number of files from which measuring precisions pays off within the run; later runs reuse the result."""
_MEASURING = threading.Lock()
"""Held while precisions are measured, so that the tasks of a process measure only once."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run, in files."""

    done: int
    total: int
    failed: int


OnPlan = Callable[[Plan], None]
OnProgress = Callable[[Progress], None]
OnFound = Callable[[int], None]


def _ignore(_: Any) -> None:
    """Ignore progress."""


class Models:
    """The models of one run, shared by its tasks; each is loaded once, on first use."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str, str], Model] = {}
        self._lock = threading.Lock()

    def get(self, target: Target, config: TagConfig) -> Model:
        """Return a model of a plan; raises ModelError if it has changed since the plan was made."""
        key = (target.model, target.model_id, target.settings_id)
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = _load(target, config)
            return self._loaded[key]


def _load(target: Target, config: TagConfig) -> Model:
    info = checkpoint.describe(target.model)
    if (info.model_id, config.settings_id(info)) != (target.model_id, target.settings_id):
        raise ModelError(
            f"{target.model}: changed since the run was planned ({target.model_id} -> {info.model_id}); start a new run"
        )
    return inference.build(info, config)


def tag(
    source: StrPath,
    model: StrPath | Sequence[StrPath],
    out: StrPath,
    config: TagConfig | None = None,
    on_plan: OnPlan = _ignore,
    on_progress: OnProgress = _ignore,
    on_found: OnFound = _ignore,
) -> Summary:
    """Tag every image of a source whose row is missing or out of date; return a summary.

    `source` is a folder, file, glob, URL, list of URLs or manifest, `model` one or more checkpoints, `out` a folder or
    URL. With several models every file is read and decoded once. If the call is interrupted, committed parts stay, and
    the next call does the rest. Raises TaggerError.
    """
    plan, shards = prepare_share(source, model, out, config or TagConfig(), on_found)
    on_plan(plan)
    models = Models()
    counts = _redo_deleted(plan, run_shards(plan, shards, models, on_progress), models, on_progress)
    return finish(plan, counts, done=shards)


def prepare(
    source: StrPath, model: StrPath | Sequence[StrPath], out: StrPath, config: TagConfig, on_found: OnFound = _ignore
) -> Plan:
    """List the source, compare it with the results, and return the plan."""
    return prepare_share(source, model, out, config, on_found)[0]


def prepare_share(
    source: StrPath, model: StrPath | Sequence[StrPath], out: StrPath, config: TagConfig, on_found: OnFound = _ignore
) -> tuple[Plan, list[int]]:
    """Return the plan and the shards to tag: all of them, or with --slice those of this process."""
    source, out = os.fspath(source), os.fspath(out)
    remove_leftovers(storage.absolute(out))
    names = [model] if isinstance(model, str | os.PathLike) else model
    models = {os.fspath(name): checkpoint.describe(os.fspath(name)) for name in names}

    def make() -> Plan:
        files = manifest.read_source(source, on_found)
        plan = make_plan(source, files, models, out, config)
        _check_found(plan)
        if plan.found:
            present.write_listing(plan.out, source, files.table)
        return plan

    if config.own_slice is None:
        plan = make()
        shards = list(range(plan.shards))
    else:
        ids = [(info.name, info.model_id, config.settings_id(info)) for info in models.values()]
        expected = slices.terms(source, ids, config)
        plan, shards = slices.agree(storage.absolute(out), expected, config.own_slice[0], make)
        own = {info.name: model for model, info in models.items()}  # each machine may have its own checkpoint paths
        targets = tuple(replace(target, model=own[target.name]) for target in plan.targets)
        plan = replace(plan, config=config, targets=targets)
    if plan.shards:
        _record(plan, {"state": "started"})
    return plan, shards


def _check_found(plan: Plan) -> None:
    """Raise SourceNotFound for a source that has too few files, or none although the table has rows."""
    least = plan.config.min_files or 0
    if plan.found < least:
        raise SourceNotFound(
            f"{plan.source}: {plan.found:,} files found, but --min-files is {least:,}; check that the disk is mounted "
            "and the path is right"
        )
    if not plan.found and plan.known:
        raise SourceNotFound(
            f"{plan.source}: no files found, but {plan.out} has rows; check that the disk is mounted and the path is "
            "right (the rows are unchanged; `tagger query` reads them without the files)"
        )


class Work:
    """A plan in progress in this process: its models, each loaded once, and the remaining shards.

    Several tasks may share it. The shards of a task that failed are taken by the next one.
    """

    def __init__(self, plan: Plan, shards: Sequence[int] | None = None, models: Models | None = None) -> None:
        self.plan, self.models = plan, models or Models()
        self._worklist = Worklist(plan)
        self.shards = list(range(plan.shards) if shards is None else shards)
        self._unsettled = [*self.shards]
        """Shards that may or may not have a part file: at first all, then those of failed calls of run()."""

    def run(self, at_most: int | None = None, on_progress: OnProgress = _ignore) -> ShardCounts:
        """Tag the remaining shards, or `at_most` of them; the counts include shards that an earlier attempt wrote."""
        held, self._unsettled = self._unsettled, []
        try:
            return self._run(held, at_most, on_progress)
        except BaseException:
            self._unsettled += held
            raise

    def _run(self, held: list[int], at_most: int | None, on_progress: OnProgress) -> ShardCounts:
        started, plan = time.perf_counter(), self.plan
        missing = _without_part(plan, held)
        written = sorted({*held} - {*missing})
        before = _committed(plan, written)
        self._worklist.add(missing)
        held[:] = written
        todo = self._worklist.left
        if not todo:
            return before
        _check_access(plan, todo)
        most = len(written) + (len(todo) if at_most is None else at_most)
        files = sum(len(plan.shard(index)) for index in todo[:at_most])
        _choose_precision(plan, todo, files)
        with contextlib.closing(decoder_for(plan.source, files, plan.config.workers)) as decoder:
            models = [self.models.get(target, plan.config) for target in plan.targets]
            run = _ShardRun(plan, models, on_progress)
            run.tag(self._taken(held, most, run.written), files, decoder)
        while len(held) < most and self._worklist.settle():
            run.tag(self._taken(held, most, run.written), files, ThreadDecoder())
        return before + run.counts(time.perf_counter() - started)

    def _taken(self, held: list[int], most: int, written: list[int]) -> Iterator[tuple[int, pa.Table]]:
        """Yield shards as they are taken, until `held` has `most` of them; `written` grows meanwhile."""
        while len(held) < most and (shard := self._worklist.take(written)):
            held.append(shard[0])
            yield shard


def run_shards(
    plan: Plan, shards: Sequence[int], models: Models | None = None, on_progress: OnProgress = _ignore
) -> ShardCounts:
    """Tag some shards of a plan; those whose part file exists are skipped, so a retry does only what is missing.

    Calls that share `models` load each model once.
    """
    return Work(plan, shards, models).run(on_progress=on_progress)


def _choose_precision(plan: Plan, todo: Sequence[int], files: int) -> None:
    """Before a long run, measure on its own images whether a faster precision agrees; engines then choose it."""
    config = plan.config
    if files < MEASURE_FILES or (config.engine, config.precision) != ("auto", "auto"):
        return
    sample = _sample(plan, todo, agreement.SAMPLE)
    with _MEASURING:
        for target in plan.targets:
            agreement.measure_for_run(target.model, sample, config.device)


def _without_part(plan: Plan, shards: Sequence[int]) -> list[int]:
    """Return the shards that have no part file, not even one that a compaction has merged into another."""
    names = set(storage.names_in(plan.out) or [])
    missing = [index for index in shards if plan.part(index) not in names]
    merged = merged_into(plan.out) if missing else {}
    return [index for index in missing if plan.part(index) not in merged]


def _redo_deleted(plan: Plan, counts: ShardCounts, models: Models, on_progress: OnProgress) -> ShardCounts:
    """Tag shards again if their part was deleted after it was written."""
    deleted = _without_part(plan, counts.shards)
    if not deleted:
        return counts
    log.warning("%s: %d part files of this run were deleted; tagging their files again", plan.out, len(deleted))
    again = run_shards(plan, deleted, models, on_progress)
    shards = sorted({*counts.shards} - {*deleted} | {*again.shards})
    there = _committed(plan, shards)
    return replace(
        counts, statuses=there.statuses, unknown=there.unknown, untagged=there.untagged, files=there.files,
        shards=there.shards,
    )  # fmt: skip


def _committed(plan: Plan, shards: Sequence[int]) -> ShardCounts:
    """Count the rows in the parts of these shards."""
    if not shards:
        return ShardCounts()
    there, damaged = consistently(lambda: _rows_of(plan, shards))
    if damaged:
        raise TableError(f"{plan.out}: {', '.join(damaged)} damaged; run the command again to tag their files again")
    statuses, engines, unknown, untagged = [], [], [], []
    for target in plan.targets:
        own = there.filter(pc.equal(there["model"], target.name))
        statuses.append(dict(Counter(own["status"].to_pylist())))
        engines.append(own["engine"][0].as_py() if len(own) else "")
        unknown.append(pc.sum(own["unknown"]).as_py())
        untagged.append(_untagged(own))
    files = pc.count_distinct(there["uri"]).as_py()
    return ShardCounts(statuses, engines, unknown, untagged, files=files, shards=tuple(shards))


def _untagged(table: pa.Table) -> int:
    """Count the rows of images that were scored and have no tag; those of files that failed have null."""
    return pc.sum(pc.equal(pc.list_value_length(table["tags"]), 0)).as_py() or 0


def _rows_of(plan: Plan, shards: Sequence[int]) -> tuple[pa.Table, tuple[str, ...]]:
    """Read the rows of these shards, from their parts or from those that compactions merged them into."""
    columns = ["uri", "model", "status", "engine", "unknown", "tags", "run_id", "tagged_at"]
    names = set(storage.names_in(plan.out) or [])
    merged = [index for index in shards if plan.part(index) not in names]
    own = [storage.join(plan.out, plan.part(index)) for index in sorted({*shards} - {*merged})]
    there, damaged = read_rows(own, columns)
    if not merged:
        return there, damaged
    places = merged_into(plan.out)
    used = {uri for index in merged if (uri := places.get(plan.part(index)))}
    found, broken = read_rows(sorted(used), columns)
    found = results.distinct(found.filter(pc.equal(found["run_id"], plan.run_id)))
    files = pa.concat_arrays([chunk for index in merged for chunk in plan.shard(index)["uri"].chunks])
    return pa.concat_tables([there, found.filter(pc.is_in(found["uri"], files))]), (*damaged, *broken)


def finish(plan: Plan, counts: ShardCounts, done: Sequence[int] = ()) -> Summary:
    """Summarise a run and record it under `_runs/`; raises WriteError if parts of the table were deleted meanwhile.

    `done` are the shards of a slice of which nothing is left.
    """
    if plan.shards:
        _check_parts(plan, counts)
        if plan.config.own_slice and done:
            slices.mark_done(plan, plan.config.own_slice[0], done)
    summary = summarise(plan, counts)
    if plan.shards or plan.known:
        _record(plan, {"state": "finished", **summary.to_dict()})
    return summary


def _check_parts(plan: Plan, counts: ShardCounts) -> None:
    names = set(storage.names_in(plan.out) or [])
    missing = [name for name in (*plan.known, *map(plan.part, counts.shards)) if name not in names]
    merged = merged_into(plan.out) if missing else {}
    if deleted := [name for name in missing if name not in merged]:
        raise WriteError(
            f"{plan.out}: {len(deleted):,} part files were deleted during the run, such as {deleted[0]}; "
            "run the command again to tag their files"
        )


def _check_access(plan: Plan, todo: Sequence[int]) -> None:
    """Raise AccessDenied if a store refuses the credentials: one error instead of one row per file.

    In the first run on a bucket, a sample of files that are all refused is also such an error. In later runs, the
    remaining files may be exactly those that cannot be read; and a web server may refuse some files only.
    """
    refused: AccessDenied | None = None
    sample = _sample(plan, todo)
    stored = [uri for uri in sample if storage.is_remote(uri) and not uri.startswith(("http://", "https://"))]
    for uri in stored:
        try:
            storage.read_bytes(uri, timeout=plan.config.read_timeout)
        except AccessDenied as error:
            refused = error
        except SourceError:
            return
        else:
            return
    if refused and (refused.credentials or (plan.run_id.startswith(FIRST) and stored == sample)):
        raise refused


def _sample(plan: Plan, todo: Sequence[int], count: int = _SAMPLE) -> list[str]:
    """Return some files, spread over the shards."""
    shards: dict[int, list[float]] = {}
    for place in (place * len(todo) / count for place in range(count)):
        shards.setdefault(todo[int(place)], []).append(place % 1)
    picked = []
    for index, shares in shards.items():
        uris = manifest.locations(plan.shard(index))
        picked += [uris[int(share * len(uris))] for share in shares]
    return list(dict.fromkeys(picked))


def _record(plan: Plan, facts: dict[str, Any]) -> None:
    """Write the JSON that describes a run; no plan reads it.

    Runs with nothing to do overwrite each other's record; its name sorts before that of the next run with parts.
    """
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
    part = "-slice-{}-of-{}".format(*plan.config.own_slice) if plan.config.own_slice else ""
    name = plan.run_id if plan.shards else f"{plan.run_id[:8]}{results.IDLE}"
    uri = storage.join(plan.out, f"{results.RUNS}/{name}{part}.json")
    storage.write_atomic(uri, json.dumps(record, indent=2).encode())


class _ShardRun:
    """Stream several shards through one pipeline, and commit each as soon as it is complete."""

    def __init__(self, plan: Plan, models: Sequence[Model], on_progress: OnProgress) -> None:
        self.plan, self.models, self.on_progress = plan, models, on_progress
        self.statuses: list[Counter[str]] = [Counter() for _ in models]
        self.unknown: list[int | None] = [0 if model.info.statistics else None for model in models]
        self.untagged = [0 for _ in models]
        self.files = 0
        self.written: list[int] = []
        self.meter = Meter()
        self.first_row = self.last_row = 0.0
        self._entered: deque[tuple[int, int]] = deque()
        """(shard, files) of the shards in the pipeline, in order."""

    def tag(self, shards: Iterator[tuple[int, pa.Table]], total: int, decoder: Decoder) -> None:
        """Tag the shards; each is written while the next one is tagged, one at a time."""
        limits = self.plan.config.limits
        batches = score_batches(self._batches(shards), self.models, limits, self.meter, decoder=decoder)
        commit: Future[None] | None = None
        with contextlib.closing(batches), ThreadPoolExecutor(1, "write") as writer:
            for index, tables in self._by_shard(batches, total):
                if commit:
                    commit.result()
                commit = writer.submit(self._commit, index, tables)
            if commit:
                commit.result()

    def counts(self, seconds: float) -> ShardCounts:
        """Return the counts of the shards so far."""
        rates = [model.engine.images_per_second for model in self.models]
        together = 1 / sum(1 / rate for rate in rates if rate) if all(rates) else None
        shares = any(model.engine.shares_cores for model in self.models)
        return ShardCounts(
            statuses=[dict(counter) for counter in self.statuses],
            engines=[model.engine.name for model in self.models],
            unknown=self.unknown,
            untagged=self.untagged,
            files=self.files,
            timed=self.files,
            shards=tuple(self.written),
            seconds=seconds,
            steady_seconds=self.last_row - self.first_row,
            ceilings=self.meter.ceilings(together, shares),
        )

    def _batches(self, shards: Iterator[tuple[int, pa.Table]]) -> Iterator[Batch]:
        for index, entries in shards:
            if len(entries):
                self._entered.append((index, len(entries)))
                yield rows.batch_of(entries)

    def _by_shard(self, batches: Iterable[Batch], total: int) -> Iterator[tuple[int, list[list[pa.Table]]]]:
        """Collect the rows of each shard, in a list for each model."""
        collected: list[list[pa.Table]] = [[] for _ in self.models]
        in_shard = 0
        for batch in batches:
            for model, tables in enumerate(collected):
                table, counts = rows.rows_of(batch, model)
                self.statuses[model] += counts
                self._count_unknown(model, table)
                self.untagged[model] += _untagged(table)
                tables.append(table)
            self._advance(len(batch), total)
            in_shard += len(batch)
            index, size = self._entered[0]
            if in_shard == size:
                yield index, collected
                collected, in_shard = [[] for _ in self.models], 0
                self._entered.popleft()

    def _count_unknown(self, model: int, table: pa.Table) -> None:
        before = self.unknown[model]
        if before is not None:
            self.unknown[model] = before + (pc.sum(table["unknown"]).as_py() or 0)

    def _advance(self, files: int, total: int) -> None:
        self.files += files
        self.last_row = time.perf_counter()
        self.first_row = self.first_row or self.last_row
        failed = sum(counter.total() - sum(counter[status] for status in schema.TAGGED) for counter in self.statuses)
        self.on_progress(Progress(self.files, total, failed))

    def _commit(self, index: int, tables: list[list[pa.Table]]) -> None:
        fixed = {"run_id": self.plan.run_id, "tagged_at": datetime.now(UTC)}
        table = rows.finished(tables, [{**model.columns(), **fixed} for model in self.models])
        storage.write_atomic(storage.join(self.plan.out, self.plan.part(index)), schema.serialise(table, "results"))
        self.written.append(index)
