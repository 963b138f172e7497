"""The plan of a run: the files whose latest row is missing or out of date, split into shards.

The part files are the only record of what is done. A run_id belongs to one frozen plan. Its generation is one more than
the highest in the table, so the order of two rows does not depend on a clock.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tagger import schema, storage
from tagger.checkpoint.info import ModelInfo
from tagger.data.manifest import Manifest, counts_text
from tagger.errors import SourceNotFound, TableError, UsageError
from tagger.tagging import results
from tagger.tagging.config import TagConfig
from tagger.tagging.parts import Parts, consistently, list_parts, name_of, read_rows, readers, sound_rows
from tagger.tagging.pieces import pieces

PLANS = "_plans"
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
    """The work of one run; it is frozen, so a retried shard has the same files."""

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

    Raises TableError if the folder has other files, UsageError if two models have the same name.
    """
    out = storage.absolute(out)
    check_out(out)
    if repeated := [name for name, count in Counter(info.name for info in models.values()).items() if count > 1]:
        raise UsageError(
            f"--model: two models are called {repeated[0]}, but rows are distinguished by that name; rename one folder"
        )
    return consistently(lambda: _make_plan(source, files, models, out, config))


def _make_plan(source: str, files: Manifest, models: Mapping[str, ModelInfo], out: str, config: TagConfig) -> Plan:
    parts, manifest = list_parts(out), files.table
    comparisons = [_Comparison(model, info, config) for model, info in models.items()]
    masks, unreadable = _compare(manifest, parts, comparisons)
    damaged = (*parts.damaged, *unreadable)
    _set_aside(out, damaged)
    entries = manifest.select(schema.FOUND.names).append_column("wanted", pa.chunked_array([pa.array(masks)]))
    return Plan(
        run_id=f"{next_generation(parts):08d}-{secrets.token_hex(4)}",
        source=storage.public_uri(source),
        skipped=dict(files.skipped),
        targets=tuple(comparison.target() for comparison in comparisons),
        out=out,
        config=config,
        found=len(manifest),
        damaged=damaged,
        known=tuple(name for uri in parts.uris if (name := name_of(uri)) not in damaged),
        entries=entries if masks.all() else entries.filter(pc.not_equal(entries["wanted"], 0)),
    )


def _set_aside(out: str, damaged: Iterable[str]) -> None:
    """Rename damaged parts, so that readers ignore them."""
    for name in damaged:
        with contextlib.suppress(SourceNotFound):  # an overlapping run was first
            storage.rename(storage.join(out, name), storage.join(out, f"_damaged-{name.removesuffix('.parquet')}"))


def _compare(
    manifest: pa.Table, parts: Parts, comparisons: Sequence[_Comparison]
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Return for each manifest row a bit mask of the models that are to tag it, and the names of damaged parts.

    Memory does not grow with the results table: both tables are joined piece by piece.
    """
    damaged: list[str] = []
    masks = np.zeros(len(manifest), np.int64)
    numbered = manifest.select(schema.KEY.names).append_column(
        "row", pa.array(np.arange(len(manifest), dtype=np.int32))
    )
    rows = sound_rows(parts, _LATEST_COLUMNS, damaged, [comparison.info.name for comparison in comparisons])
    for files, previous in pieces([numbered], rows, max(len(manifest), parts.rows)):
        for bit, comparison in enumerate(comparisons):
            pending = comparison.pending(files, previous)
            masks[files["row"].filter(pending).to_numpy()] |= 1 << bit
    return masks, tuple(damaged)


class _Comparison:
    """The comparison of a manifest with the latest rows of one model, piece by piece."""

    def __init__(self, model: str, info: ModelInfo, config: TagConfig) -> None:
        self.model, self.info, self.config = model, info, config
        self.settings_id = config.settings_id(info)
        self.reasons: Counter[str] = Counter()
        self.standing: Counter[str] = Counter()

    def pending(self, files: pa.Table, rows: pa.Table) -> pa.ChunkedArray:
        """Return for each file whether it is to be tagged, and count the reasons."""
        previous = _newest(rows.filter(pc.equal(rows["model"], self.info.name)))
        why, status = _reasons(files, previous, self.info.model_id, self.settings_id, self.config)
        pending = pc.is_valid(why)
        self.reasons += _counted(why.drop_null())
        self.standing += _counted(status.filter(pc.invert(pending)))
        return pending

    def target(self) -> Target:
        """Return the model's share of the plan."""
        return Target(
            model=self.model,
            name=self.info.name,
            model_id=self.info.model_id,
            settings_id=self.settings_id,
            done=self.standing.total(),
            reasons=dict(self.reasons.most_common()),
            standing=dict(self.standing),
        )


def _counted(values: pa.ChunkedArray) -> Counter[str]:
    return Counter({each["values"]: each["counts"] for each in pc.value_counts(values).to_pylist()})


def _newest(rows: pa.Table) -> pa.Table:
    """Return the latest row of each uri of one model; only uris with several rows are sorted."""
    if not len(rows):
        return rows
    codes = rows["uri"].combine_chunks().dictionary_encode().indices.to_numpy()
    several = np.asarray(np.bincount(codes)[codes] > 1)
    if not several.any():
        return rows
    return pa.concat_tables([rows.filter(pa.array(~several)), results.latest(rows.filter(pa.array(several)))])


def check_out(out: str) -> None:
    """Raise TableError if a folder has other files than results."""
    names = storage.names_in(out) or []
    if {results.RUNS, PLANS} & {*names}:
        return
    foreign = [name for name in names if not name.startswith(("_", ".")) and not name.endswith(".parquet")]
    if foreign:
        raise TableError(f"{out}: has other files ({', '.join(foreign[:3])}); --out needs an empty or new folder")


def plan_uri(out: str, run_id: str) -> str:
    """Return the uri of the plan of a run."""
    return storage.join(out, f"{PLANS}/{run_id}")


def save_plan(plan: Plan) -> str:
    """Write a plan next to the results, one row group per shard; return its uri."""
    uri = plan_uri(plan.out, plan.run_id)
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
    """Remove the temporary files and plans of runs that were killed more than a day ago, except plans of slices."""
    oldest = datetime.now(UTC) - LEFTOVER_AGE
    plans = storage.names_in(storage.join(out, PLANS)) or []
    sliced = any(name.startswith("slices-") for name in plans)
    for folder in (out, *(storage.join(out, name) for name in (results.RUNS, PLANS))):
        for name in storage.names_in(folder) or []:
            if name.startswith("_tmp-") or (folder.endswith(PLANS) and not sliced):
                written = storage.describe(storage.join(folder, name)).modified_at
                if written and written < oldest:
                    storage.remove(storage.join(folder, name))


def read_committed(plan: Plan, new_parts: list[str]) -> pa.Table:
    """Read the rows of overlapping runs that may make some entries of the plan unnecessary."""
    empty = schema.RESULTS.empty_table().select(_LATEST_COLUMNS)

    def read(part: str) -> pa.Table:
        with contextlib.suppress(SourceNotFound):  # a compaction deleted it; its files are tagged twice
            return read_rows([part], _LATEST_COLUMNS)[0]  # the next plan sets damaged ones aside
        return empty

    with ThreadPoolExecutor(readers(plan.out)) as pool:
        rows = pa.concat_tables([empty, *pool.map(read, new_parts)])
    # --redo and --retry-failed replace the rows of runs that were planned earlier
    later = pc.greater_equal(pc.utf8_slice_codeunits(rows["run_id"], 0, 8), plan.run_id[:8])
    if plan.config.redo:
        return rows.filter(later)
    return (
        rows.filter(pc.or_(later, pc.is_in(rows["status"], pa.array(schema.TAGGED))))
        if plan.config.retry_failed
        else rows
    )


def still_pending(plan: Plan, entries: pa.Table, rows: pa.Table) -> npt.NDArray[np.int64]:
    """Return for each entry of a plan a bit mask of the models for which these rows have no result."""
    config = replace(plan.config, redo=False, retry_failed=False)
    masks = np.zeros(len(entries), np.int64)
    for bit, target in enumerate(plan.targets):
        previous = _newest(rows.filter(_is_of(target, rows)))
        why, _ = _reasons(entries, previous, target.model_id, target.settings_id, config)
        masks |= pc.if_else(pc.is_valid(why), 1 << bit, 0).to_numpy()
    return masks


def _is_of(target: Target, rows: pa.Table) -> pa.ChunkedArray:
    """Return for each row whether it was written by this model with these settings."""
    same = (pc.equal(rows[name], getattr(target, name)) for name in ("model_id", "settings_id"))
    return functools.reduce(pc.and_, same, pc.equal(rows["model"], target.name))


def next_generation(parts: Parts) -> int:
    """Return one more than the highest generation, read from the part names or, if they were renamed, from the rows."""
    runs = [name_of(uri).removeprefix("part-").partition("-")[0] for uri in parts.uris]
    known = [int(run) for run in runs if run.isdigit()]
    renamed = [uri for uri, run in zip(parts.uris, runs, strict=True) if not run.isdigit()]
    if renamed:
        known += [int(run[:8]) for run in pc.unique(read_rows(renamed, ["run_id"])[0]["run_id"]).to_pylist()]
    generation = 1 + max(known, default=0)
    if generation > 99_999_999:
        raise UsageError("the table has used up its generations; start a new results folder")
    return generation


def _reasons(
    manifest: pa.Table, previous: pa.Table, model_id: str, settings_id: str, config: TagConfig
) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return for each manifest row the reason to tag it (null if up to date), and the status of its latest row."""
    was = previous.take(pc.index_in(manifest["uri"], previous["uri"].combine_chunks()))
    by_time = _same(manifest["modified_at"], was["modified_at"])
    by_etag = _same(manifest["etag"], was["etag"])
    version = pc.if_else(pc.is_valid(manifest["etag"]), by_etag, by_time)
    status = was["status"]
    rules = {
        "new": pc.is_null(was["run_id"]),
        "changed file": pc.invert(pc.and_(_same(manifest["bytes"], was["bytes"]), version)),
        "another version of the model": pc.not_equal(was["model_id"], model_id),
        "other settings": pc.not_equal(was["settings_id"], settings_id),
        "unreadable before": pc.equal(status, "unreadable"),
    }
    if config.retry_failed:
        rules["failed before"] = pc.invert(pc.is_in(status, pa.array(schema.TAGGED)))
    if config.redo:
        rules["redo"] = pa.chunked_array([pa.repeat(True, len(manifest))])
    names = pa.array(rules)
    conditions = pc.make_struct(*(pc.fill_null(rule, False) for rule in rules.values()), field_names=list(rules))
    return _chunked(pc.case_when(conditions, *names)), status


def _same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    both_null = pc.and_(pc.is_null(left), pc.is_null(right))
    return pc.or_(pc.fill_null(pc.equal(left, right), False), both_null)


def _chunked(values: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
