"""kill -9 at random moments, rerun each time: nothing is lost, nothing half-written is seen."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pictures import MODEL, photo
from processes import TIMEOUT, Forked, finish, forked, wait_for_parts
from test_tagging import assert_same_table, plant_bad_files, run

import tagger

KILLS = 6


def tagging(source: Path, out: Path, model: str, shard_size: int) -> AbstractContextManager[Forked]:
    options = ("--model", model, "--out", out, "--shard-size", shard_size, "--json")
    return forked("tag", source, *options)


def kill_and_rerun(source: Path, out: Path, model: str, shard_size: int) -> list[int]:
    """Kill runs at random moments, the first before it writes; let the last one finish. Return the rows after each."""
    rng = random.Random(0)
    rows = [0]
    for kill in range(KILLS):
        with tagging(source, out, model, shard_size) as process:
            if kill:
                wait_for_parts(out, len(list(out.glob("*.parquet"))) + rng.randint(1, 3), process)
            time.sleep(rng.uniform(0, 0.05 if kill else 0.3))
        if list(out.glob("*.parquet")):
            rows.append(len(tagger.read_results(str(out))))  # every part that is there is whole
        assert rows[-1] == max(rows), "rows were lost"
    with tagging(source, out, model, shard_size) as process:
        assert not json.loads(finish(process))["damaged_parts"]
    return rows


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_with_the_uninterrupted_table(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(200):
        photo(index, (800, 600)).save(folder / f"{index:03d}.jpg", quality=90)
    plant_bad_files(folder)
    run(folder, tmp_path / "whole", batch_size=32)
    rows = kill_and_rerun(folder, tmp_path / "killed", MODEL, 4)
    assert 0 < rows[1] < len(tagger.read_results(tmp_path / "whole"))
    assert_same_table(tmp_path / "killed", tmp_path / "whole")
    assert run(folder, tmp_path / "killed").reasons == {"unreadable before": 2}


def test_a_run_whose_output_is_deleted_ends_with_the_whole_table_or_says_so(tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    photo(0, (1600, 1200)).save(tmp_path / "big.jpg", quality=95)
    for index in range(60):
        os.link(tmp_path / "big.jpg", folder / f"{index:03d}.jpg")
    with tagging(folder, out, MODEL, 2) as process:
        wait_for_parts(out, 5, process)
        shutil.rmtree(out, ignore_errors=True)  # the run may be writing into it
        stdout, stderr = process.communicate(timeout=TIMEOUT)
    if process.returncode == 0:
        assert json.loads(stdout)["tagged"] == len(tagger.read_results(out)) == 60
    else:
        assert (process.returncode, stderr.count("tagger: ")) == (1, 1), stderr
        assert str(out) in stderr
    run(folder, out)
    assert len(tagger.read_results(out)) == 60
