"""The plan of a run: the files whose latest row is missing or out of date, split into shards.

The part files are the only record of what is done. A run_id belongs to one frozen plan. Its generation is one more than
the highest in the table, so the order of two rows does not depend on a clock.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tagger import schema, storage
from tagger.checkpoint.info import ModelInfo
from tagger.data.manifest import Manifest, counts_text
from tagger.errors import SourceNotFound, TableError, UsageError
from tagger.tagging import results
from tagger.tagging.config import TagConfig

LEFTOVER_AGE = timedelta(days=1)
"""Age at which the leftovers of a killed run are removed."""
_LATEST_COLUMNS = (*schema.KEY.names, "status", "model", "model_id", "settings_id", "run_id", "tagged_at")


@dataclass(frozen=True)
class Target:
    """One model of a run, and the files to tag with it."""

    model: str
    """The --model argument, from which other processes load it."""
    name: str
    model_id: str
    settings_id: str
    done: int
    """Files whose latest row is up to date."""
    reasons: dict[str, int]
    """Reason for tagging -> number of files."""
    standing: dict[str, int]
    """Status -> number of rows that are up to date."""

    def text(self) -> str:
        """Return the number of files and the reasons."""
        return f"{sum(self.reasons.values()):,} ({counts_text(self.reasons)})" if self.reasons else "0"


@dataclass(frozen=True)
class Plan:
    """The work of one run; frozen, so that a retried shard is the same shard."""

    run_id: str
    source: str
    skipped: dict[str, int]
    """Reason for skipping -> number of entries in the source."""
    targets: tuple[Target, ...]
    out: str
    config: TagConfig
    found: int
    damaged: tuple[str, ...]
    """Part files set aside because they are damaged."""
    known: tuple[str, ...]
    """Part files that existed when the plan was made; overlapping runs write others."""
    entries: pa.Table
    """Key columns and locations of the files to tag, in order; bit i of `wanted` is set where target i is to tag it."""

    def text(self) -> str:
        """Return a few lines on the work and its reasons."""
        damaged = [f"set aside a damaged part: {name}" for name in self.damaged]
        if len(self.targets) == 1:
            why = f" ({counts_text(self.targets[0].reasons)})" if len(self.entries) else ""
            return "\n".join([*damaged, f"{len(self.entries):,} of {self.found:,} files to tag{why}"])
        each = [f"  {target.name}: {target.text()}" for target in self.targets]
        return "\n".join([*damaged, f"{len(self.entries):,} of {self.found:,} files to read", *each])

    @property
    def shards(self) -> int:
        """Number of part files this plan will write."""
        return -(-len(self.entries) // self.config.shard_size)

    def shard(self, index: int) -> pa.Table:
        """Return the entries of one shard."""
        return self.entries.slice(index * self.config.shard_size, self.config.shard_size)

    def part(self, index: int) -> str:
        """Return the name of the file that will hold a shard."""
        return f"part-{self.run_id}-{index:05d}.parquet"


def make_plan(source: str, files: Manifest, models: Mapping[str, ModelInfo], out: str, config: TagConfig) -> Plan:
    """Compare the files of a source with a results folder; `models` maps --model arguments to descriptions.

    Raises TableError if the folder holds other files, UsageError if two models have the same name.
    """
    out, manifest = storage.absolute(out), files.table
    check_out(out)
    if repeated := [name for name, count in Counter(info.name for info in models.values()).items() if count > 1]:
        raise UsageError(
            f"--model: two models are called {repeated[0]}, but rows are distinguished by that name; rename one folder"
        )
    parts = results.list_parts(out)
    rows, damaged = results.read_rows(parts.uris, _LATEST_COLUMNS, [info.name for info in models.values()])
    damaged = (*parts.damaged, *damaged)
    _set_aside(out, damaged)
    wanted = pa.array([0]).take(pa.array([0] * len(manifest), pa.int32()))
    targets = []
    for bit, (model, info) in enumerate(models.items()):
        target, pending = _target(model, info, manifest, rows, config)
        targets.append(target)
        wanted = pc.add(wanted, pc.if_else(pending, 1 << bit, 0))
    entries = manifest.select(schema.FOUND.names).append_column("wanted", wanted)
    return Plan(
        run_id=f"{next_generation(parts):08d}-{secrets.token_hex(4)}",
        source=storage.public_uri(source),
        skipped=dict(files.skipped),
        targets=tuple(targets),
        out=out,
        config=config,
        found=len(manifest),
        damaged=damaged,
        known=tuple(name for uri in parts.uris if (name := uri.rpartition("/")[2]) not in damaged),
        entries=entries.filter(pc.not_equal(wanted, 0)),
    )


def _set_aside(out: str, damaged: Iterable[str]) -> None:
    """Rename damaged parts, so that readers ignore them."""
    for name in damaged:
        with contextlib.suppress(SourceNotFound):  # an overlapping run was first
            storage.rename(storage.join(out, name), storage.join(out, f"_damaged-{name.removesuffix('.parquet')}"))


def _target(
    model: str, info: ModelInfo, manifest: pa.Table, rows: pa.Table, config: TagConfig
) -> tuple[Target, pa.ChunkedArray]:
    """Return one model's work, and for each manifest row whether it is to be tagged."""
    settings_id = config.settings_id(info)
    previous = results.latest(rows.filter(pc.equal(rows["model"], info.name)))
    why = _reasons(manifest, previous, info.model_id, settings_id, config)
    pending = pc.is_valid(why)
    standing = manifest.select(["uri"]).filter(pc.invert(pending)).join(previous.select(["uri", "status"]), "uri")
    target = Target(
        model=model,
        name=info.name,
        model_id=info.model_id,
        settings_id=settings_id,
        done=len(standing),
        reasons=dict(Counter(why.drop_null().to_pylist()).most_common()),
        standing=dict(Counter(standing["status"].to_pylist())),
    )
    return target, pending


def check_out(out: str) -> None:
    """Raise TableError for a folder that holds other files than results."""
    names = storage.names_in(out) or []
    if results.RUNS in names:
        return
    foreign = [name for name in names if not name.startswith(("_", ".")) and not name.endswith(".parquet")]
    if foreign:
        raise TableError(f"{out}: holds other files ({', '.join(foreign[:3])}); --out needs an empty or new folder")


def save_plan(plan: Plan) -> str:
    """Write a plan beside the results, one row group per shard; return its uri."""
    uri = storage.join(plan.out, f"{results.RUNS}/_plan-{plan.run_id}")
    fields = {name: value for name, value in vars(plan).items() if name != "entries"}
    text = json.dumps({**fields, "config": asdict(plan.config), "targets": [asdict(target) for target in plan.targets]})
    content = schema.serialise(plan.entries, "plan", row_group=plan.config.shard_size, plan=text)
    storage.write_atomic(uri, content)
    return uri


def load_plan(uri: str) -> Plan:
    """Read a plan that save_plan wrote."""
    content = storage.read_bytes(uri)
    with schema.named_damage(uri):
        table = schema.open_parquet(io.BytesIO(content)).read()
    fields: dict[str, Any] = json.loads(schema.check_footer(table.schema, "plan", uri)["plan"])
    fields["config"] = TagConfig(**fields["config"])
    fields["damaged"], fields["known"] = tuple(fields["damaged"]), tuple(fields["known"])
    fields["targets"] = tuple(Target(**target) for target in fields["targets"])
    return Plan(**fields, entries=table)


def remove_plan(uri: str) -> None:
    """Delete a plan whose run is finished."""
    storage.remove(uri)


def remove_leftovers(out: str) -> None:
    """Remove the temporary files and plans of runs that were killed more than a day ago."""
    oldest = datetime.now(UTC) - LEFTOVER_AGE
    for folder, prefix in ((out, "_tmp-"), (storage.join(out, results.RUNS), "_plan-")):
        for name in storage.names_in(folder) or []:
            if name.startswith((prefix, "_tmp-")):
                written = storage.describe(storage.join(folder, name)).modified_at
                if written and written < oldest:
                    storage.remove(storage.join(folder, name))


def ranges(shards: int, at_most: int) -> list[tuple[int, int]]:
    """Split `shards` into at most `at_most` (start, stop) ranges of nearly equal length."""
    count = min(shards, at_most)
    cuts = [shards * index // count for index in range(count + 1)] if count else [0]
    return list(itertools.pairwise(cuts))


def read_committed(plan: Plan, new_parts: list[str]) -> pa.Table:
    """Read the rows of overlapping runs that may replace some of the plan's."""
    rows, _ = results.read_rows(new_parts, _LATEST_COLUMNS)  # the next plan sets damaged ones aside
    # --redo and --retry-failed replace the rows of runs that were planned earlier
    later = pc.greater_equal(pc.utf8_slice_codeunits(rows["run_id"], 0, 8), plan.run_id[:8])
    if plan.config.redo:
        return rows.filter(later)
    return (
        rows.filter(pc.or_(later, pc.is_in(rows["status"], pa.array(schema.TAGGED))))
        if plan.config.retry_failed
        else rows
    )


def without_committed(plan: Plan, shard: pa.Table, rows: pa.Table) -> pa.Table:
    """Drop files of a shard that an overlapping run has committed."""
    rows = rows.filter(pc.is_in(rows["uri"], shard["uri"]))
    config = replace(plan.config, redo=False, retry_failed=False)
    wanted = shard["wanted"]
    for bit, target in enumerate(plan.targets):
        previous = results.latest(rows.filter(_is_of(target, rows)))
        why = _reasons(shard, previous, target.model_id, target.settings_id, config)
        committed = pc.if_else(pc.is_valid(why), 0, 1 << bit)
        wanted = pc.bit_wise_and(wanted, pc.bit_wise_not(committed))
    place = shard.column_names.index("wanted")
    return shard.set_column(place, "wanted", wanted).filter(pc.not_equal(wanted, 0))


def _is_of(target: Target, rows: pa.Table) -> pa.ChunkedArray:
    """Return for each row whether it was written by this model with these settings."""
    same = (pc.equal(rows[name], getattr(target, name)) for name in ("model_id", "settings_id"))
    return functools.reduce(pc.and_, same, pc.equal(rows["model"], target.name))


def next_generation(parts: results.Parts) -> int:
    """Return one more than the highest generation, read from the part names or, if they were renamed, from the rows."""
    runs = [uri.rpartition("/")[2].removeprefix("part-").partition("-")[0] for uri in parts.uris]
    known = [int(run) for run in runs if run.isdigit()]
    renamed = [uri for uri, run in zip(parts.uris, runs, strict=True) if not run.isdigit()]
    if renamed:
        known += [int(run[:8]) for run in pc.unique(results.read_rows(renamed, ["run_id"])[0]["run_id"]).to_pylist()]
    generation = 1 + max(known, default=0)
    if generation > 99_999_999:
        raise UsageError("the table has used up its generations; start a new results folder")
    return generation


def _reasons(
    manifest: pa.Table, previous: pa.Table, model_id: str, settings_id: str, config: TagConfig
) -> pa.ChunkedArray:
    """Return for each manifest row the reason to tag it; null if its latest row is up to date."""
    numbered = manifest.select(schema.KEY.names).append_column("row", pa.array(range(len(manifest)), pa.int64()))
    renamed = previous.rename_columns([name if name == "uri" else f"was_{name}" for name in previous.column_names])
    joined = numbered.join(renamed, "uri", join_type="left outer").sort_by("row")
    by_time = _same(joined["modified_at"], joined["was_modified_at"])
    by_etag = _same(joined["etag"], joined["was_etag"])
    version = pc.if_else(pc.is_valid(joined["etag"]), by_etag, by_time)
    status = joined["was_status"]
    rules = {
        "new": pc.is_null(joined["was_run_id"]),
        "changed file": pc.invert(pc.and_(_same(joined["bytes"], joined["was_bytes"]), version)),
        "another version of the model": pc.not_equal(joined["was_model_id"], model_id),
        "other settings": pc.not_equal(joined["was_settings_id"], settings_id),
        "unreadable before": pc.equal(status, "unreadable"),
    }
    if config.retry_failed:
        rules["failed before"] = pc.invert(pc.is_in(status, pa.array(schema.TAGGED)))
    if config.redo:
        rules["redo"] = pa.chunked_array([pa.repeat(True, len(joined))])
    names = pa.array(rules)
    conditions = pc.make_struct(*(pc.fill_null(rule, False) for rule in rules.values()), field_names=list(rules))
    return _chunked(pc.case_when(conditions, *names))


def _same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    both_null = pc.and_(pc.is_null(left), pc.is_null(right))
    return pc.or_(pc.fill_null(pc.equal(left, right), False), both_null)


def _chunked(values: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
