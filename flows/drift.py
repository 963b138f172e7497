"""Compare two periods of a results table, as a Prefect flow: `python -m flows.drift RESULTS --fail-over 0.1`."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.states import Completed

from flows import command
from flows.retries import retried
from tagger import options
from tagger.reporting import drift_report
from tagger.tagging.drift import LIMIT, Drift


@retried()
def compare_periods(
    results: str, out: str, reference: str | None, current: str | None, model: str | None, limit: float
) -> Drift:
    """Write page and figures, create an artifact without images."""
    found = drift_report.write(results, out, reference, current, model, limit)
    create_markdown_artifact(drift_report.text(found), key="drift")
    return found


@flow(name="drift", persist_result=False)
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
