"""Export a manifest's labels or the latest tags in a format that other tools read and `ingest` reads back."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tagger import schema, storage
from tagger.data import manifest
from tagger.errors import UsageError
from tagger.storage import StrPath
from tagger.tagging import results

_CONTROL, _IMAGE = "choice", "image"
"""Names in Label Studio's labelling configuration: <Choices name="choice" toName="image">."""


@dataclass(frozen=True)
class Exported:
    """An exported file."""

    out: str
    rows: int
    kind: str
    """labels (of a manifest) or tags (of results)"""

    def text(self) -> str:
        """Return one line for a terminal."""
        return f"{self.rows:,} rows with {self.kind} written: {self.out}"


def export(table: StrPath, out: StrPath, format: str, model: str | None = None) -> Exported:
    """Write a manifest's labels, or the latest tags of a results folder, as one file.

    `format` is csv, parquet, huggingface (metadata.csv next to the images) or label-studio (tasks, with labels as
    annotations and tags as predictions). `model` selects one of several models in the results. Failed images have no
    tags.
    Raises UsageError, TableError or SourceError.
    """
    table, out = os.fspath(table), os.fspath(out)
    if format not in _WRITERS:
        raise UsageError(f"--format {format}: expected one of {', '.join(_WRITERS)}")
    rows, kind = (_labels(table), "labels") if table.lower().endswith(".parquet") else (_tags(table, model), "tags")
    out_uri = storage.absolute(out)
    storage.write_atomic(out_uri, _WRITERS[format](rows, kind, out_uri))
    return Exported(out, len(rows), kind)


def _labels(table: str) -> pa.Table:
    uri = storage.absolute(table)
    with storage.open_input(uri) as file:
        schema.check_footer(pq.read_schema(file), "manifest", table)
    return manifest.read_source(table).table.select(["uri", "labels", "split"])


def latest_tags(folder: str, model: str | None) -> pa.Table:
    """Return uri, tags, model and status of the latest rows of one model; raises UsageError if there are several."""
    columns = ["uri", "tags", "model", "status", "tagged_at", "run_id"]
    rows = results.latest(results.read_table(folder, columns))
    models = sorted(set(rows["model"].to_pylist()))
    if model is None and len(models) > 1:
        raise UsageError(f"--model must name one of the models in {folder}: {', '.join(models)}")
    if model is not None:
        if model not in models:
            raise UsageError(f"--model {model}: not in {folder}, whose models are {', '.join(models)}")
        rows = rows.filter(pc.equal(rows["model"], model))
    return rows


def _tags(folder: str, model: str | None) -> pa.Table:
    """Return uri, tags, scores and model of the latest rows of one model."""
    rows = latest_tags(folder, model)
    pairs = rows["tags"].to_pylist()
    exported = {
        "uri": rows["uri"],
        "tags": pa.array([_column(row, "tag") for row in pairs], pa.list_(pa.string())),
        "scores": pa.array([_column(row, "score") for row in pairs], pa.list_(pa.float32())),
        "model": rows["model"],
    }
    return pa.table(exported)


def _column(pairs: list[dict[str, Any]] | None, key: str) -> list[Any] | None:
    return None if pairs is None else [pair[key] for pair in pairs]


def _parquet(rows: pa.Table, kind: str, out: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


def _csv(rows: pa.Table, kind: str, out: str) -> bytes:
    """Write lists as JSON: [] means known to have none, an empty cell unlabelled."""
    return _csv_text(rows.column_names, ([_cell(value) for value in row.values()] for row in _stream(rows)))


def _huggingface(rows: pa.Table, kind: str, out: str) -> bytes:
    """Write names relative to the file, which must be in the images' folder or above; a single label is plain text."""
    folder = out.rpartition("/")[0] + "/"
    single = all(labels is None or (len(labels) == 1 and _is_plain(labels[0])) for labels in rows[kind].to_pylist())
    names = ["file_name", "label" if single else "labels", *([] if "split" not in rows.column_names else ["split"])]
    return _csv_text(names, (_metadata_row(row, kind, folder, single) for row in _stream(rows)))


def _metadata_row(row: dict[str, Any], kind: str, folder: str, single: bool) -> list[Any]:
    uri: str = row["uri"]
    if not uri.startswith(folder):
        raise UsageError(f"{uri}: is not below {folder}; write metadata.csv in the folder of the images or above it")
    inside = uri.removeprefix(folder)
    name = inside if storage.is_remote(folder) else storage.local_path(inside)
    if any("\udc80" <= sign <= "\udcff" for sign in name):
        name = inside  # bytes that are not UTF-8 stay escaped, as in the manifest
    labels = (row[kind] or [None])[0] if single else row[kind]
    return [name, _cell(labels), *([row["split"]] if "split" in row else [])]


def _is_plain(label: str) -> bool:
    return label == label.strip() and label[:1] not in ("[", "{") and not set(label) & set("|;,")


def _label_studio(rows: pa.Table, kind: str, out: str) -> bytes:
    """Return tasks to import; local files are named as Label Studio serves them with the document root `/`."""
    tasks = (label_studio_task(row, kind) for row in _stream(rows))
    return ("[\n" + ",\n".join(json.dumps(task, ensure_ascii=False) for task in tasks) + "\n]\n").encode()


def label_studio_task(row: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return one task for Label Studio."""
    uri: str = row["uri"]
    image = (
        uri
        if storage.is_remote(uri)
        else f"/data/local-files/?d={quote(os.fsencode(storage.local_path(uri).lstrip('/')))}"
    )
    task: dict[str, Any] = {"data": {_IMAGE: image, "uri": uri}}
    if row[kind] is None:
        return task | ({"annotations": []} if kind == "labels" else {"predictions": []})
    choices = {"from_name": _CONTROL, "to_name": _IMAGE, "type": "choices", "value": {"choices": row[kind]}}
    if kind == "labels":
        return task | {"annotations": [{"result": [choices], "ground_truth": True}]}
    score = max(row["scores"], default=0.0)
    return task | {"predictions": [{"model_version": row["model"], "score": score, "result": [choices]}]}


_WRITERS: dict[str, Callable[[pa.Table, str, str], bytes]] = {
    "csv": _csv,
    "parquet": _parquet,
    "huggingface": _huggingface,
    "label-studio": _label_studio,
}


def _stream(rows: pa.Table) -> Iterable[dict[str, Any]]:
    """Yield rows as dictionaries, some thousands at a time."""
    for batch in rows.to_batches(10_000):
        yield from batch.to_pylist()


def _csv_text(names: list[str], rows: Iterable[list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
