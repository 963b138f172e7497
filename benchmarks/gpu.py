"""Check on a machine with a GPU: tagging against a plain timm loop, fine-tuning, and the speed-run network.

    python -m benchmarks.gpu --photos FOLDER --model local-dir:FOLDER --labelled FOLDER --cifar DATA [--device cuda]

Every step runs in a separate process with a time limit; steps without data are skipped. Prefect, DuckDB, OpenVINO and
internet access are not needed. The photographs are linked `--copies` times. Prints one Markdown table: whole processes
of timm's loop (a worker per core, batches of 256, bf16, channels_last) and of `tagger tag`, alternated, with the rate
after start-up, the seconds to the first row, the share of the bound and the stage that sets it; the agreement of the
best tags with eager fp32 on the CPU; and the times of training. `--device cpu --copies 1 --epochs 1` is a dry run
without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.throughput import copies, tags_of
from tagger import hardware

ROUNDS = 2
LIMIT = 150
"""Seconds for each step."""


@dataclass
class Check:
    """Runs the steps with the options of the command line, and a folder for their output."""

    options: argparse.Namespace
    folder: Path

    def run(self, name: str, *command: object) -> tuple[float, str, str] | None:
        """Run a Python module; return its seconds, output and last line of progress; None if it failed."""
        started = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, "-m", *map(str, command)], capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"| {name} | not done in {LIMIT} s | | | | |", flush=True)
            return None
        seconds, progress = time.perf_counter() - started, done.stderr.strip().rpartition("\n")[2]
        if done.returncode:
            print(f"| {name} | exit code {done.returncode} | | | | {progress[:200]} |", flush=True)
            return None
        return seconds, done.stdout, progress

    def tag(self, name: str, source: Path, *options: object) -> Path | None:
        """Tag the photographs in a separate process and print its row; return the results folder, None if it failed."""
        out = self.folder / f"{name}-{time.monotonic_ns()}"
        command = ["tagger.cli", "tag", source, "--model", self.options.model, "--out", out, "--json", *options]
        if found := self.run(name, *command):
            print(_tag_row(name, found[0], json.loads(found[1])), flush=True)
        return out if found else None

    def timm(self, source: Path) -> Path | None:
        """Run timm's loop and print its row; return the file of its tags, None if it failed."""
        out, device = self.folder / "timm.parquet", self.options.device
        command = ["benchmarks.timm_loop", source, self.options.model, out, "--device", device, "--bf16"]
        found = self.run("timm loop", *command, "--workers", hardware.cores(), "--batch-size", 256)
        if not found:
            return None
        words = found[1].split()
        first, rest = float(words[3]), float(words[-2])
        files = _count(source)
        steady = f"{(files - 256) / rest:,.0f}" if rest else ""
        print(f"| timm loop | {found[0]:.1f} | {files / found[0]:,.0f} | {steady} | {first:.1f} | |", flush=True)
        return out

    def train(self, name: str, *options: object) -> None:
        """Train on the labelled images and print the seconds."""
        data, device, out = self.options.labelled, self.options.device, self.folder / name
        command = ["tagger.cli", "train", data, "--backbone", self.options.model, "--out", out, "--device", device]
        if found := self.run(name, *command, *options):
            print(f"| {name} | {found[0]:.1f} | | | | {found[2]} |", flush=True)


def main() -> None:
    """Parse the arguments, run the steps, print their rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--model", default="checkpoints/cifar10-speedrun")
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--cifar")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--copies", type=int, default=72)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    print(f"{machine.describe()}{_gpu(options.device)}\n")
    print("| | seconds | images/s | after start-up | first row, s | bound |\n|---|--:|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as name:
        os.environ["TAGGER_CACHE"] = str(Path(name) / "cache")
        check = Check(options, Path(name))
        if options.photos:
            _tagging(check)
        if options.labelled:
            check.train("probe", "--method", "probe")
            check.train(f"fine-tuning, {options.epochs} epochs", "--method", "finetune", "--epochs", options.epochs)
        if options.cifar:
            _speedrun(check)


def _tagging(check: Check) -> None:
    options = check.options
    source = copies(options.photos, check.folder / "photos", options.copies)
    exact = check.tag("eager fp32 on the CPU, no copies", options.photos, "--engine", "eager", "--device", "cpu")
    outs: dict[str, Path | None] = {}
    for _ in range(ROUNDS):
        check.timm(source)
        outs["default"] = check.tag("tagger tag", source, "--device", options.device)
    for precision in ("fp32", "tf32", "fp16", "bf16") if options.device == "cuda" else ("fp32",):
        chosen = ("--device", options.device, "--engine", "eager", "--precision", precision)
        outs[precision] = check.tag(f"tagger tag {precision}", source, *chosen)
    for name, out in outs.items():
        if exact and out:
            print(f"| agreement of {name} with the CPU | {_agreement(exact, out):.2%} | | | | |")


def _agreement(exact: Path, out: Path) -> float:
    expected = tags_of(exact)["tag"]
    return float((expected == tags_of(out)["tag"].reindex(expected.index)).mean())


def _speedrun(check: Check) -> None:
    command = ["benchmarks.speedruns", check.options.cifar, "--device", check.options.device]
    short = ["--runs", 4] if check.options.device == "cuda" else ["--runs", 1, "--epochs", 1]
    if found := check.run("speed-run network", *command, *short):
        for line in found[1].splitlines():
            if line.startswith("seed"):
                print(f"| speed-run network | {line.rpartition(', ')[2].split()[0]} | | | | {line} |")


def _tag_row(name: str, seconds: float, summary: dict[str, Any]) -> str:
    files, steady = summary["found"], summary["steady_images_per_second"]
    first = f"{seconds - files / steady:.1f}" if steady else ""
    share = f"{summary['share_of_bound']:.0%} of {summary['bound_by']}" if summary["share_of_bound"] else ""
    engine = summary["models"][0]["engine"]
    return f"| {name} | {seconds:.1f} | {files / seconds:,.0f} | {steady or 0:,.0f} | {first} | {share}, {engine} |"


def _count(source: Path) -> int:
    return sum(path.is_file() for path in source.rglob("*"))


def _gpu(device: str) -> str:
    if device != "cuda":
        return ""
    import torch

    return f", {torch.cuda.get_device_name()}"


if __name__ == "__main__":
    main()
