"""A real server and a real worker: deploy, schedule, run, look, cancel, serve."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pictures import MODEL, ROOT, photo
from processes import TIMEOUT, free_port, started, wait_for_parts, wait_until

import tagger

pytestmark = pytest.mark.slow


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A shell in which `prefect` uses a server of this module, with schedules and automations."""
    port = free_port()
    env = os.environ | {
        "PREFECT_HOME": str(tmp_path_factory.mktemp("home")),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PYTHONPATH": str(ROOT),
    }
    log = tmp_path_factory.mktemp("server") / "log"
    options = {"env": env, "stdout": log.open("w"), "stderr": subprocess.STDOUT}
    with started("prefect", "server", "start", "--port", port, **options) as server:
        wait_until(lambda: answers(env["PREFECT_API_URL"] + "/health"), server)
        run = subprocess.run(
            [sys.executable, "-m", "prefect", "work-pool", "create", "local", "--type", "process"],
            env=env, capture_output=True, timeout=TIMEOUT, check=True,
        )  # fmt: skip
        assert run.returncode == 0
        yield env
        server.terminate()
        server.wait(TIMEOUT)


@pytest.fixture(scope="module")
def client(shell: dict[str, str]) -> Iterator[Any]:
    """A client of that server; code of this process uses it, too."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: shell["PREFECT_API_URL"]}), get_client(sync_client=True) as made:
        yield made


@pytest.fixture
def project(tmp_path: Path, photos: Path, client: Any) -> Iterator[Path]:
    """A folder with the flows and prefect.yaml, whose nightly run is due every 5 seconds."""
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    nightly = next(each for each in declared["deployments"] if each["name"] == "nightly")
    nightly["parameters"] |= {"source": str(photos), "model": [MODEL], "out": str(tmp_path / "out")}
    nightly["schedules"] = [{"interval": 5}]
    declared["deployments"] = [nightly]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(declared))
    yield tmp_path
    for deployment in client.read_deployments():
        client.delete_deployment(deployment.id)


def change(project: Path, **parameters: Any) -> None:
    """Change parameters of the project's deployment; its schedule is removed."""
    declared = yaml.safe_load((project / "prefect.yaml").read_text())
    declared["deployments"][0]["parameters"] |= parameters
    declared["deployments"][0]["schedules"] = []
    (project / "prefect.yaml").write_text(yaml.safe_dump(declared))


def deploy(project: Path, shell: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    return subprocess.run(command, cwd=project, env=shell, capture_output=True, text=True, timeout=TIMEOUT)


@pytest.fixture
def start(project: Path, shell: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process of the project that ends with the test."""
    with ExitStack() as stack:

        def start_one(*words: str) -> subprocess.Popen[str]:
            log = stack.enter_context((tmp_path / f"{words[0]}.log").open("w"))
            options = {"cwd": project, "env": shell, "stdout": log, "stderr": subprocess.STDOUT}
            process = stack.enter_context(started(*words, **options))
            stack.callback(process.wait, TIMEOUT)
            stack.callback(process.terminate)
            return process

        yield start_one


def runs(client: Any) -> list[Any]:
    return list(client.read_flow_runs())


def ended(client: Any, name: str) -> Callable[[], Any]:
    """Return a function that returns a run in a state, when there is one."""
    return lambda: next((run for run in runs(client) if run.state_name == name), None)


def big_source(folder: Path, count: int) -> Path:
    (folder / "many").mkdir()
    photo(0, (1600, 1200)).save(folder / "big.jpg", quality=95)
    for index in range(count):
        os.link(folder / "big.jpg", folder / "many" / f"{index:04d}.jpg")
    return folder / "many"


def test_a_typing_error_in_prefect_yaml_is_refused_before_anything_is_deployed(
    project: Path, shell: dict[str, str], client: Any
) -> None:
    change(project, options={"max_faild": "1%"})
    ran = deploy(project, shell)
    assert ran.returncode == 1
    assert "tagger: prefect.yaml: deployment nightly: parameters of nightly: options.max_faild" in ran.stderr
    assert client.read_deployments() == []


def test_a_schedule_fires_and_a_worker_completes_the_run(
    project: Path, shell: dict[str, str], client: Any, start: Callable[..., Any]
) -> None:
    from prefect.client.schemas.filters import ArtifactFilter

    assert deploy(project, shell).returncode == 0
    worker = start("prefect", "worker", "start", "--pool", "local", "--limit", "2")
    wait_until(ended(client, "Completed"), worker)
    run = ended(client, "Completed")()
    assert run.auto_scheduled
    assert run.name.startswith("nightly ")
    assert {"tagger", "nightly"} <= {*run.tags}
    assert len(tagger.read_results(project / "out")) == 6
    keys = {each.key for each in client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id={"any_": [run.id]}))}
    assert {"tag", "report"} <= keys
    assert (project / "out" / "_reports" / "report.html").exists()


def test_a_cancelled_run_stops_within_seconds_and_leaves_no_plan(
    project: Path, shell: dict[str, str], client: Any, start: Callable[..., Any], tmp_path: Path
) -> None:
    from prefect.deployments import run_deployment
    from prefect.states import Cancelling

    out = tmp_path / "cancelled"
    parameters = {"source": str(big_source(tmp_path, 3000)), "out": str(out), "options": {"shard_size": 20}}
    change(project, **parameters)
    assert deploy(project, shell).returncode == 0
    worker = start("prefect", "worker", "start", "--pool", "local")
    run: Any = run_deployment("nightly/nightly", timeout=0)
    wait_for_parts(out, 2, worker)
    cancelled = time.monotonic()
    client.set_flow_run_state(run.id, Cancelling())
    wait_until(lambda: client.read_flow_run(run.id).state_name == "Cancelled", worker)
    assert time.monotonic() - cancelled < 30
    parts = len(list(out.glob("*.parquet")))
    time.sleep(2)
    assert len(list(out.glob("*.parquet"))) == parts < 150
    assert not list(out.glob("_plans/*"))


def test_every_deployment_is_served_by_one_process(
    project: Path, shell: dict[str, str], client: Any, start: Callable[..., Any]
) -> None:
    before = {run.id for run in runs(client)}
    served = start("flows.serve")
    wait_until(lambda: any(run.state_name == "Completed" and run.id not in before for run in runs(client)), served)
    assert len(tagger.read_results(project / "out")) == 6


class Posted(http.server.BaseHTTPRequestHandler):
    """A webhook that keeps what it was sent."""

    texts: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
        self.send_response(200)
        self.end_headers()


def test_a_zombie_is_marked_as_crashed_and_reported(client: Any, shell: dict[str, str]) -> None:
    from datetime import timedelta

    from prefect import flow
    from prefect.blocks.webhook import Webhook
    from prefect.events import Event
    from prefect.states import Running

    from flows.automations import mark_zombies, report_failures

    @flow(name="zombie")
    def zombie() -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Posted) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        report_failures(Webhook(url=f"http://127.0.0.1:{server.server_port}")).create()
        mark_zombies(timedelta(seconds=10)).create()
        run = client.create_flow_run(zombie, name='a "quoted" name')
        client.set_flow_run_state(run.id, Running(), force=True)
        resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name}
        heartbeat = Event(event="prefect.flow-run.heartbeat", resource=resource).model_dump(mode="json")
        httpx.post(shell["PREFECT_API_URL"] + "/events", json=[heartbeat], timeout=TIMEOUT).raise_for_status()
        deadline = time.monotonic() + TIMEOUT
        while not Posted.texts and time.monotonic() < deadline:
            time.sleep(0.2)
        server.shutdown()
    assert client.read_flow_run(run.id).state_name == "Crashed"
    assert 'a "quoted" name is Crashed: No heartbeat: the process is gone.' in Posted.texts
