"""Tag a source, then write the report and drift pages, as a Prefect flow: `python -m flows.nightly SOURCE ...`.

At most 20 task runs, whatever the number of images: 18 as in flows.tag, the report, and drift.
"""

from typing import Annotated, Literal

from prefect import flow
from prefect.client.schemas import State
from prefect.states import Completed

from flows import command
from flows.drift import compare_last_run
from flows.names import run_name
from flows.report import write_report
from flows.tag import DEFAULTS, Hours, SomeModels, at_most, tag_source
from tagger import options as shared
from tagger import storage
from tagger.options import Option
from tagger.reporting import drift_report
from tagger.tagging.cluster import Address, Runner
from tagger.tagging.config import TagConfig
from tagger.tagging.drift import LIMIT

PAGES = "_reports"
"""Folder of the pages, in the results folder."""


@flow(name="nightly", flow_run_name=run_name, persist_result=False)
def nightly(
    source: shared.Source,
    out: shared.ResultsOut,
    model: SomeModels = (shared.IMAGENET,),  # type: ignore[assignment]
    options: TagConfig = DEFAULTS,
    runner: Runner = "local",
    address: Address = None,
    max_hours: Hours = None,
    checkpoints: shared.Checkpoints = "checkpoints",
    thumbnails: shared.Thumbnails = 200,
    drift_limit: Annotated[float, Option("Effect size above which a figure counts as drift.", ge=0, le=1)] = LIMIT,
    on_drift: Annotated[Literal["warn", "fail"], Option("On drift, log a warning or fail the run.")] = "warn",
) -> State[dict[str, object]]:
    """Tag new and changed images, then write a report of the table and a comparison of this run with earlier ones."""
    with at_most(max_hours):
        summary = tag_source(source, model, out, options, runner, address)
        write_report(out, storage.join(out, f"{PAGES}/report.html"), None, checkpoints, thumbnails)
        found = compare_last_run(out, storage.join(out, f"{PAGES}/drift.html"), drift_limit)
    summary.check_failures()
    if found and on_drift == "fail":
        found.check()
    message = drift_report.summary(found) if found else "Drift: no earlier run to compare with."
    return Completed(message=f"{summary.text()}\n{message}", data=summary.to_dict())


if __name__ == "__main__":
    command.main(nightly)
