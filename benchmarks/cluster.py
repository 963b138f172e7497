"""Ray and Dask: two workers against one when the object store is slow, and a run whose worker is killed half-way.

    python -m benchmarks.cluster [--runner dask ray] [--files 4000] [--latency 400]

The source is a small S3 server on loopback (benchmarks.object_store) that responds after `--latency` milliseconds, so
that a worker waits for it most of the time and the number of cores is not the limit. The cluster has two workers of one
core each, with the model already loaded. Prints seconds with one and with two workers, and compares the tables with
that of a local run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

import tagger
from benchmarks import machine, object_store, s3, scaling
from tagger.tagging import cluster, run
from tagger.tagging.cluster import Runner
from tagger.tagging.config import TagConfig

MODEL = "checkpoints/cifar10-speedrun"
COLUMNS = ["uri", "image_id", "status", "width", "height", "top_tag"]


@contextlib.contextmanager
def dask() -> Iterator[str]:
    """Start a scheduler and two workers; yield the scheduler's address."""
    distributed: Any = import_module("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
        yield started.scheduler_address


@contextlib.contextmanager
def ray() -> Iterator[str]:
    """Start a cluster of two nodes with one CPU each; yield its address."""
    clusters: Any = import_module("ray.cluster_utils")
    head = clusters.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    head.add_node(num_cpus=1)
    try:
        yield head.address
    finally:
        head.shutdown()


CLUSTERS: dict[Runner, Callable[[], contextlib.AbstractContextManager[str]]] = {"dask": dask, "ray": ray}


def main() -> None:
    """Parse the arguments, tag on each cluster, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", nargs="+", choices=list(CLUSTERS), default=list(CLUSTERS))
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--latency", type=float, default=400, help="milliseconds")
    arguments = parser.parse_args()
    print(f"{machine.describe()}, {arguments.files:,} files, {arguments.latency:g} ms\n")
    print("| runner | one worker, s | two, s | ratio | two, one killed half-way, s | tables |")
    print("|---|--:|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        scaling.make_images(photos, arguments.files)
        os.environ.update(s3.environment(object_store.PORT))
        with object_store.started(photos, arguments.latency):
            tagger.tag(f"s3://{object_store.BUCKET}/", MODEL, f"{name}/local")
            for runner in arguments.runner:
                with CLUSTERS[runner]() as address:
                    print_row(runner, address, Path(name))


def print_row(runner: Runner, address: str, folder: Path) -> None:
    """Measure one runner and print its row."""
    seconds = {}
    for test, workers in (("warm", 2), ("one", 1), ("two", 2)):
        seconds[test] = tag(runner, address, folder / f"{runner}-{test}", workers)
    half_way = threading.Thread(target=kill_half_way, args=(folder / f"{runner}-killed", folder / f"{runner}-two"))
    half_way.start()
    seconds["killed"] = tag(runner, address, folder / f"{runner}-killed", 2)
    half_way.join()
    expected = table(folder / "local")
    same = all(table(folder / f"{runner}-{test}").equals(expected) for test in seconds)
    print(
        f"| {runner} | {seconds['one']:.1f} | {seconds['two']:.1f} | {seconds['one'] / seconds['two']:.2f} "
        f"| {seconds['killed']:.1f} | {'that of a local run' if same else 'DIFFERENT'} |",
        flush=True,
    )


def tag(runner: Runner, address: str, out: Path, workers: int) -> float:
    """Tag the store's images on a cluster; return the seconds without planning."""
    config = TagConfig(shard_size=50, workers=workers)
    plan = run.prepare(f"s3://{object_store.BUCKET}/", MODEL, out, config)
    counts = cluster.tag_plan(plan, range(plan.shards), runner, address)
    run.finish(plan, counts)
    return counts.seconds


def kill_half_way(out: Path, whole: Path) -> None:
    """Kill a worker once half of the parts are written."""
    parts = len(list(whole.glob("*.parquet")))
    while len(list(out.glob("*.parquet"))) < parts / 2:
        time.sleep(0.05)
    os.kill(busy_workers()[0], signal.SIGKILL)


def busy_workers() -> list[int]:
    """Return the ids of this process's descendants that have loaded a model."""
    psutil: Any = import_module("psutil")
    return [each.pid for each in psutil.Process().children(recursive=True) if _has_model(each.pid)]


def _has_model(pid: int) -> bool:
    try:
        return "openvino" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # the process has ended
        return False


def table(out: Path) -> pd.DataFrame:
    """Return the latest rows in order."""
    return tagger.read_results(out)[COLUMNS].sort_values("uri").reset_index(drop=True)


if __name__ == "__main__":
    main()
