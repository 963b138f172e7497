"""The state of a results table: its parts, rows by status, runs and damage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc

from tagger.data.manifest import counts_text
from tagger.storage import StrPath
from tagger.tagging import results


@dataclass(frozen=True)
class Status:
    """The state of a results table."""

    out: str
    parts: int
    rows: int
    """Over all runs."""
    runs: int
    last_run: str | None
    """run_id of the highest generation."""
    models: dict[str, dict[str, int]]
    """Model -> status -> images, of the latest rows."""
    damaged: tuple[str, ...]
    """Parts that cannot be read; the next run tags their files again."""

    def text(self) -> str:
        """Return a few lines for a terminal."""
        last = f", the last {self.last_run}" * bool(self.last_run)
        lines = [f"parts: {self.parts:,}, rows: {self.rows:,}, runs: {self.runs:,}{last}"]
        lines += [
            f"{model}: {sum(counts.values()):,} images ({counts_text(counts)})" for model, counts in self.models.items()
        ]
        lines += [f"damaged: {name}" for name in self.damaged]
        return "\n".join(lines)


def status(url: StrPath, verify: bool = False) -> Status:
    """Read the state of a results folder; `verify` reads every byte of every part. Raises SourceNotFound."""
    return results.consistently(lambda: _status(url, verify))


def _status(url: StrPath, verify: bool) -> Status:
    parts = results.existing_parts(url)
    rows, damaged = results.read_rows(parts.uris, ["uri", "model", "status", "run_id", "tagged_at"])
    rows = results.distinct(rows) if parts.overlap else rows
    if verify:
        damaged = results.damaged_parts(parts.uris)
    latest = results.latest(rows)
    runs = pc.unique(rows["run_id"]).to_pylist()
    models = sorted(pc.unique(latest["model"]).to_pylist())
    return Status(
        out=str(url),
        parts=len(parts.uris) - len(damaged),
        rows=len(rows),
        runs=len(runs),
        last_run=max(runs, default=None),
        models={
            name: dict(Counter(latest.filter(pc.equal(latest["model"], name))["status"].to_pylist()).most_common())
            for name in models
        },
        damaged=(*parts.damaged, *damaged),
    )
