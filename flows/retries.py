"""Tasks that are retried after failures that may be temporary."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State

from tagger.errors import AccessDenied, SourceError, SourceNotFound, TaggerError, WriteError

P = ParamSpec("P")
R = TypeVar("R")

DELAYS: list[float] = [30, 120]
"""Seconds before each retry; a random jitter of up to 100% is added, so that runs do not retry at the same time."""


def is_temporary(task: object, task_run: object, state: State[object]) -> bool:
    """Return whether a retry may help: after a storage error, a full disk or a crash, but not with wrong arguments."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, SourceNotFound | AccessDenied):
        return False
    return not isinstance(error, TaggerError) or isinstance(error, SourceError | WriteError)


def retried(task_run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return Prefect's `task` decorator, with retries."""
    return task(
        retries=len(DELAYS),
        retry_delay_seconds=DELAYS,
        retry_jitter_factor=1,
        retry_condition_fn=is_temporary,
        persist_result=False,
        cache_policy=NO_CACHE,
        task_run_name=task_run_name,
    )
