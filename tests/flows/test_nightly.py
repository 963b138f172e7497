"""The nightly flow: what an operator finds in the morning, whatever happened in the night."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
from pictures import MODEL, photo

import tagger
from tagger.errors import SourceNotFound
from tagger.tagging.status import status as table_status


def run(photos: Path, out: Path, **given: Any) -> Any:
    from flows.nightly import nightly

    return nightly(str(photos), str(out), [MODEL], thumbnails=0, return_state=True, **given)


def flow_run(state: Any) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id)


def logged(state: Any, text: str) -> bool:
    """Wait until the log of a run has a text, 20 s at most."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter

    with get_client(sync_client=True) as client:
        for _ in range(100):
            logs = client.read_logs(LogFilter(flow_run_id={"any_": [state.state_details.flow_run_id]}))
            if any(text in each.message for each in logs):
                return True
            time.sleep(0.2)
    return False


def test_a_night_leaves_named_run_pages_and_artifacts(photos: Path, tmp_path: Path) -> None:
    from prefect.artifacts import Artifact

    (photos / "bad.jpg").write_bytes(b"junk")
    out = tmp_path / "out"
    state = run(photos, out, options={"max_failed": "50%"})
    assert state.is_completed()
    assert "no earlier run" in state.message
    assert flow_run(state).name.startswith("nightly ")
    assert flow_run(state).name.endswith("photos with cifar10-speedrun")
    assert logged(state, "7 of 7 files to tag (7 new)")
    assert logged(state, "loading cifar10-speedrun")
    counts = Artifact.get("tag")
    assert counts is not None
    text = str(counts.data)
    for part in ("| share failed | 14.3% |", "| failures allowed | 3 of 7 |", "bad.jpg"):
        assert part in text
    assert f"file://{out}" in str(counts.description)
    assert (out / "_reports" / "report.html").exists()
    report = Artifact.get("report")
    assert report is not None
    assert f"file://{out}/_reports/report.html" in str(report.description)


@pytest.mark.parametrize(("on_drift", "state_name"), [("warn", "Completed"), ("fail", "Failed")])
def test_drift_is_a_warning_or_a_failure(tmp_path: Path, photos: Path, on_drift: str, state_name: str) -> None:
    import shutil

    out, drifted = tmp_path / "out", tmp_path / "drifted"
    drifted.mkdir()
    for index in range(40):
        photo(index).save(photos / f"{index}.png")
        photo(1, (8, 8)).save(drifted / f"{index}.png")
    assert tagger.tag(photos, MODEL, out).tagged
    shutil.move(drifted, photos / "drifted")
    state = run(photos, out, on_drift=on_drift)
    assert state.name == state_name
    assert logged(state, "differ from the reference")
    assert (out / "_reports" / "drift.html").exists()


@pytest.mark.parametrize("min_files", [{}, {"min_files": 3}])
def test_an_empty_source_is_a_failed_run(tmp_path: Path, min_files: dict[str, int]) -> None:
    state = run(tmp_path, tmp_path / "out", options=min_files)
    assert state.is_failed()
    assert "0 files found, but --min-files" in str(state.result(raise_on_failure=False))


def test_a_source_that_vanished_is_an_error_and_its_rows_stay_present(photos: Path, tmp_path: Path) -> None:
    tagger.tag(photos, MODEL, tmp_path / "out")
    photos.rename(tmp_path / "unmounted")
    photos.mkdir()
    with pytest.raises(SourceNotFound, match="no files found, but"):
        tagger.tag(photos, MODEL, tmp_path / "out")
    status = table_status(tmp_path / "out").models["cifar10-speedrun"]
    assert (status.images, status.vanished) == (6, 0)


def test_a_run_over_its_hours_is_stopped_and_the_next_one_goes_on(tmp_path: Path) -> None:
    folder, out = tmp_path / "many", tmp_path / "out"
    folder.mkdir()
    photo(0, (1600, 1200)).save(tmp_path / "big.jpg", quality=95)
    for index in range(2000):
        os.link(tmp_path / "big.jpg", folder / f"{index:04d}.jpg")
    started = time.monotonic()
    state = run(folder, out, options={"shard_size": 10}, max_hours=3 / 3600)
    assert time.monotonic() - started < 15
    assert state.name == "TimedOut"
    written = len(tagger.read_results(out)) if out.exists() else 0
    assert written < 2000
    assert not list(out.glob("_plans/*"))


def test_a_slow_step_is_logged_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    from prefect import flow

    from flows.progress import progress

    @flow
    def slow() -> None:
        with progress("listing s3://key:secret@bucket", seconds=0.1) as show:
            time.sleep(0.25)
            show("loading a model")
            logging.getLogger("tagger.inference").warning("no OpenVINO")
            time.sleep(0.25)

    slow()
    assert caplog.messages.count("listing s3://bucket") >= 2
    assert "loading a model" in caplog.messages
    assert ("prefect.flow_runs", logging.WARNING, "no OpenVINO") in caplog.record_tuples


def test_flows_can_be_pickled_by_value_as_process_and_remote_runners_do() -> None:
    import importlib

    import cloudpickle

    for verb in ("benchmark", "compact", "drift", "ingest", "nightly", "report", "tag", "train"):
        module = importlib.import_module(f"flows.{verb}")
        cloudpickle.register_pickle_by_value(module)
        try:
            assert cloudpickle.loads(cloudpickle.dumps(getattr(module, verb))).name == verb
        finally:
            cloudpickle.unregister_pickle_by_value(module)
