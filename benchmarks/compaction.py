"""Queries of a table while it is compacted and a writer adds to it: does a query fail, or return other rows?

    python -m benchmarks.compaction [--parts 2000] [--rows 50] [--readers 1] [--rounds 5] [--pause 0.05]
        [--store]

Compacts the table `--rounds` times without a grace period. Meanwhile pandas (read_results), DuckDB (tagger.query) and
`tagger query` read all of its rows, each in `--readers` processes, and compare the original rows with the first read.
With `--store`, the table is on an S3 server on loopback (moto).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event

import tagger
from benchmarks import machine, plan_scale, s3
from tagger import schema, storage

MARK = "s3://a-bucket-of-photos/later/"
"""Prefix of the uris that the writer adds."""
DIGEST = f"""
    SELECT count(*) AS rows, bit_xor(hash(uri, image_id, candidates, run_id)) AS digest
    FROM history WHERE NOT starts_with(uri, '{MARK}')
"""
Answer = tuple[str, str | None]
"""Name of the reader, and its error or difference, None if it read the same rows."""


def by_pandas(out: str) -> object:
    """Read all rows with pandas; return a digest of the original ones."""
    frame = tagger.read_results(out, latest=False)
    old = frame[~frame["uri"].str.startswith(MARK)].sort_values("uri")
    return len(old), hash(tuple(old["uri"])), hash(tuple(old["image_id"]))


def by_duckdb(out: str) -> object:
    """Query with tagger.query."""
    return tagger.query(out, DIGEST).to_pylist()


def by_command(out: str) -> object:
    """Query with `tagger query`."""
    command = [sys.executable, "-m", "tagger.cli", "query", out, DIGEST, "--format", "json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(ran.stderr[-500:])
    return json.loads(ran.stdout)


READERS: dict[str, Callable[[str], object]] = {
    "pandas": by_pandas, "DuckDB": by_duckdb, "tagger query": by_command,
}  # fmt: skip


def read(name: str, out: str, ready: Event, stop: Event, answers: SimpleQueue[Answer]) -> None:
    """Read until stopped; compare each result with the first."""
    expected = READERS[name](out)
    ready.set()
    while not stop.is_set():
        try:
            found = READERS[name](out)
            answers.put((name, None if found == expected else f"{found} instead of {expected}"))
        except Exception as error:
            answers.put((name, f"{type(error).__name__}: {error}"))


def write(out: str, pause: float, stop: Event, parts: SimpleQueue[int]) -> None:
    """Add parts with rows of other files until stopped, as a run does."""
    for number in itertools.count():
        if stop.is_set():
            parts.put(number)
            return
        rows = [{"uri": f"{MARK}{number:06d}-{row}.jpg", "model": "m", "status": "ok", "run_id": "00000002-bbbbbbbb",
                 "tagged_at": plan_scale.TIME} for row in range(20)]  # fmt: skip
        content = schema.serialise(schema.from_rows(rows, "results"), "results")
        storage.write_atomic(storage.join(out, f"part-00000002-bbbbbbbb-{number:05d}.parquet"), content)
        time.sleep(pause)


def main() -> None:
    """Parse the arguments, write the table, compact it while it is read, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--readers", type=int, default=1, help="processes of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="compactions")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two parts that are added")
    parser.add_argument("--store", action="store_true")
    arguments = parser.parse_args()
    print(f"{machine.describe()}\n")
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryDirectory()) + "/results"
        if arguments.store:
            import boto3  # type: ignore[import-untyped]

            os.environ.update(s3.environment(stack.enter_context(s3.server())))
            boto3.client("s3").create_bucket(Bucket="tables")
            out = "s3://tables/results"
        plan_scale.write_table(out, round(arguments.parts * arguments.rows / (1 - plan_scale.NEW)), arguments.rows)
        compact_and_read(out, arguments.readers, arguments.rounds, arguments.pause)


def compact_and_read(out: str, readers: int, rounds: int, pause: float) -> None:
    """Compact while other processes read and write; print what they read."""
    context = get_context("spawn")
    stop, answers, parts = context.Event(), context.SimpleQueue(), context.SimpleQueue()
    ready = [context.Event() for _ in range(readers * len(READERS))]
    names = [name for name in READERS for _ in range(readers)]
    processes = [
        context.Process(target=read, args=(name, out, each, stop, answers))
        for name, each in zip(names, ready, strict=True)
    ]
    processes.append(context.Process(target=write, args=(out, pause, stop, parts)))
    for process in processes:
        process.start()
    for each in ready:
        each.wait()
    compactions = [tagger.compact(out, grace=0) for _ in range(rounds)]
    stop.set()
    seen: list[Answer] = []
    while any(process.is_alive() for process in processes[:-1]) or not answers.empty():
        if answers.empty():
            time.sleep(0.1)
        else:
            seen.append(answers.get())
    report(out, compactions, seen, parts.get())


def report(out: str, compactions: list[tagger.Compacted], seen: list[Answer], written: int) -> None:
    """Print the compactions and queries; exit with an error if a query failed or differed, or rows are lost."""
    merged = ", ".join(f"{each.parts_before:,} to {each.parts:,}" for each in compactions)
    added = tagger.query(out, f"SELECT count(*) AS rows FROM history WHERE starts_with(uri, '{MARK}')")
    wrong = [f"{name}: {error}" for name, error in seen if error]
    queries = ", ".join(f"{name} {count}" for name, count in Counter(name for name, _ in seen).items())
    print(f"compactions: {merged} parts; added meanwhile: {written:,} parts")
    print(f"queries: {queries}; failed or different: {len(wrong)}")
    print("\n".join(wrong[:5]))
    if wrong or added["rows"].to_pylist() != [20 * written]:
        raise SystemExit("the table is not what it was")


if __name__ == "__main__":
    main()
