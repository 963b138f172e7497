"""Response times of the review page on a large synthetic table, in Chromium: first screen, next page, a decision.

    python -m benchmarks.review_page [--rows 1000000] [--rounds 5]

Times are from the click or key to the last card of the page; the images themselves do not exist. A decision is timed
from the key to the tick, so this includes the request, the fsync and the drawing.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from playwright.sync_api import sync_playwright

from benchmarks import machine
from tagger import schema

TAGS, TOP, PART = 1000, 5, 50_000


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "results")
        out.mkdir()
        for number in range(-(-arguments.rows // PART)):
            write_part(out, number, min(PART, arguments.rows - number * PART))
        command = [
            sys.executable,
            "-m",
            "tagger.cli",
            "review",
            str(out),
            "--labels",
            f"{folder}/labels.parquet",
            "--port",
            "0",
        ]
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            url = server.stdout.readline().split()[-1]
            print(f"{machine.describe()}, {arguments.rows:,} rows\n\n| | ms |\n|---|--:|")
            print(f"| start of the server | {1000 * (time.perf_counter() - started):,.0f} |")
            for name, seconds in measured(url, arguments.rounds).items():
                print(f"| {name} | {1000 * statistics.median(seconds):,.0f} |")
            server.terminate()


def write_part(out: Path, number: int, rows: int) -> None:
    """Write a part of a results table: five tags of a thousand with random scores per image."""
    rng = np.random.default_rng(number)
    names = np.array([f"tag {index}" for index in range(TAGS)])[rng.integers(0, TAGS, (rows, TOP))]
    scores = np.sort(rng.dirichlet([0.5] * TOP, rows).astype(np.float32), axis=1)[:, ::-1]
    now = datetime.now(UTC)
    columns: dict[str, Any] = {
        "uri": [f"/photos/2026/{number:05}/IMG_{index:07}.jpg" for index in range(rows)],
        "image_id": [rng.bytes(32).hex() for _ in range(rows)],
        "status": ["ok"] * rows,
        "tags": pairs(names[:, :1], scores[:, :1]),
        "candidates": pairs(names, scores),
        "top_tag": names[:, 0],
        "top_score": scores[:, 0],
        "model": ["synthetic"] * rows,
        "model_id": ["1"] * rows,
        "run_id": ["00000001-a"] * rows,
        "tagged_at": [now] * rows,
    }
    arrays = [pa.array(columns.get(field.name, [None] * rows)).cast(field.type) for field in schema.RESULTS]
    table = pa.table(arrays, schema=schema.RESULTS)
    (out / f"part-00000001-a-{number:05}.parquet").write_bytes(schema.serialise(table, "results"))


def pairs(names: Any, scores: Any) -> pa.ListArray:
    """Return lists of tags with scores, from two arrays (rows, count)."""
    rows, count = names.shape
    flat = pa.StructArray.from_arrays([pa.array(names.ravel()), pa.array(scores.ravel())], ["tag", "score"])
    return pa.ListArray.from_arrays(pa.array(np.arange(0, rows * count + 1, count), pa.int32()), flat)


def measured(url: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each step of a review."""
    with sync_playwright() as driver:
        own = driver.chromium.executable_path
        browser = driver.chromium.launch(executable_path=shutil.which("chromium") or own)
        tab = browser.new_page(viewport={"width": 1280, "height": 850})
        tab.goto(url)
        tab.locator("#grid li").first.wait_for()
        first = url.partition("?")[0]

        def act(key: str, shown: Callable[[], object]) -> float:
            began = time.perf_counter()
            tab.keyboard.press(key)
            shown()
            return time.perf_counter() - began

        def opened() -> float:
            began = time.perf_counter()
            tab.goto(first, wait_until="commit")
            tab.locator("#grid li").nth(59).wait_for()
            return time.perf_counter() - began

        def posted(image: int) -> float:
            began = time.perf_counter()
            answer = tab.request.post(f"{first}api/decisions", data={"decisions": [{"id": image, "labels": ["tag 1"]}]})
            assert answer.ok
            return time.perf_counter() - began

        seconds = {"first screen": [opened() for _ in range(rounds)]}
        seconds["next page"] = [
            act("n", tab.get_by_text(f"Page {page}.", exact=True).wait_for) for page in range(2, rounds + 2)
        ]
        seconds["decision, from the key to the tick"] = [
            act("a", tab.get_by_text(f"{count} done").wait_for) for count in range(1, rounds + 1)
        ]
        seconds["decision, request alone"] = [posted(image) for image in range(900, 900 + rounds)]
        browser.close()
    return seconds


if __name__ == "__main__":
    main()
