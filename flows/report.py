"""Write the report of a results table, as a Prefect flow: `python -m flows.report RESULTS`."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.states import Completed

from flows import command
from flows.names import links, run_name
from flows.progress import progress
from flows.retries import retried
from tagger import options
from tagger.reporting import results_report


@retried(task_run_name="report")
def write_report(results: str, out: str, model: str | None, checkpoints: str, thumbnails: int) -> str:
    """Write the page, create an artifact without its images, and return the summary."""
    with progress(f"writing the report of {results}"):
        found = results_report.write(results, out, model, checkpoints, thumbnails)
    create_markdown_artifact(results_report.text(found), key="report", description=links(page=out, results=results))
    return results_report.summary(found)


@flow(name="report", flow_run_name=run_name, persist_result=False)
def report(
    results: options.Results,
    out: options.ReportPage = "report.html",
    model: options.OneModel = None,
    checkpoints: options.Checkpoints = "checkpoints",
    thumbnails: options.Thumbnails = 200,
) -> State[str]:
    """Write a page about a results table: tags with scores and images, failures, duplicates, changes."""
    summary = write_report(results, out, model, checkpoints, thumbnails)
    return Completed(message=f"{summary} Report: {out}", data=summary)


if __name__ == "__main__":
    command.main(report)
