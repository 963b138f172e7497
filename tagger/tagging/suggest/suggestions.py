"""The table of suggestions: its rows, its file, and the same as tasks for Label Studio."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tagger import schema, storage
from tagger.data import manifest
from tagger.errors import TableError
from tagger.storage import StrPath
from tagger.tagging import export

REASONS = {
    "uncertain": "uncertain",
    "duplicate": "copies with other labels",
    "label": "labels that look wrong",
    "dark": "too dark",
    "blurred": "blurred",
}
"""Reason -> description, in the order of a dataset's suggestions."""
SHOWN = 10
"""Maximum number of candidates per row."""


@dataclass(frozen=True)
class Suggestions:
    """Suggested images, the most important first."""

    table: pa.Table
    """Rows of the suggestions schema."""
    found: Mapping[str, int]
    """Reason -> images that have it, whether they are among the suggestions or not."""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    def counts(self) -> dict[str, Any]:
        """Return counts and notes as plain values."""
        return {"suggested": Counter(self.table["reason"].to_pylist()), "found": self.found, "notes": self.notes}

    def text(self) -> str:
        """Return counts and notes in lines."""
        chosen = Counter(self.table["reason"].to_pylist())
        lines = [f"{len(self):,} image{'s' * (len(self) != 1)} suggested"]
        for reason, number in self.found.items():
            lines.append(f"  {REASONS[reason]}: {chosen[reason]:,} of {number:,}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def table_of(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table of suggestions."""
    return schema.from_rows(rows, "suggestions")


def pairs(names: Iterable[str], scores: Iterable[float]) -> list[dict[str, Any]]:
    """Return tags with their scores, best first, without scores that are not finite."""
    both = zip(names, scores, strict=True)
    best = sorted(((score, name) for name, score in both if math.isfinite(score)), key=lambda pair: -pair[0])
    return [{"tag": name, "score": float(score)} for score, name in best[:SHOWN]]


def read(file: StrPath) -> pa.Table:
    """Read a file of suggestions; raises SourceError, or TableError for a damaged or foreign one."""
    uri = storage.absolute(str(file))
    with storage.open_input(uri) as opened, schema.named_damage(uri):
        parquet = schema.open_parquet(opened)
        schema.check_footer(parquet.schema_arrow, "suggestions", uri)
        return schema.conform(parquet.read(), "suggestions")


def write(found: Suggestions, out: StrPath, format: str = "auto") -> None:
    """Write suggestions as Parquet, or as tasks for Label Studio."""
    uri = storage.absolute(str(out))
    tasks = _are_tasks(uri, format)
    storage.write_atomic(uri, label_studio(found.table) if tasks else schema.serialise(found.table, "suggestions"))


def _are_tasks(uri: str, format: str) -> bool:
    return format == "label-studio" or (format == "auto" and uri.lower().endswith(".json"))


def check_place(out: StrPath, format: str = "auto") -> None:
    """Raise TableError if the file would overwrite another table, such as labels."""
    uri = storage.absolute(str(out))
    if _are_tasks(uri, format) or not storage.exists(uri):
        return
    if manifest.table_in(uri) != "suggestions":
        raise TableError(f"--out {out}: exists and is not a table of suggestions; choose another file")


def label_studio(table: pa.Table) -> bytes:
    """Return tasks with predictions: the best candidate, and for a multilabel image all over 0.5."""
    tasks = [_task(row) for row in table.to_pylist()]
    return (json.dumps(tasks, ensure_ascii=False, indent=1) + "\n").encode()


def _task(row: dict[str, Any]) -> dict[str, Any]:
    pairs = row["candidates"] or []
    chosen = [pair for pair in pairs[1:] if pair["score"] > 0.5]  # more than one only where scores are independent
    tags = [*pairs[:1], *chosen]
    names, scores = [pair["tag"] for pair in tags], [pair["score"] for pair in tags]
    task = export.label_studio_task({"uri": row["uri"], "tags": names, "scores": scores, "model": row["model"]}, "tags")
    task["data"] |= {"reason": row["reason"], "labels": ", ".join(row["labels"] or [])}
    return task
