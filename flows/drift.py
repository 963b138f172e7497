"""Compare two periods of a results table, as a Prefect flow: `python -m flows.drift RESULTS --fail-over 0.1`."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows import command
from flows.names import links, run_name
from flows.progress import progress
from flows.retries import retried
from tagger import options
from tagger.errors import UsageError
from tagger.reporting import drift_report
from tagger.tagging.drift import LIMIT, Drift


def _compare(
    results: str, out: str, reference: str | None, current: str | None, model: str | None, limit: float
) -> Drift:
    """Write the page, create an artifact without its images, and log a warning if there is drift."""
    with progress(f"comparing two periods of {results}"):
        found = drift_report.write(results, out, reference, current, model, limit)
    create_markdown_artifact(drift_report.text(found), key="drift", description=links(page=out, results=results))
    if found.drifted:
        get_run_logger().warning(drift_report.summary(found))
    return found


@retried(task_run_name="drift")
def compare_periods(
    results: str, out: str, reference: str | None, current: str | None, model: str | None, limit: float
) -> Drift:
    """Compare the two given periods."""
    return _compare(results, out, reference, current, model, limit)


@retried(task_run_name="drift")
def compare_last_run(results: str, out: str, limit: float) -> Drift | None:
    """Compare the last run with all earlier ones; return None if there are none, as after the first night."""
    try:
        return _compare(results, out, None, None, None, limit)
    except UsageError as nothing:
        get_run_logger().info(str(nothing))
        return None


@flow(name="drift", flow_run_name=run_name, persist_result=False)
def drift(
    results: options.Results,
    reference: options.Reference = None,
    current: options.Current = None,
    out: options.DriftPage = "drift.html",
    model: options.OneModel = None,
    fail_over: options.FailOver = None,
) -> State[dict[str, Any]]:
    """Compare two periods of a results table: scores, tags, failures, formats, sizes, embeddings."""
    found = compare_periods(results, out, reference, current, model, LIMIT if fail_over is None else fail_over)
    if fail_over is not None:
        found.check()
    return Completed(message=f"{drift_report.summary(found)} Page: {out}", data=found.to_dict())


if __name__ == "__main__":
    command.main(drift)
