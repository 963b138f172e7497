"""Time, memory and size of `tagger report` and `tagger drift` on a synthetic results table.

    python -m benchmarks.reporting [--rows 10000000] [--tags 1000] [--dimensions 0] [--folder FOLDER]

The table has two runs: the first has all files except the last percent, the second that percent and as many files of
the first run again. One row in a hundred failed, one image in fifty is a copy. Scores follow a beta distribution, tags
Zipf's law; each row has five candidates, and with --dimensions an embedding. The files do not exist, so the time for
thumbnails, of up to 200 images, is not included. Each command runs in a separate process.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks import machine
from tagger import schema

PART = 500_000
CANDIDATES = 5


def main() -> None:
    """Parse the arguments, write the table, run the commands, print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--tags", type=int, default=1000)
    parser.add_argument("--dimensions", type=int, default=0, help="of an embedding; 0 for none")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    arguments = parser.parse_args()
    table = Path(arguments.folder) / f"results-{arguments.rows}-{arguments.tags}-{arguments.dimensions}"
    if not table.exists():
        write(table, arguments.rows, arguments.tags, arguments.dimensions)
    size = sum(part.stat().st_size for part in table.glob("*.parquet"))
    print(f"{machine.describe()}\n{arguments.rows:,} rows, {arguments.tags:,} tags, {size / 1e9:.2f} GB of Parquet\n")
    print("| command | seconds | CPU seconds | peak memory, GB | page, MB | load before, after |")
    print("|---|--:|--:|--:|--:|---|", flush=True)
    for command in ("report", "drift"):
        print(measure(command, table, Path(arguments.folder) / f"{command}.html"), flush=True)


def measure(command: str, table: Path, page: Path) -> str:
    """Run a command and return its row."""
    before, used, started = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "tagger.cli", command, str(table), "--out", str(page), "-q"], check=True)
    seconds = time.perf_counter() - started
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, peak = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, now.ru_maxrss * 1024 / 1e9
    cells = (f"`{command}`", f"{seconds:.0f}", f"{cpu:.0f}", f"{peak:.1f}", f"{page.stat().st_size / 1e6:.2f}")
    return f"| {' | '.join(cells)} | {before:.1f}, {os.getloadavg()[0]:.1f} |"


def write(folder: Path, rows: int, tags: int, dimensions: int) -> None:
    """Write the table as parts."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    last = rows // 100
    runs = [(1, 0, rows - last), (2, rows - 2 * last, rows)]
    for run, first, stop in runs:
        for number, start in enumerate(range(first, stop, PART)):
            part = _rows(rng, run, np.arange(start, min(start + PART, stop)), tags, dimensions)
            name = f"part-{run:08d}-00000000-{number:05d}.parquet"
            (folder / name).write_bytes(schema.serialise(part, "results"))


def _rows(rng: np.random.Generator, run: int, numbers: np.ndarray, tags: int, dimensions: int) -> pa.Table:
    """Return the rows of these files."""
    count = len(numbers)
    ok = pa.array(rng.random(count) >= 0.01)
    scores = -np.sort(-rng.beta(2, 2, (count, CANDIDATES)) * np.array([1, 0.5, 0.3, 0.2, 0.1]), axis=1)
    names = pa.array([f"tag {number}" for number in range(tags)])
    chosen = pa.array(np.minimum(rng.zipf(1.3, (count, CANDIDATES)) - 1, tags - 1).ravel())
    pairs = pa.StructArray.from_arrays([names.take(chosen), pa.array(scores.ravel(), pa.float32())], ["tag", "score"])
    columns = dict(_columns(rng, run, numbers, ok))
    columns["candidates"] = _lists(pairs, np.arange(count + 1) * CANDIDATES, ok)
    best = pairs.take(pa.array(np.arange(count) * CANDIDATES))
    columns["tags"] = _lists(best, np.arange(count + 1), ok)
    columns["top_tag"], columns["top_score"] = (_where(ok, best.field(name)) for name in ("tag", "score"))
    if dimensions:
        values = pa.array(rng.normal(size=count * dimensions).astype(np.float32))
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, dimensions)
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in schema.RESULTS]
    return pa.table(
        [array.cast(field.type) for array, field in zip(arrays, schema.RESULTS, strict=True)], schema.RESULTS
    )


def _columns(rng: np.random.Generator, run: int, numbers: np.ndarray, ok: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    count = len(numbers)
    yield "uri", pa.array([f"/photographs/{number // 10_000:06d}/image-{number:09d}.jpg" for number in numbers])
    yield (
        "image_id",
        pa.array([f"{number * 2654435761 % 2**64:064x}" for number in (numbers - (numbers % 50 == 1)).tolist()]),
    )
    yield "bytes", pa.array(rng.integers(50_000, 5_000_000, count))
    for name in ("width", "height"):
        yield name, pa.array(rng.choice([640, 1024, 4000, 6000], count))
    yield "format", pa.array(rng.choice(["JPEG", "PNG"], count, p=[0.95, 0.05]))
    yield "status", pa.array(np.where(np.asarray(ok), "ok", "corrupt"))
    yield "error", _where(pa.array(~np.asarray(ok)), pa.array(["cannot decode: broken data stream"] * count))
    fixed = {"model": "synthetic", "model_id": "0" * 16, "settings_id": "0" * 16, "run_id": f"{run:08d}-00000000"}
    for name, value in fixed.items():
        yield name, pa.array([value] * count)
    yield "tagged_at", pa.array([datetime(2026, 1, run, tzinfo=UTC)] * count, schema.RESULTS.field("tagged_at").type)


def _where(ok: pa.Array, values: pa.Array) -> pa.Array:
    """Return the values, with null where `ok` is false."""
    return values.take(pa.array(np.arange(len(ok)), mask=~np.asarray(ok)))


def _lists(pairs: pa.Array, offsets: np.ndarray, ok: pa.Array) -> pa.Array:
    """Return lists of pairs, with null where `ok` is false."""
    return _where(ok, pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pairs))


if __name__ == "__main__":
    main()
