"""Whole processes, start-up included: `tagger tag` against a plain loop over timm, alternated in one run.

    python -m benchmarks.throughput PHOTOS local-dir:FOLDER [--copies 4] [--rounds 3]

PHOTOS is a folder of images; files named <wnid>_<anything>, as ImageNet's are, are also checked against their class.
Prints a Markdown table: median seconds, images/s, ratio to timm, top-1 agreement with timm's answers, the largest
difference of a top probability, and the share of files whose top tag is their class.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

import tagger
from benchmarks import machine
from tagger import checkpoint

PEER = "timm loop"
CONTENDERS = {"tagger": []}
"""Name -> options of `tagger tag`."""


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("model", help="local-dir:FOLDER or timm/NAME")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = copies(arguments.photos, Path(folder) / "photos", arguments.copies)
        files = sum(path.is_file() for path in source.rglob("*"))
        seconds = measure(source, arguments.model, Path(folder), arguments.rounds)
        print(f"{files:,} files, medians of {arguments.rounds}, {machine.describe()}\n")
        print(table(seconds, files, Path(folder), arguments.model))


def measure(source: Path, model: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Run every contender once unmeasured (caches, page cache), then `rounds` times in turn; return seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in (PEER, *CONTENDERS)}
    for number in range(rounds + 1):
        for name in seconds:
            if number == 0 and name == PEER:
                continue  # it keeps nothing that a second run could use but the page cache
            took = _timed(_command(name, source, model, folder, number))
            if number:
                seconds[name].append(took)
                print(f"round {number}: {name} {took:.1f} s", file=sys.stderr)
    return seconds


def table(seconds: dict[str, list[float]], files: int, folder: Path, model: str) -> str:
    """Return the Markdown table of all contenders."""
    names = checkpoint.describe(model).label_names
    expected = peer_answers(folder / "timm.parquet", names)
    lines = ["| | seconds | images/s | × timm | top-1 agreement | largest difference | right class |",
             "|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(seconds[PEER]) / median
        answers = expected if name == PEER else our_answers(folder / f"out-{name}-1")
        both = expected.join(answers.add_suffix("_ours"))
        agreement = (both["tag"] == both["tag_ours"]).mean()
        difference = (both["score"] - both["score_ours"]).abs().max()
        right = _right_class(answers)
        lines.append(
            f"| {name} | {median:.1f} | {files / median:.1f} | {ratio:.2f} | {agreement:.2%} | {difference:.1e} "
            f"| {'' if right is None else f'{right:.1%}'} |"
        )
    return "\n".join(lines)


def peer_answers(out: Path, names: tuple[str, ...]) -> pd.DataFrame:
    """Return tag and score per file name as timm's loop gave them."""
    frame = pd.read_parquet(out).drop_duplicates("filename").set_index("filename")
    best = [names[row[0]] for row in frame["indices"]]
    return pd.DataFrame({"tag": best, "score": [row[0] for row in frame["scores"]]}, index=frame.index)


def our_answers(out: Path) -> pd.DataFrame:
    """Return tag and score per file name from a results table."""
    frame = tagger.read_results(str(out))
    frame["filename"] = frame["uri"].str.rpartition("/")[2]
    frame = frame.drop_duplicates("filename").set_index("filename")
    return frame[["top_tag", "top_score"]].set_axis(["tag", "score"], axis=1)


def _right_class(answers: pd.DataFrame) -> float | None:
    """Return the share of files whose top tag is the class their name says; None when names say nothing."""
    from timm.data import ImageNetInfo

    from tagger.models.backbone import imagenet_label_names

    info, labels = ImageNetInfo(), imagenet_label_names(1000) or ()
    by_wnid = {info.index_to_label_name(index): name for index, name in enumerate(labels)}
    expected = [by_wnid.get(str(name).partition("_")[0]) for name in answers.index]
    if None in expected:
        return None
    return float(np.mean(answers["tag"].to_numpy() == np.array(expected)))


def _command(name: str, source: Path, model: str, folder: Path, number: int) -> list[str]:
    if name == PEER:
        return [sys.executable, "-m", "benchmarks.timm_loop", str(source), model, str(folder / "timm.parquet")]
    out = folder / f"out-{name}-{number}"
    return [sys.executable, "-m", "tagger.cli", "tag", str(source), "--model", model, "--out", str(out), "--quiet",
            *CONTENDERS[name]]  # fmt: skip


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def copies(photos: Path, folder: Path, count: int) -> Path:
    """Link a folder's files several times over, as so many folders."""
    for index in range(count):
        (folder / str(index)).mkdir(parents=True)
        for path in sorted(photos.iterdir()):
            os.link(path, folder / str(index) / path.name)
    return folder


if __name__ == "__main__":
    main()
