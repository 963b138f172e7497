"""Flipped bits, killed runs and overlapping runs: is every row of the table there, and right?

    python -m benchmarks.reliability PHOTOS MODEL [--flips 1500] [--kills 200] [--overlaps 20] [--seed 0]

PHOTOS is a folder of some 500 images, to which files that are no images are added; MODEL is a checkpoint folder. A
table made without disturbance is the reference. Each test prints one line and ends with an error if a row is lost,
doubled in the latest view, or different.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

import tagger
from benchmarks import machine
from tagger.errors import TableError
from tagger.tagging import results

SHARD = 16
COLUMNS = ["uri", "model", "image_id", "status", "width", "height", "format", "top_tag"]
LIMIT = 600
"""Seconds for one run to end."""


def main() -> None:
    """Parse, disturb, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("model")
    parser.add_argument("--flips", type=int, default=1500)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--overlaps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    print(machine.describe())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = shutil.copytree(arguments.photos, folder / "photos")
        plant(photos)
        whole = folder / "whole"
        wait(start(photos, [arguments.model], whole))
        reference = table(whole)
        print(flips(whole, reference, folder / "flipped", arguments.flips, rng))
        print(kills(photos, arguments.model, reference, folder, arguments.kills, rng))
        print(overlaps(photos, arguments.model, reference, folder, arguments.overlaps, rng))


def plant(photos: Path) -> None:
    """Add an empty file, text, a truncated image and a broken link."""
    image = next(path for path in sorted(photos.rglob("*")) if path.is_file())
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("not an image")
    (photos / "cut.jpg").write_bytes(image.read_bytes()[:2000])
    (photos / "gone.jpg").symlink_to("nowhere.jpg")


def start(photos: Path, models: Sequence[str], out: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start `tagger tag` in a process group of its own."""
    command = [sys.executable, "-m", "tagger.cli", "tag", str(photos), "--out", str(out), "--shard-size", str(SHARD)]
    command += [*(word for model in models for word in ("--model", model)), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run to end; raises RuntimeError if it fails."""
    _, errors = process.communicate(timeout=LIMIT)
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {errors.decode()[-2000:]}")


def table(out: Path) -> pd.DataFrame:
    """Return the latest rows, one per file and model, in order."""
    return tagger.read_results(out)[COLUMNS].sort_values(["model", "uri"]).reset_index(drop=True)


def check(out: Path, expected: pd.DataFrame) -> None:
    """Raise AssertionError unless the table has exactly the expected rows."""
    pd.testing.assert_frame_equal(table(out), expected)


def flips(whole: Path, reference: pd.DataFrame, copy: Path, count: int, rng: random.Random) -> str:
    """Flip one random bit of a random part, and read: every other part's rows are right, and so are its own, if any."""
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
        listed = results.list_parts(str(copy))
        rows, damaged = results.read_rows(listed.uris, COLUMNS)
    except TableError:
        return True
    found = rows.to_pandas()
    merged = found.merge(reference, how="left", on=COLUMNS, indicator=True)
    assert (merged["_merge"] == "both").all(), "a row changed without a word"
    assert len(found) == len(reference) or damaged or listed.damaged, "rows are missing without a word"
    return bool(damaged or listed.damaged)


def kills(photos: Path, model: str, reference: pd.DataFrame, folder: Path, count: int, rng: random.Random) -> str:
    """Kill runs with SIGKILL at random moments, and run again until one ends; start a new table then."""
    done = tables = 0
    while done < count:
        out = folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        started = time.monotonic()
        wait(start(photos, [model], folder / f"timed{tables}", "--redo"))
        whole = time.monotonic() - started
        for _ in range(min(20, count - done)):
            process = start(photos, [model], out)
            time.sleep(rng.uniform(0, 0.8 * whole))
            os.killpg(process.pid, 9)
            process.communicate(timeout=LIMIT)
            done += 1
        wait(start(photos, [model], out))
        check(out, reference)
        tables += 1
    return f"{count} kills on the way to {tables} tables: each has the {len(reference)} rows of the reference"


def overlaps(photos: Path, model: str, reference: pd.DataFrame, folder: Path, count: int, rng: random.Random) -> str:
    """Start two runs into one table at nearly the same time: the same model, a copy, two models, or --redo."""
    copied = shutil.copytree(model, folder / "copy")
    other = reference.assign(model=copied.name)
    both = pd.concat([reference, other]).sort_values(["model", "uri"]).reset_index(drop=True)
    cases = [
        ("the same model", [model], [], reference),
        ("a copy of it", [str(copied)], [], both),
        ("both in the second run", [model, str(copied)], [], both),
        ("--redo", [model], ["--redo"], reference),
    ]
    for number in range(count):
        _, models, options, expected = cases[number % len(cases)]
        out = folder / f"overlap{number}"
        first = start(photos, [model], out)
        time.sleep(rng.uniform(0, 3))
        second = start(photos, models, out, *options)
        wait(first)
        wait(second)
        check(out, expected)
        shutil.rmtree(out)
    return f"{count} overlapping pairs ({', '.join(case for case, *_ in cases)}): every table is whole"


if __name__ == "__main__":
    main()
