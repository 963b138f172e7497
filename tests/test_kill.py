"""kill -9 at random moments, rerun each time: nothing is lost, nothing half-written is seen."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pictures import MODEL, photo
from test_tagging import assert_same_table, plant_bad_files, run

import tagger


def start(source: Path, out: Path, model: str, shard_size: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tagger.cli", "tag", str(source), "--model", model, "--out", str(out)]
    options = ["--shard-size", str(shard_size), "--json"]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_and_rerun(source: Path, out: Path, model: str, shard_size: int, kills: int, longest: float) -> int:
    """Kill so many runs, each at a random moment; let the last one finish. Returns the most files any table had."""
    rng = random.Random(0)
    most = 0
    for _ in range(kills):
        process = start(source, out, model, shard_size)
        time.sleep(rng.uniform(0.0, longest))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if list(out.glob("*.parquet")):
            rows = len(tagger.read_results(str(out)))  # every part that is there is whole
            assert rows >= most, "rows were lost"
            most = rows
    finished = start(source, out, model, shard_size)
    stdout, stderr = finished.communicate()
    assert finished.returncode == 0, stderr
    assert not json.loads(stdout)["damaged_parts"]
    return most


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_with_the_uninterrupted_table(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    photo(0, (1600, 1200)).save(tmp_path / "big.jpg", quality=95)
    for index in range(300):
        os.link(tmp_path / "big.jpg", folder / f"{index:03d}.jpg")
    plant_bad_files(folder)
    run(folder, tmp_path / "whole", batch_size=32)
    kill_and_rerun(folder, tmp_path / "killed", MODEL, 10, kills=8, longest=6.0)
    assert_same_table(tmp_path / "killed", tmp_path / "whole")
    assert run(folder, tmp_path / "killed").reasons == {"unreadable before": 2}


def test_a_run_whose_output_is_deleted_ends_with_the_whole_table_or_says_so(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    photo(0, (1600, 1200)).save(tmp_path / "big.jpg", quality=95)
    for index in range(120):
        os.link(tmp_path / "big.jpg", folder / f"{index:03d}.jpg")
    process = start(folder, out, MODEL, 4)
    while len(list(out.glob("*.parquet"))) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    subprocess.run(["rm", "-rf", out], check=False)
    stdout, stderr = process.communicate()
    if process.returncode == 0:
        assert json.loads(stdout)["tagged"] == len(tagger.read_results(out)) == 120
    else:
        assert (process.returncode, stderr.count("\n")) == (1, 1), stderr
        assert str(out) in stderr
    run(folder, out)
    assert len(tagger.read_results(out)) == 120


@pytest.mark.slow
def test_500_photographs_survive_20_kills(shared: Path, real_photos: Path, tmp_path: Path) -> None:
    model = f"local-dir:{shared}/backbones/mobilenetv2_100.imagenet"
    run(real_photos, tmp_path / "whole", model=model, batch_size=32)
    most = kill_and_rerun(real_photos, tmp_path / "killed", model, 20, kills=20, longest=6.0)
    assert most > 0, "no run got far enough to commit anything before it was killed"
    assert_same_table(tmp_path / "killed", tmp_path / "whole")
    assert run(real_photos, tmp_path / "killed", model=model).tagged == 0
