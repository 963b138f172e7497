"""Failures of a task that are worth a retry."""

from prefect.client.schemas import State

from tagger.errors import AccessDenied, SourceError, SourceNotFound, TaggerError, WriteError


def may_pass(task: object, task_run: object, state: State[object]) -> bool:
    """Return whether a retry may help: after a storage error, a full disk or a crash, but not for wrong arguments."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, SourceNotFound | AccessDenied):
        return False
    return not isinstance(error, TaggerError) or isinstance(error, SourceError | WriteError)
