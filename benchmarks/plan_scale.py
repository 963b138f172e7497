"""Time and memory of a plan for a results table of many files, of which 1% are new.

    python -m benchmarks.plan_scale [--files 500000 2000000 10000000] [--merged] [--store] [--latency 30]

Writes a manifest and the parts of a table directly, plans a run in a process of its own, and prints a Markdown table:
seconds and peak memory of that process. `--merged`: parts of 250,000 rows, as `tagger compact` leaves them, instead of
5,000. `--store`: the table lies in an S3 server on loopback (moto) behind a proxy that delays every request.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import machine, s3
from tagger import checkpoint, hardware, schema, storage
from tagger.data import manifest
from tagger.tagging import plan
from tagger.tagging.config import TagConfig
from tagger.tagging.parts import list_parts

MODEL = "checkpoints/cifar10-speedrun"
NEW = 0.01
TIME = datetime(2026, 9, 1, tzinfo=UTC)


def keys(start: int, stop: int) -> pa.Table:
    """Return the key columns of files `start` to `stop`, in folders of 1,000."""
    numbers = range(start, stop)
    uris = [f"s3://a-bucket-of-photos/2026/{number // 1000:07d}/IMG_{number:09d}.jpg" for number in numbers]
    etags = [f"{number * 2654435761 % 2**128:032x}" for number in numbers]
    columns = [pa.array(uris), pa.array(np.full(len(uris), 100_000)), pa.array([TIME] * len(uris)), pa.array(etags)]
    return pa.table(columns, schema=schema.KEY)


def write_table(out: str, files: int, part: int) -> None:
    """Write a results table with the rows of all files but the new ones."""
    info, config = checkpoint.describe(MODEL), TagConfig()
    rng = np.random.default_rng(0)
    done = int(files * (1 - NEW))
    fixed = {
        "status": "ok", "format": "JPEG", "model": info.name, "model_id": info.model_id, "engine": "openvino fp32",
        "settings_id": config.settings_id(info), "run_id": "00000001-aaaaaaaa", "tagged_at": TIME,
        "top_tag": "cat", "width": 500, "height": 375,
    }  # fmt: skip
    for number, start in enumerate(range(0, done, part)):
        key = keys(start, min(start + part, done))
        columns = [_column(field, key, fixed, rng) for field in schema.RESULTS]
        content = schema.serialise(pa.Table.from_arrays(columns, schema=schema.RESULTS), "results")
        storage.write_atomic(storage.join(out, f"part-00000001-aaaaaaaa-{number:05d}.parquet"), content)


def _column(field: pa.Field, key: pa.Table, fixed: dict[str, object], rng: np.random.Generator) -> pa.Array:
    count = len(key)
    if field.name in key.column_names:
        return key[field.name].combine_chunks()
    if field.name in fixed:
        return pa.repeat(pa.scalar(fixed[field.name], field.type), count)
    if field.name == "image_id":
        return pa.array([each.tobytes().hex() for each in rng.integers(0, 256, (count, 32), np.uint8)])
    if field.name == "candidates":
        scores = pa.array(rng.random(5 * count, np.float32))
        tags = pa.array(["cat", "dog", "frog", "ship", "deer"] * count)
        pairs = pa.StructArray.from_arrays([tags, scores], ["tag", "score"])
        return pa.ListArray.from_arrays(pa.array(np.arange(0, 5 * count + 1, 5, dtype=np.int32)), pairs)
    return pa.nulls(count, field.type)


def write_manifest(path: str, files: int) -> None:
    """Write the manifest of all files."""
    tables = (keys(start, min(start + 100_000, files)) for start in range(0, files, 100_000))
    whole = schema.conform(pa.concat_tables(tables), "manifest")
    storage.write_atomic(path, schema.serialise(whole, "manifest"))


def measure(path: str, out: str) -> dict[str, float]:
    """Plan a run; return its seconds without the reading of the manifest, files to tag and peak memory."""
    pa.set_memory_pool(pa.system_memory_pool())  # as the command does
    started = time.perf_counter()
    files = manifest.read_source(path)
    listed, processor = time.perf_counter(), time.process_time()
    made = plan.make_plan(path, files, {MODEL: checkpoint.describe(MODEL)}, out, TagConfig())
    planned = time.perf_counter()
    return {
        "manifest": listed - started, "plan": planned - listed, "processor": time.process_time() - processor,
        "wanted": len(made.entries),
        "parts": len(list_parts(out).uris), "memory": hardware.peak_memory(),
    }  # fmt: skip


def main() -> None:
    """Parse, write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[500_000, 2_000_000, 10_000_000])
    parser.add_argument("--merged", action="store_true")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--latency", type=float, default=30, help="milliseconds")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    where = f"S3 server on loopback, {arguments.latency:g} ms a request" if arguments.store else "local disk"
    print(f"{machine.describe()}, {where}, {NEW:.0%} new\n")
    print("| files | parts | to tag | manifest read, s | plan, s | its processor time, s | peak memory, GB |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    with contextlib.ExitStack() as stack:
        if arguments.store:
            port = stack.enter_context(s3.proxy(stack.enter_context(s3.server()), arguments.latency))
            os.environ.update(s3.environment(port))
        for files in arguments.files:
            print_row(files, 250_000 if arguments.merged else 5_000, arguments.store)


def print_row(files: int, part: int, remote: bool) -> None:
    """Write a table, measure the plan in a process of its own, and print one line."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = str(Path(folder) / "manifest.parquet"), str(Path(folder) / "results")
        if remote:
            import boto3  # type: ignore[import-untyped]

            boto3.client("s3").create_bucket(Bucket=f"table-{files}")
            out = f"s3://table-{files}/results"
        write_manifest(path, files)
        write_table(out, files, part)
        command = [sys.executable, "-m", "benchmarks.plan_scale", "--measure", path, out]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(
        f"| {files:,} | {found['parts']:,} | {found['wanted']:,} | {found['manifest']:.1f} | {found['plan']:.1f} | "
        f"{found['processor']:.1f} | {found['memory'] / 1e9:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
