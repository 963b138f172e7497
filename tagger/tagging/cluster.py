"""Run a saved plan on a Ray or Dask cluster, with one worker per machine; each task tags some shards.

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
from typing import Annotated, Any, Literal, TypeAlias

from tagger.errors import MissingExtra, TaggerError, UsageError, first_line
from tagger.options import Option
from tagger.tagging import run
from tagger.tagging.plan import Plan, load_plan, remove_plan, save_plan
from tagger.tagging.summary import ShardCounts

Runner: TypeAlias = Annotated[
    Literal["local", "ray", "dask"],
    Option("Where to run: this machine, or a cluster; --workers limits its concurrent tasks."),
]
Address: TypeAlias = Annotated[
    str | None, Option("HOST:PORT of the Ray cluster or Dask scheduler [default: start one on this machine].")
]
Shards: TypeAlias = tuple[int, ...]

PIECES_PER_WORKER = 8
"""Tasks per worker: enough for the last ones to end at nearly the same time."""
CONNECT_SECONDS = 20
STALL_SECONDS = 6 * 3600
"""Maximum time without a finished task: a cluster that has lost its machines would wait for new ones forever."""
_ATTEMPTS = 3
"""Retries of a task whose worker is lost."""


class Lost(TaggerError):
    """A task whose workers were lost each time."""


def tag_plan(plan: Plan, shards: Sequence[int], runner: Runner, address: str | None = None) -> ShardCounts:
    """Tag shards of a plan in a cluster; return their counts, with the wall time.

    Without an address, a cluster is started on this machine. The plan's `workers` limits the number of concurrent
    tasks. Raises UsageError if the cluster does not answer, MissingExtra without its package.
    """
    started = time.perf_counter()
    cluster = {"ray": _ray, "dask": _dask}[runner]
    total = ShardCounts()
    with cluster(address, plan.config.workers) as (count, work):
        url = save_plan(replace(plan, config=replace(plan.config, workers=None)))
        try:
            for counts in work(url, _cut(shards, max(1, count) * PIECES_PER_WORKER)):
                total += counts
        finally:
            remove_plan(url)
    return replace(total, seconds=time.perf_counter() - started, steady_seconds=0.0)


def _cut(shards: Sequence[int], most: int) -> list[Shards]:
    """Cut shards into at most `most` runs of nearly equal length."""
    count = min(len(shards), most)
    return [tuple(shards[len(shards) * i // count : len(shards) * (i + 1) // count]) for i in range(count)]


def tag_some(plan_url: str, shards: Shards) -> ShardCounts:
    """Tag some shards in a worker, which loads plan and models once."""
    return run.run_shards(_plan(plan_url), shards, _models())


@functools.lru_cache(1)
def _plan(url: str) -> Plan:
    return load_plan(url)


@functools.cache
def _models() -> run.Models:
    return run.Models()


def _first(finished: list[Any]) -> Any:
    """Return the first finished task; raises Lost if none finished in time."""
    if not finished:
        raise Lost(
            f"no task finished in {STALL_SECONDS // 3600} hours; check the workers of the cluster, and run again"
        )
    return finished[0]


def _check_reachable(address: str | None, what: str) -> None:
    """Raise UsageError if nothing listens at HOST:PORT; the clients would wait for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UsageError(f"--address {address}: no {what} responds ({error.strerror or error})") from error


def _package(name: str, runner: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(f"--runner {runner}", name, runner) from error


Work: TypeAlias = Callable[[str, Sequence[Shards]], Iterator[ShardCounts]]


@contextlib.contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[tuple[int, Work]]:
    """Connect to Ray; a task takes all CPUs of a machine."""
    ray = _package("ray", "ray")
    _check_reachable(address, "Ray cluster")
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"--address {address}: no Ray cluster responds ({first_line(error)})") from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        if not nodes:
            raise UsageError("--runner ray: no machine of the cluster has CPUs; start one with `ray start`")
        cpus = min(node["CPU"] for node in nodes)
        gpus = min(node.get("GPU", 0) for node in nodes)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_ATTEMPTS)(tag_some)
        count = min(workers or len(nodes), sum(int(node["CPU"] // cpus) for node in nodes))

        def work(plan_url: str, pieces: Sequence[Shards]) -> Iterator[ShardCounts]:
            waiting = list(reversed(pieces))
            pending: list[Any] = []
            while waiting or pending:
                while waiting and len(pending) < count:
                    pending.append(task.remote(plan_url, waiting.pop()))
                finished, pending = ray.wait(pending, num_returns=1, timeout=STALL_SECONDS)
                try:
                    yield ray.get(_first(finished))
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
    _check_reachable(address, "Dask scheduler")
    try:
        local: dict[str, Any] = (
            {} if address else {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        )
        client = distributed.Client(address, timeout=CONNECT_SECONDS, **local)
    except (OSError, ValueError) as error:
        raise UsageError(f"--address {address}: no Dask scheduler responds ({first_line(error)})") from error
    with client:
        present = len(client.scheduler_info(n_workers=-1)["workers"])
        if not present:
            raise UsageError(f"--address {address}: the scheduler has no workers; start some with `dask worker`")
        count = min(workers or present, present)

        def work(plan_url: str, pieces: Sequence[Shards]) -> Iterator[ShardCounts]:
            waiting, pending = list(reversed(pieces)), set[Any]()
            while waiting or pending:
                while waiting and len(pending) < count:
                    pending.add(client.submit(tag_some, plan_url, waiting.pop(), pure=False))
                try:
                    finished, pending = distributed.wait(pending, STALL_SECONDS, return_when="FIRST_COMPLETED")
                except TimeoutError:
                    finished = set()
                _first(list(finished))
                for future in finished:
                    try:
                        yield future.result()
                    except distributed.KilledWorker as error:
                        raise Lost(f"--runner dask: a task killed its workers ({first_line(error)})") from error

        yield count, work
