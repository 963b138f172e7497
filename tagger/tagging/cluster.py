"""Work on a saved plan in a Ray or Dask cluster: a few tasks at a time, each some shards, with one worker per machine.

The results table decides what is done, so a task whose worker is lost runs again elsewhere and does only what is
missing. Plan, results and sources must be where all workers can read them.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal, TypeAlias

from tagger.errors import MissingExtra, TaggerError, UsageError, first_line
from tagger.tagging import plan, run
from tagger.tagging.summary import ShardCounts

Runner: TypeAlias = Literal["local", "ray", "dask"]
Range: TypeAlias = tuple[int, int]

RANGES_PER_WORKER = 8
"""Tasks per worker: enough for the last ones to end at nearly the same time."""
CONNECT_SECONDS = 20
_ATTEMPTS = 3
"""Tries of a task whose worker is lost."""


class Lost(TaggerError):
    """A task whose workers were lost each time."""


def run_plan(plan_url: str, shards: int, runner: Runner, address: str | None, workers: int | None) -> ShardCounts:
    """Tag all shards of a saved plan in a cluster; return their counts, with the wall time.

    Without an address, a cluster of this machine is started. `workers` limits the number of tasks at the same time.
    Raises UsageError if the cluster does not answer, MissingExtra without its package.
    """
    started = time.perf_counter()
    cluster = {"ray": _ray, "dask": _dask}[runner]
    total = ShardCounts()
    with cluster(address, workers) as (count, work):
        ranges = plan.ranges(shards, max(1, count) * RANGES_PER_WORKER)
        for counts in work(plan_url, ranges):
            total += counts
    return replace(total, seconds=time.perf_counter() - started, steady_seconds=0.0)


def tag_range(plan_url: str, first: int, stop: int) -> ShardCounts:
    """Tag some shards in a worker, which loads plan and models once."""
    return run.run_shards(_plan(plan_url), range(first, stop), _models())


@functools.lru_cache(1)
def _plan(url: str) -> plan.Plan:
    return plan.load_plan(url)


@functools.cache
def _models() -> run.Models:
    return run.Models()


def _check_answers(address: str | None, what: str) -> None:
    """Raise UsageError if nothing listens at HOST:PORT: the clients would wait for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UsageError(f"--address {address}: no {what} answers ({error.strerror or error})") from error


def _package(name: str, runner: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(f"--runner {runner}", name, runner) from error


Work: TypeAlias = Callable[[str, Sequence[Range]], Iterator[ShardCounts]]


@contextlib.contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[tuple[int, Work]]:
    """Connect to Ray; a task takes all processors of a machine."""
    ray = _package("ray", "ray")
    _check_answers(address, "Ray cluster")
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"--address {address}: no Ray cluster answers ({first_line(error)})") from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        processors = min(node["CPU"] for node in nodes)
        gpus = min(node.get("GPU", 0) for node in nodes)
        task = ray.remote(num_cpus=processors, num_gpus=gpus, max_retries=_ATTEMPTS)(tag_range)
        count = min(workers or len(nodes), sum(int(node["CPU"] // processors) for node in nodes))

        def work(plan_url: str, ranges: Sequence[Range]) -> Iterator[ShardCounts]:
            waiting = list(reversed(ranges))
            pending: list[Any] = []
            while waiting or pending:
                while waiting and len(pending) < count:
                    pending.append(task.remote(plan_url, *waiting.pop()))
                [done], pending = ray.wait(pending, num_returns=1)
                try:
                    yield ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.as_instanceof_cause() from error
                except ray.exceptions.RayError as error:
                    raise Lost(f"--runner ray: a task was lost {_ATTEMPTS + 1} times ({first_line(error)})") from error

        yield count, work
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _dask(address: str | None, workers: int | None) -> Iterator[tuple[int, Work]]:
    """Connect to Dask; a worker gets one task at a time."""
    distributed = _package("distributed", "dask")
    _check_answers(address, "Dask scheduler")
    try:
        local: dict[str, Any] = (
            {} if address else {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        )
        client = distributed.Client(address, timeout=CONNECT_SECONDS, **local)
    except (OSError, ValueError) as error:
        raise UsageError(f"--address {address}: no Dask scheduler answers ({first_line(error)})") from error
    with client:
        present = len(client.scheduler_info(n_workers=-1)["workers"])
        if not present:
            raise UsageError(f"--address {address}: the scheduler has no workers; start some with `dask worker`")
        count = min(workers or present, present)

        def work(plan_url: str, ranges: Sequence[Range]) -> Iterator[ShardCounts]:
            waiting, pending = list(reversed(ranges)), set[Any]()
            while waiting or pending:
                while waiting and len(pending) < count:
                    pending.add(client.submit(tag_range, plan_url, *waiting.pop(), pure=False))
                finished, pending = distributed.wait(pending, return_when="FIRST_COMPLETED")
                for future in finished:
                    try:
                        yield future.result()
                    except distributed.KilledWorker as error:
                        raise Lost(f"--runner dask: a task killed its workers ({first_line(error)})") from error

        yield count, work
