"""The flows do what the library does, with few tasks, honest states and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pictures import MODEL, ROOT, photo
from prefect.exceptions import ParameterTypeError

import tagger
from tagger.tagging.config import TagConfig


def artifact(key: str) -> str:
    from prefect.artifacts import Artifact

    found = Artifact.get(key)
    assert found is not None
    return str(found.data)


def test_the_tag_flow_writes_the_same_table_and_an_artifact(photos: Path, tmp_path: Path) -> None:
    from flows.tag import tag

    (photos / "bad.jpg").write_bytes(b"junk")
    options = TagConfig(shard_size=2, batch_size=2)
    state = tag(str(photos), [MODEL], str(tmp_path / "flow"), options, return_state=True)
    assert state.is_completed()
    assert "6 tagged, 1 failed" in state.message
    tagger.tag(str(photos), MODEL, str(tmp_path / "library"), options)
    columns = ["uri", "status", "top_tag", "image_id", "model_id", "settings_id"]
    by_flow, by_library = (tagger.read_results(str(tmp_path / name))[columns] for name in ("flow", "library"))
    assert by_flow.equals(by_library)
    assert "| tagged | 6 |" in artifact("tag")
    assert not list((tmp_path / "flow" / "_runs").glob("_plan*"))
    again = tag(str(photos), [MODEL], str(tmp_path / "flow"), options, return_state=True)
    assert "0 images decoded" in again.message


def test_a_flow_run_has_at_most_twenty_tasks_and_loads_its_model_once_whatever_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client

    from flows.tag import tag
    from tagger.inference import engines

    loaded: list[str] = []
    load = engines.load
    monkeypatch.setattr(engines, "load", lambda info, *options: loaded.append(info.name) or load(info, *options))

    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(40):
        photo(index).save(folder / f"{index}.jpg")
    state = tag(str(folder), [MODEL], str(tmp_path / "out"), TagConfig(shard_size=1), return_state=True)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 40
    assert loaded == ["cifar10-speedrun"]
    from prefect.client.schemas.filters import FlowRunFilter

    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [state.state_details.flow_run_id]}))
    assert 3 <= len(runs) <= 20


def test_too_many_failures_are_a_failed_run_whose_rows_are_written(photos: Path, tmp_path: Path) -> None:
    from flows.tag import tag

    (photos / "bad.jpg").write_bytes(b"junk")
    state = tag(str(photos), [MODEL], str(tmp_path / "out"), TagConfig(max_failed="0"), return_state=True)
    assert state.is_failed()
    assert len(tagger.read_results(str(tmp_path / "out"))) == 7


def test_the_ingest_flow_writes_a_manifest(photos: Path, tmp_path: Path) -> None:
    from flows.ingest import ingest

    state = ingest(str(photos), str(tmp_path / "m.parquet"), return_state=True)
    assert state.is_completed()
    assert state.result()["found"] == 6
    assert "| found | 6 |" in artifact("ingest")


def test_the_form_of_the_flow_describes_its_options() -> None:
    from flows.tag import tag

    schema = tag.parameters.model_dump()
    assert set(schema["properties"]) == {"source", "model", "out", "options"}
    definition = next(iter(schema["definitions"].values()))
    assert definition["properties"]["top_k"]["default"] == 5
    with pytest.raises(Exception, match="top-k must be at least 1"):
        tag.validate_parameters({"source": "a", "model": "b", "out": "c", "options": {"top_k": 0}})


def flow_command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A shell without our test server."""
    return {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}


def run_flow(environment: dict[str, str], *command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        flow_command(*command), capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.slow
def test_flows_run_from_the_shell_without_a_server_with_the_commands_exit_codes(
    photos: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    done = run_flow(environment, "flows.tag", photos, "--model", MODEL, "--out", tmp_path / "out", "--shard-size", "3")
    assert done.returncode == 0, done.stderr
    assert "6 tagged, 0 failed" in done.stdout
    mistake = run_flow(environment, "flows.tag", "/no/such", "--model", MODEL, "--out", tmp_path / "out")
    assert mistake.returncode == 1
    assert "tagger: /no/such: not found" in mistake.stderr
    (photos / "bad.jpg").write_bytes(b"x")
    arguments = ("flows.tag", photos, "--model", MODEL, "--out", tmp_path / "out", "--max-failed", "0")
    assert run_flow(environment, *arguments).returncode == 3
    listed = run_flow(environment, "flows.ingest", photos, "--out", tmp_path / "m.parquet")
    assert listed.returncode == 0, listed.stderr


@pytest.mark.slow
def test_a_killed_flow_run_never_blocks_the_next_one(tmp_path: Path, environment: dict[str, str]) -> None:
    folder, out = tmp_path / "many", tmp_path / "out"
    folder.mkdir()
    photo(0, (1600, 1200)).save(tmp_path / "big.jpg", quality=95)
    for index in range(600):
        os.link(tmp_path / "big.jpg", folder / f"{index:03d}.jpg")
    arguments = ("flows.tag", folder, "--model", MODEL, "--out", out, "--shard-size", "10")
    process = subprocess.Popen(
        flow_command(*arguments), cwd=ROOT, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while len(list(out.glob("*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = len(tagger.read_results(str(out)))
    assert 30 <= kept < 600
    again = run_flow(environment, *arguments)
    assert again.returncode == 0, again.stderr
    assert f"{600 - kept} tagged" in again.stdout
    assert len(tagger.read_results(str(out))) == 600


def test_prefect_yaml_has_valid_parameters_for_every_flow() -> None:
    import yaml
    from prefect.flows import load_flow_from_entrypoint

    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert {each["name"] for each in deployments} == {"ingest", "nightly", "train"}
    for each in deployments:
        load_flow_from_entrypoint(str(ROOT / each["entrypoint"])).validate_parameters(each["parameters"])


@pytest.mark.slow
def test_both_deployments_of_prefect_yaml_run_on_a_real_server(
    photos: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    """`prefect server`, a process pool, `prefect deploy --all`, and a worker that executes both."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = environment | {
        "PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    prefect = [sys.executable, "-m", "prefect"]

    def call(*arguments: object) -> str:
        command = [*prefect, *map(str, arguments)]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    log = (tmp_path / "server.log").open("w")
    command = [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_for_server(port, server)
        call("work-pool", "create", "local", "--type", "process")
        deployed = call("--no-prompt", "deploy", "--all")
        assert "ingest/ingest" in deployed
        assert "tag/nightly" in deployed
        manifest, out = tmp_path / "m.parquet", tmp_path / "out"
        call("deployment", "run", "ingest/ingest", "-p", f"source={photos}", "-p", f"out={manifest}")
        options = ["-p", f'model=["{MODEL}"]', "-p", 'options={"shard_size": 4}']
        call("deployment", "run", "tag/nightly", "-p", f"source={photos}", "-p", f"out={out}", *options)
        call("worker", "start", "--pool", "local", "--run-once")
        assert manifest.exists()
        assert len(tagger.read_results(str(out))) == 6
        assert len(list(out.glob("*.parquet"))) == 2
    finally:
        server.terminate()
        server.wait()


def _wait_for_server(port: int, server: subprocess.Popen[Any]) -> None:
    import urllib.error
    import urllib.request

    for _ in range(600):
        assert server.poll() is None, "the Prefect server died"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the Prefect server did not answer in two minutes")


def test_the_train_flow_writes_a_checkpoint_and_leaves_its_card(tmp_path: Path, timm_folder: Path) -> None:
    from flows.train import train
    from tagger import checkpoint
    from tagger.training.config import TrainConfig

    for number, name in enumerate(("left", "right")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(12):
            photo(100 * number + index).save(tmp_path / "data" / name / f"{index}.png")
    options = TrainConfig(backbone=f"local-dir:{timm_folder}", method="probe")
    state = train(str(tmp_path / "data"), str(tmp_path / "made"), options, return_state=True)
    assert state.is_completed()
    assert checkpoint.describe(str(tmp_path / "made")).label_names == ("left", "right")
    assert "left" in artifact("train")
    again = train(str(tmp_path / "data"), str(tmp_path / "made"), options, return_state=True)
    assert again.is_failed()
    assert "not empty" in str(again.result(raise_on_failure=False))


def test_the_benchmark_flow_trains_every_model_and_leaves_the_report(tmp_path: Path) -> None:
    from flows.benchmark import benchmark
    from tagger.benchmark.config import BenchmarkConfig

    for split, count in (("train", 12), ("test", 6)):
        for number, name in enumerate(("left", "right")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(count):
                photo(100 * number + 10 * (split == "test") + index).save(
                    tmp_path / "data" / split / name / f"{index}.png"
                )
    options = BenchmarkConfig(("linear", "mlp"), "2s", seeds=2)
    state = benchmark(str(tmp_path / "data"), str(tmp_path / "report"), options, return_state=True)
    assert state.is_completed()
    assert "2 models; best" in state.message
    assert (tmp_path / "report" / "report.html").exists()
    assert "data:image/png;base64," in artifact("benchmark")
    again = benchmark(str(tmp_path / "data"), str(tmp_path / "report"), options, return_state=True)
    assert len(again.result()) == 4


@pytest.mark.parametrize("wrong", [{"options": {"threshold": 7}}, {"options": {"engine": "warp"}}, {"model": []}])
def test_parameters_that_are_not_allowed_are_refused_when_a_run_is_created(wrong: dict[str, Any]) -> None:
    from flows.tag import tag

    right = {"source": "photos", "model": ["m"], "out": "results", "options": {}}
    assert tag.validate_parameters(right)["model"] == ["m"]
    with pytest.raises(ParameterTypeError):
        tag.validate_parameters(right | wrong)
