"""A plan worked on by real clusters of several processes: the table of a local run, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pictures import MODEL, photo
from processes import TIMEOUT
from test_tagging import assert_same_table, plant_bad_files
from test_tagging import run as run_locally

from benchmarks.cluster import busy_workers
from tagger.errors import UsageError
from tagger.tagging import cluster, run
from tagger.tagging.config import TagConfig

pytestmark = pytest.mark.slow
SHARD = 4


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "photos"
    folder.mkdir()
    for index in range(160):
        photo(index, (800, 600)).save(folder / f"{index:03d}.jpg", quality=90)
    plant_bad_files(folder)
    run_locally(folder, folder.parent / "local")
    return folder


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """Address of a cluster of two nodes with a processor each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    head = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    head.add_node(num_cpus=1)
    yield head.address
    head.shutdown()


@pytest.fixture(scope="module")
def dask_address() -> Iterator[str]:
    """Address of a scheduler with two workers, which a nanny starts again if they die."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
        yield started.scheduler_address


def address_of(request: pytest.FixtureRequest, runner: str) -> str:
    address: str = request.getfixturevalue(f"{runner}_address")
    return address


def on_cluster(source: Path, out: Path, runner: Any, address: str) -> Any:
    planned = run.prepare(str(source), MODEL, str(out), TagConfig(shard_size=SHARD))
    counts = cluster.tag_plan(planned, range(planned.shards), runner, address)
    return run.finish(planned, counts)


@pytest.mark.parametrize("runner", ["ray", "dask"])
def test_a_cluster_gives_the_table_of_a_local_run(
    many: Path, tmp_path: Path, request: pytest.FixtureRequest, runner: str
) -> None:
    started = time.perf_counter()
    summary = on_cluster(many, tmp_path / "out", runner, address_of(request, runner))
    assert summary.seconds <= time.perf_counter() - started, "wall time, not the sum over workers"
    assert summary.tagged >= 160
    assert_same_table(tmp_path / "out", many.parent / "local")


@pytest.mark.parametrize("runner", ["ray", "dask"])
def test_the_shards_of_a_killed_worker_are_done_by_another(
    many: Path, tmp_path: Path, request: pytest.FixtureRequest, runner: str
) -> None:
    address, killed = address_of(request, runner), list[int]()

    def kill_one() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            if len(list((tmp_path / "out").glob("*.parquet"))) >= 3 and (found := busy_workers()):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
            time.sleep(0.01)

    killer = threading.Thread(target=kill_one)
    killer.start()
    on_cluster(many, tmp_path / "out", runner, address)
    killer.join()
    assert killed, "nothing was killed"
    assert_same_table(tmp_path / "out", many.parent / "local")


@pytest.mark.parametrize(("runner", "address"), [("ray", "127.0.0.1:1"), ("dask", "tcp://127.0.0.1:1")])
def test_a_cluster_that_does_not_answer_is_one_error(many: Path, tmp_path: Path, runner: Any, address: str) -> None:
    with pytest.raises(UsageError, match=f"--address {address}: no (Ray|Dask)"):
        on_cluster(many, tmp_path / "out", runner, address)


def test_a_flow_runs_on_a_cluster_of_this_machine(many: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.tag", many, "--model", MODEL, "--out", tmp_path / "out"]
    options = ["--shard-size", "4", "--runner", "dask", "--workers", "2"]
    ran = subprocess.run([*map(str, command), *options], capture_output=True, text=True, timeout=TIMEOUT)
    assert ran.returncode == 0, ran.stderr
    assert_same_table(tmp_path / "out", many.parent / "local")
