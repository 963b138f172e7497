"""The state of a results table: files by status, its last runs, parts and damage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tagger import schema, storage
from tagger.data.manifest import counts_text
from tagger.storage import StrPath
from tagger.tagging import results
from tagger.tagging.parts import Parts, consistently, damaged_parts, sound_rows
from tagger.tagging.pieces import pieces
from tagger.tagging.present import listed, listings, rows_listed

RUNS_SHOWN = 10
_COLUMNS = ("uri", "model", "status", "run_id", "tagged_at")


@dataclass(frozen=True)
class ModelStatus:
    """The files of one model, by their latest rows."""

    images: int
    done: int
    """Files with tags."""
    failed: dict[str, int]
    """Status -> files."""
    missing: int | None
    """Files of the last listings without a row; None if there is no listing."""
    vanished: int | None
    """Files with a row that are in no last listing."""

    def text(self) -> str:
        """Return the counts on one line."""
        failed = f", {sum(self.failed.values()):,} failed ({counts_text(self.failed)})" if self.failed else ""
        rest = f", {self.missing:,} missing, {self.vanished:,} vanished" if self.missing is not None else ""
        return f"{self.images:,} images: {self.done:,} done{failed}{rest}"


@dataclass(frozen=True)
class RunStatus:
    """One run, or one slice of it, from its record in `_runs/`."""

    name: str
    state: str
    """started (also when it was killed) or finished."""
    source: str
    files_to_tag: int
    tagged: int
    failed: dict[str, int]
    images_per_second: float | None
    bound_by: str | None
    age_seconds: int
    """Since the record was written."""

    def text(self) -> str:
        """Return the run on one line."""
        name = self.name.replace(results.IDLE, "")
        done = f"{self.tagged:,} of {self.files_to_tag:,} tagged" if self.files_to_tag else "nothing to do"
        done = done if self.state == "finished" else "not finished"
        failed = f", failed: {counts_text(self.failed)}" if self.failed else ""
        rate = f", {self.images_per_second:,.0f} images/s" if self.images_per_second else ""
        bound = f", bound by {self.bound_by}" if self.bound_by else ""
        return f"{name}: {done}{failed}{rate}{bound}, {_age(self.age_seconds)} ago, {self.source}"


@dataclass(frozen=True)
class Status:
    """The state of a results table."""

    out: str
    parts: int
    replaced: int
    """Parts that a compaction has merged but not deleted yet."""
    rows: int
    """Over all runs."""
    runs: int
    last_run: str | None
    """run_id of the highest generation."""
    models: dict[str, ModelStatus]
    last_runs: list[RunStatus]
    damaged: tuple[str, ...]
    """Parts that cannot be read; the next run tags their files again."""

    def text(self) -> str:
        """Return a few lines for a terminal."""
        last = f", the last {self.last_run}" * bool(self.last_run)
        replaced = f" and {self.replaced:,} replaced" * bool(self.replaced)
        lines = [f"parts: {self.parts:,}{replaced}, rows: {self.rows:,}, runs: {self.runs:,}{last}"]
        lines += [f"{model}: {each.text()}" for model, each in self.models.items()]
        lines += [f"run {each.text()}" for each in self.last_runs]
        lines += [f"damaged: {name}" for name in self.damaged]
        return "\n".join(lines)


def status(url: StrPath, verify: bool = False) -> Status:
    """Read the state of a results folder; `verify` reads every byte of every part. Raises SourceNotFound."""
    return consistently(lambda: _status(url, verify))


def _status(url: StrPath, verify: bool) -> Status:
    parts, damaged = results.existing_parts(url), list[str]()
    out = storage.absolute(str(url))
    tally = _tally(parts, listings(out), damaged)
    return Status(
        out=str(url),
        parts=len(parts.uris) - len(damaged),
        replaced=len(parts.replaced),
        rows=tally.rows,
        runs=len(tally.runs),
        last_run=max(tally.runs, default=None),
        models={name: tally.model(name) for name in sorted(tally.images)},
        last_runs=_last_runs(out),
        damaged=(*parts.damaged, *(damaged_parts(parts.uris) if verify else damaged)),
    )


def _tally(parts: Parts, listed_in: Sequence[str], damaged: list[str]) -> _Tally:
    """Count rows and files piece by piece, so that memory does not grow with the table."""
    tally = _Tally(bool(listed_in))
    rows = sound_rows(parts, _COLUMNS, damaged)
    for there, piece in pieces(listed(listed_in), rows, max(parts.rows, rows_listed(listed_in))):
        tally.add(there["uri"], results.distinct(piece) if parts.overlap else piece)
    return tally


class _Tally:
    """Counts over the pieces of a table."""

    def __init__(self, knows_sources: bool) -> None:
        self.knows_sources = knows_sources
        self.rows = self.listed = 0
        self.runs: set[str] = set()
        self.images: dict[str, Counter[str]] = {}
        """Model -> status -> files."""
        self.present: Counter[str] = Counter()
        """Model -> files that a last listing has."""

    def add(self, there: pa.ChunkedArray, rows: pa.Table) -> None:
        """Count the rows of a piece, and the uris in the listings that fall into it."""
        self.rows += len(rows)
        self.listed += pc.count_distinct(there).as_py()
        self.runs.update(pc.unique(rows["run_id"]).to_pylist())
        latest = results.latest(rows)
        known = latest.filter(pc.is_in(latest["uri"], there.combine_chunks()))
        self.present.update(_counts(known["model"]))
        for name in pc.unique(latest["model"]).to_pylist():
            of_model = latest.filter(pc.equal(latest["model"], name))
            self.images.setdefault(name, Counter()).update(_counts(of_model["status"]))

    def model(self, name: str) -> ModelStatus:
        """Return the counts of one model."""
        counts, present = self.images[name], self.present[name]
        return ModelStatus(
            images=counts.total(),
            done=sum(counts[status] for status in schema.TAGGED),
            failed={status: count for status, count in counts.most_common() if status not in schema.TAGGED},
            missing=self.listed - present if self.knows_sources else None,
            vanished=counts.total() - present if self.knows_sources else None,
        )


def _counts(values: pa.ChunkedArray) -> dict[str, int]:
    return {each["values"]: each["counts"] for each in pc.value_counts(values).to_pylist()}


def _last_runs(out: str) -> list[RunStatus]:
    """Read the records of the last runs, the last one first."""
    folder = storage.join(out, results.RUNS)
    names = [name for name in storage.names_in(folder) or [] if name.endswith(".json")]
    return [_run_status(name, storage.read_bytes(storage.join(folder, name))) for name in names[: -RUNS_SHOWN - 1 : -1]]


def _run_status(name: str, content: bytes) -> RunStatus:
    record: dict[str, Any] = json.loads(content)
    age = datetime.now(UTC) - datetime.fromisoformat(record["written_at"])
    return RunStatus(
        name=name.removesuffix(".json"),
        state=record["state"],
        source=record["source"],
        files_to_tag=record["files_to_tag"],
        tagged=record.get("tagged", 0),
        failed=record.get("failed", {}),
        images_per_second=record.get("steady_images_per_second") or record.get("images_per_second"),
        bound_by=record.get("bound_by"),
        age_seconds=max(0, int(age.total_seconds())),
    )


def _age(seconds: int) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"
