"""Flipped bits, killed runs, overlapping runs and a faulty store: is every row of the table there, and correct?

    python -m benchmarks.reliability PHOTOS MODEL [--flips 1500] [--kills 100] [--store-kills 100] [--overlaps 20]
        [--faults 0.05 0.3] [--outage 75] [--seed 0]

PHOTOS is a folder of some 500 images, to which invalid files are added; MODEL is a checkpoint folder. The table of an
undisturbed run is the reference. The store is an S3 server on loopback (moto) with source and results, behind a proxy
that fails a share of all requests (--faults), or is unavailable for some seconds (--outage). Each test prints one line,
and exits with an error if a row is lost, duplicated in the latest view, or different.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

import tagger
from benchmarks import machine, s3
from tagger import storage
from tagger.cli import main as command
from tagger.errors import TableError
from tagger.tagging.parts import list_parts, read_rows

SHARD = 16
COLUMNS = ["uri", "model", "image_id", "status", "width", "height", "format", "top_tag"]
LIMIT = 600
"""Maximum seconds of one run."""
BUCKET = "s3://reliability"
NEVER = 1e9
"""Latency in milliseconds of a store that never responds."""
FORKS = multiprocessing.get_context("forkserver")
PRELOADED = ["tagger.cli", "tagger.tagging.run", "openvino", "s3fs", "obstore"]
"""Modules imported once, before the runs are forked, as importing them takes longer than tagging."""


class Place(NamedTuple):
    """Source, model and results folder of a test, with its reference table."""

    source: str
    model: str
    folder: str
    """Folder of the test's tables."""
    reference: pd.DataFrame


def main() -> None:
    """Parse the arguments, run the tests, print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("model")
    parser.add_argument("--flips", type=int, default=1500)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--store-kills", type=int, default=100)
    parser.add_argument("--overlaps", type=int, default=20)
    parser.add_argument("--faults", type=float, nargs="*", default=[0.05, 0.3])
    parser.add_argument("--outage", type=float, default=75, help="seconds; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    FORKS.set_forkserver_preload(PRELOADED)
    print(machine.describe())
    with tempfile.TemporaryDirectory() as name:
        photos = shutil.copytree(arguments.photos, Path(name) / "photos")
        plant(photos)
        local = place(str(photos), arguments.model, name)
        if arguments.flips:
            show(flips(Path(name) / "whole", local.reference, Path(name) / "flipped", arguments.flips, rng))
        if arguments.kills:
            show(kills(local, arguments.kills, rng))
        if arguments.overlaps:
            show(overlaps(local, arguments.overlaps, rng))
        if arguments.store_kills or arguments.faults or arguments.outage:
            in_store(photos, arguments, rng)


def in_store(photos: Path, arguments: argparse.Namespace, rng: random.Random) -> None:
    """Run the tests whose source and results are in an object store."""
    with s3.server() as port:
        os.environ.update(s3.environment(port))
        upload(photos)
        remote = place(f"{BUCKET}/photos", arguments.model, f"{BUCKET}/tables")
        if arguments.store_kills:
            show("S3: " + kills(remote, arguments.store_kills, rng))
        for share in arguments.faults:
            with s3.proxy(port, failing=share) as front:
                show(faults(remote, share, front))
        for hangs in (False, True) if arguments.outage else ():
            show(outage(remote, arguments.outage, port, hangs))


def show(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def place(source: str, model: str, folder: str) -> Place:
    """Create the reference table with an undisturbed run."""
    whole = storage.join(folder, "whole")
    wait(start(source, [model], whole))
    return Place(source, model, folder, table(whole))


def plant(photos: Path) -> None:
    """Add an empty file, a text file, a truncated image and a broken link."""
    image = next(path for path in sorted(photos.rglob("*")) if path.is_file())
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("not an image")
    (photos / "cut.jpg").write_bytes(image.read_bytes()[:2000])
    (photos / "gone.jpg").symlink_to("nowhere.jpg")


def upload(photos: Path) -> None:
    """Copy the files to the store."""
    import boto3  # type: ignore[import-untyped]

    client, bucket = boto3.client("s3"), BUCKET.removeprefix("s3://")
    client.create_bucket(Bucket=bucket)
    for path in sorted(photos.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, f"photos/{path.relative_to(photos)}")


def start(source: str, models: Sequence[str], out: str, *options: str) -> multiprocessing.process.BaseProcess:
    """Start `tagger tag` in a forked process that has already imported it."""
    words = ["tag", source, "--out", out, "--shard-size", str(SHARD), "--workers", "0", "--quiet"]
    words += [*(word for model in models for word in ("--model", model)), *options]
    process = FORKS.Process(target=_command, args=(words, dict(os.environ)))
    process.start()
    return process


def _command(words: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sys.argv = ["tagger", *words]
    command()


def ended(process: multiprocessing.process.BaseProcess) -> int:
    """Wait for a run to end; return its exit code."""
    process.join(LIMIT)
    if process.exitcode is None:
        process.kill()
        raise SystemExit(f"a run took over {LIMIT} s")
    return process.exitcode


def wait(process: multiprocessing.process.BaseProcess) -> None:
    """Wait for a run to end; raises SystemExit if it fails."""
    if code := ended(process):
        raise SystemExit(f"a run ended with exit code {code}")


def table(out: str) -> pd.DataFrame:
    """Return the latest rows, one per file and model, in order."""
    return tagger.read_results(out)[COLUMNS].sort_values(["model", "uri"]).reset_index(drop=True)


def check(out: str, expected: pd.DataFrame) -> None:
    """Raise AssertionError unless the table has exactly the expected rows."""
    pd.testing.assert_frame_equal(table(out), expected)


def flips(whole: Path, reference: pd.DataFrame, copy: Path, count: int, rng: random.Random) -> str:
    """Flip one random bit of a random part and read the table: all rows that are read must be correct."""
    shutil.copytree(whole, copy)
    parts, reported = sorted(copy.glob("*.parquet")), 0
    sizes = [part.stat().st_size for part in parts]
    for _ in range(count):
        [part] = rng.choices(parts, sizes)
        content = part.read_bytes()
        bit, damaged = rng.randrange(8 * len(content)), bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        part.write_bytes(damaged)
        reported += _damage_is_reported(copy, reference)
        part.write_bytes(content)
    return f"{count} flipped bits: {reported} reported, {count - reported} without effect on any row, 0 silent changes"


def _damage_is_reported(copy: Path, reference: pd.DataFrame) -> bool:
    try:
        listed = list_parts(str(copy))
        rows, damaged = read_rows(listed.uris, COLUMNS)
    except TableError:
        return True
    found = rows.to_pandas()
    merged = found.merge(reference, how="left", on=COLUMNS, indicator=True)
    assert (merged["_merge"] == "both").all(), "a row changed, and no error was reported"
    assert len(found) == len(reference) or damaged or listed.damaged, "rows are missing, and no error was reported"
    return bool(damaged or listed.damaged)


def kills(where: Place, count: int, rng: random.Random) -> str:
    """Kill up to 20 runs per table with SIGKILL at random moments, then complete the table and check it."""
    done = tables = 0
    while done < count:
        out = storage.join(where.folder, f"killed{tables}")
        started = time.monotonic()
        wait(start(where.source, [where.model], storage.join(where.folder, f"timed{tables}")))
        whole = time.monotonic() - started
        for _ in range(min(20, count - done)):
            process = start(where.source, [where.model], out)
            process.join(rng.uniform(0, 0.8 * whole))
            process.kill()
            ended(process)
            done += 1
        wait(start(where.source, [where.model], out))
        check(out, where.reference)
        tables += 1
    return f"{count} kills on the way to {tables} tables: each has the {len(where.reference)} rows of the reference"


def overlaps(where: Place, count: int, rng: random.Random) -> str:
    """Start two runs into one table at nearly the same time: the same model, a copy, two models, or --redo."""
    copied = shutil.copytree(where.model, Path(where.folder) / "copy")
    other = where.reference.assign(model=copied.name)
    both = pd.concat([where.reference, other]).sort_values(["model", "uri"]).reset_index(drop=True)
    cases = [
        ("the same model", [where.model], [], where.reference),
        ("a copy of it", [str(copied)], [], both),
        ("both in the second run", [where.model, str(copied)], [], both),
        ("--redo", [where.model], ["--redo"], where.reference),
    ]
    for number in range(count):
        _, models, options, expected = cases[number % len(cases)]
        out = storage.join(where.folder, f"overlap{number}")
        first = start(where.source, [where.model], out)
        time.sleep(rng.uniform(0, 3))
        second = start(where.source, models, out, *options)
        wait(first)
        wait(second)
        check(out, expected)
    return f"{count} overlapping pairs ({', '.join(case for case, *_ in cases)}): every table is whole"


def faults(where: Place, share: float, front: int) -> str:
    """Run while a share of all requests fails, and repeat until no row is missing."""
    out = storage.join(where.folder, f"faults{share:g}")
    with _through(front):
        first = ended(start(where.source, [where.model], out))
    unreadable, again = _complete(where, out, front)
    return (
        f"S3, {share:.0%} of all requests fail: the first run ended with exit code {first} and {unreadable} unreadable "
        f"rows; after {again} more the table is that of the reference"
    )


def outage(where: Place, seconds: float, port: int, hangs: bool) -> str:
    """Make the store refuse connections, or not respond, during a run; then repeat until no row is missing."""
    out = storage.join(where.folder, "hangs" if hangs else "away")
    with s3.proxy(port, latency=100) as front, _through(front):
        process = start(where.source, [where.model], out)
        while sum(name.endswith(".parquet") for name in storage.names_in(out) or []) < 3:
            time.sleep(0.05)
    with s3.proxy(port, NEVER, port=front) if hangs else contextlib.nullcontext():
        process.join(seconds)
    with s3.proxy(port, port=front):
        first = ended(process)
        unreadable, again = _complete(where, out, front)
    what = "does not answer" if hangs else "refuses connections"
    return (
        f"S3 {what} for {seconds:g} s: the first run ended with exit code {first} and {unreadable} unreadable rows; "
        f"after {again} more the table is that of the reference"
    )


@contextlib.contextmanager
def _through(front: int) -> Iterator[None]:
    """Make the runs started in the `with` block use the proxy."""
    direct = {name: os.environ[name] for name in s3.environment(front)}
    os.environ.update(s3.environment(front))
    try:
        yield
    finally:
        os.environ.update(direct)


def _complete(where: Place, out: str, front: int) -> tuple[int, int]:
    """Run until the table equals the reference; return the number of rows unreadable at first, and of runs."""
    unreadable = int((table(out)["status"] == "unreadable").sum())
    for again in range(5):
        if table(out).equals(where.reference):
            return unreadable, again
        with _through(front):
            ended(start(where.source, [where.model], out))
    check(out, where.reference)
    return unreadable, 5


if __name__ == "__main__":
    main()
