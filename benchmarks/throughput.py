"""`tagger tag` against a plain timm loop: whole processes, including start-up, alternated.

    python -m benchmarks.throughput PHOTOS local-dir:FOLDER [--copies 4] [--rounds 3] [--only NAME ...]

PHOTOS is a folder of images; if files are named <wnid>_<anything> like ImageNet's, accuracy is printed too.
`tagger benchmark agreement` runs first, outside the measurement, to calibrate int8 (not if only fp32 is measured); the
cache is a temporary folder. Prints a Markdown table: median seconds, images/s, ratio to timm, the rate after start-up
and its share of the bound, peak memory, top-1 agreement with timm, the largest difference of a top probability, and the
share of files whose top tag is their class.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tagger
from benchmarks import machine
from tagger import checkpoint
from tagger.hardware import cores
from tagger.reporting.plots import look

BASELINE = "timm loop"
CONTENDERS = {
    "tagger": [],
    "tagger first run": [],
    "tagger fp32": ["--precision", "fp32"],
    "tagger eager": ["--engine", "eager"],
    "tagger bf16": ["--precision", "bf16"],
    "tagger bf16-checked": ["--precision", "bf16-checked"],
    "tagger int8": ["--precision", "int8"],
    "tagger int8-checked": ["--precision", "int8-checked"],
}
"""Name -> options of `tagger tag`; a first run has no record of agreement, and measures it if it is long enough."""

Seconds = dict[str, list[float]]
Summaries = dict[str, list[dict[str, Any]]]


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("model", help="local-dir:FOLDER, timm/NAME, or random:ARCHITECTURE")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), choices=list(CONTENDERS))
    parser.add_argument("--plot", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TAGGER_CACHE"] = str(folder / "cache")
        model = random_model(arguments.model, folder)
        source = copies(arguments.photos, folder / "photos", arguments.copies)
        if not {"tagger first run", "tagger fp32", "tagger eager"}.issuperset(arguments.only):
            _run(
                ["benchmark", "agreement", "--model", model, "--source", str(arguments.photos), "--engine", "openvino"]
            )
        names = [each for each in arguments.only if _tag(each, source, model, folder, 0)]  # fills caches
        seconds, summaries = measure(names, source, model, folder, arguments.rounds)
        files = sum(path.is_file() for path in source.rglob("*"))
        rows = figures(seconds, summaries, files, folder, model)
        print(f"{files:,} files, medians of {arguments.rounds}, {machine.describe()}\n")
        print(table(rows, summaries))
        if arguments.plot:
            arguments.plot.write_bytes(draw(rows, f"{Path(model).name}, {files:,} photographs, {cores()} CPU cores"))


def random_model(model: str, folder: Path) -> str:
    """Save a timm architecture with random weights, for `random:NAME`; return other models unchanged."""
    if not model.startswith("random:"):
        return model
    import safetensors.torch
    import timm
    import torch

    torch.manual_seed(0)
    name = model.removeprefix("random:")
    net = timm.create_model(name, pretrained=False)
    out = folder / name
    out.mkdir()
    safetensors.torch.save_file(net.state_dict(), out / "model.safetensors")
    config = {"architecture": name, "num_classes": net.num_classes, "pretrained_cfg": net.pretrained_cfg}
    (out / "config.json").write_text(json.dumps(config))
    return f"local-dir:{out}"


def measure(names: Sequence[str], source: Path, model: str, folder: Path, rounds: int) -> tuple[Seconds, Summaries]:
    """Run the contenders in turn, `rounds` times; return their seconds, and the summaries of tagger's runs."""
    seconds: Seconds = {name: [] for name in (BASELINE, *names)}
    summaries: Summaries = {name: [] for name in names}
    for number in range(1, rounds + 1):
        for name in seconds:
            started = time.perf_counter()
            if name == BASELINE:
                command = ["-m", "benchmarks.timm_loop", str(source), model, str(folder / "timm.parquet")]
                subprocess.run([sys.executable, *command], check=True)
            else:
                summaries[name].append(_tag(name, source, model, folder, number) or {})
            seconds[name].append(time.perf_counter() - started)
            print(f"round {number}: {name} {seconds[name][-1]:.1f} s", file=sys.stderr)
    return seconds, summaries


def figures(seconds: Seconds, summaries: Summaries, files: int, folder: Path, model: str) -> list[dict[str, str]]:
    """Return one row per contender: column title -> formatted figure."""
    expected = baseline_tags(folder / "timm.parquet", checkpoint.describe(model).label_names)
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        row = {"": name, "seconds": f"{median:.1f}", "images/s": f"{files / median:.1f}"}
        row["× timm"] = f"{statistics.median(seconds[BASELINE]) / median:.2f}"
        if name == BASELINE:
            rows.append({**row, **dict.fromkeys(_OWN, ""), "right class": _right_class(expected)})
            continue
        ours = tags_of(_out(folder, name, 1))
        rows.append({**row, **_own_figures(summaries[name]), **_quality(expected, ours)})
    return rows


def table(rows: Sequence[dict[str, str]], summaries: Summaries) -> str:
    """Return the Markdown table of all contenders, and the engine of each."""
    lines = [f"| {' | '.join(rows[0])} |", "|---|" + "--:|" * (len(rows[0]) - 1)]
    lines += [f"| {' | '.join(row.values())} |" for row in rows]
    engines = {name: runs[0]["models"][0]["engine"] for name, runs in summaries.items()}
    return "\n".join([*lines, "", *(f"- {name}: {engine}" for name, engine in engines.items())])


def draw(rows: Sequence[dict[str, str]], title: str) -> bytes:
    """Draw images/s of whole processes as bars, each with its ratio to timm and its agreement."""
    drawn = look.figure(8.4, 0.9 + 0.45 * len(rows))
    axes = drawn.subplots()
    look.dress(axes, title, "images per second, start-up included")
    look.grid(axes, "x")
    rates = [float(row["images/s"]) for row in rows]
    colours = [look.GREY if row[""] == BASELINE else look.COLOURS[0] for row in rows]
    axes.barh(range(len(rows)), rates, color=colours, height=0.6)
    for place, (row, rate) in enumerate(zip(rows, rates, strict=True)):
        agrees = f", {row['top-1 agreement']} of its tags" if row["top-1 agreement"] else ""
        axes.text(rate, place, f"  {rate:.0f}  ({row['× timm']}×{agrees})", va="center", fontsize=look.BODY)
    axes.set_yticks(range(len(rows)), [row[""] for row in rows], fontsize=look.BODY)
    axes.set_xlim(0, 1.5 * max(rates))
    axes.invert_yaxis()
    return look.png(drawn)


_OWN = ("after start-up", "of the bound", "GB", "top-1 agreement", "largest difference")


def _own_figures(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Return rate after start-up, share of the bound and memory, from the summaries of the runs."""
    steady = statistics.median(each["steady_images_per_second"] or 0 for each in runs)
    share = statistics.median(each["share_of_bound"] or 0 for each in runs)
    memory = max(each["peak_memory"] for each in runs) / 1e9
    return dict(zip(_OWN, (f"{steady:.1f}", f"{share:.0%}", f"{memory:.2f}"), strict=False))


def _quality(expected: pd.DataFrame, ours: pd.DataFrame) -> dict[str, str]:
    """Compare tags with those of the baseline."""
    both = expected.join(ours.add_suffix("_ours"))
    agreement = (both["tag"] == both["tag_ours"]).mean()
    difference = (both["score"] - both["score_ours"]).abs().max()
    return {
        "top-1 agreement": f"{agreement:.2%}",
        "largest difference": f"{difference:.1e}",
        "right class": _right_class(ours),
    }


def baseline_tags(out: Path, names: tuple[str, ...]) -> pd.DataFrame:
    """Return tag and score per file name of timm's loop."""
    frame = pd.read_parquet(out).drop_duplicates("filename").set_index("filename")
    best = [names[row[0]] for row in frame["indices"]]
    return pd.DataFrame({"tag": best, "score": [row[0] for row in frame["scores"]]}, index=frame.index)


def tags_of(out: Path) -> pd.DataFrame:
    """Return tag and score per file name from a results table."""
    frame = tagger.read_results(str(out))
    frame["filename"] = frame["uri"].str.rpartition("/")[2]
    frame = frame.drop_duplicates("filename").set_index("filename")
    return frame[["top_tag", "top_score"]].set_axis(["tag", "score"], axis=1)


def _right_class(tags: pd.DataFrame) -> str:
    """Return the share of files whose top tag is the class in their name; empty if the names have no classes."""
    from timm.data.imagenet_info import ImageNetInfo

    from tagger.models.backbone import imagenet_label_names

    info, labels = ImageNetInfo(), imagenet_label_names(1000) or ()
    by_wnid = {info.index_to_label_name(index): name for index, name in enumerate(labels)}
    expected = [by_wnid.get(str(name).partition("_")[0]) for name in tags.index]
    if None in expected:
        return ""
    return f"{np.mean(tags['tag'].to_numpy() == np.array(expected)):.1%}"


def _tag(name: str, source: Path, model: str, folder: Path, number: int) -> dict[str, Any] | None:
    """Tag the photographs; return the summary, None if the run failed."""
    if name == "tagger first run":
        _forget()
    out = str(_out(folder, name, number))
    return _run(["tag", str(source), "--model", model, "--out", out, *CONTENDERS[name]])


def _forget() -> None:
    """Remove the cached records of agreement and int8 networks."""
    cache = Path(os.environ["TAGGER_CACHE"])
    shutil.rmtree(cache / "agreement", ignore_errors=True)
    for file in cache.glob("openvino/*/int8.*"):
        file.unlink()


def _run(arguments: list[str]) -> dict[str, Any] | None:
    ran = subprocess.run([sys.executable, "-m", "tagger.cli", *arguments, "--json"], capture_output=True, text=True)
    if ran.returncode:
        print(f"{' '.join(arguments[-2:])}: {ran.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return dict(json.loads(ran.stdout))


def _out(folder: Path, name: str, number: int) -> Path:
    return folder / f"out-{name.replace(' ', '-')}-{number}"


def copies(photos: Path, folder: Path, count: int) -> Path:
    """Link a folder's files into `count` folders."""
    for index in range(count):
        (folder / str(index)).mkdir(parents=True)
        for path in sorted(photos.iterdir()):
            try:
                os.link(path, folder / str(index) / path.name)
            except OSError:  # on another file system
                shutil.copy2(path, folder / str(index))
    return folder


if __name__ == "__main__":
    main()
