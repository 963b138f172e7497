"""Which failures of a task are worth another try."""

from typing import Any

from prefect.client.schemas import State

from tagger.errors import AccessDenied, SourceError, SourceNotFound, TaggerError, WriteError


def may_pass(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Tell whether waiting may help: a store that hiccups, a full disk, a crash; but no mistake in the arguments."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, SourceNotFound | AccessDenied):
        return False
    return not isinstance(error, TaggerError) or isinstance(error, SourceError | WriteError)
