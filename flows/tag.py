"""Tag a source, as a Prefect flow: `python -m flows.tag SOURCE --out RESULTS`.

A run has one plan, at most 16 tasks with a share of the shards each, and one report. The results table records what is
done: a retried task, a rerun after a kill and the next nightly run only do what is missing. The tasks run in the main
thread, one after the other, so that a cancellation or --max-hours interrupts them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, TypeAlias

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.logging import get_run_logger
from prefect.states import Completed
from prefect.utilities.timeout import timeout
from pydantic import Field

from flows import command
from flows.names import links, run_name
from flows.progress import progress
from flows.retries import retried
from tagger.options import IMAGENET, Models, Option, ResultsOut, Source
from tagger.redaction import visible
from tagger.reporting import run_report
from tagger.tagging import cluster, run
from tagger.tagging.cluster import Address, Runner
from tagger.tagging.config import TagConfig
from tagger.tagging.summary import ShardCounts, Summary

MAX_TASKS = 16
DEFAULTS = TagConfig()
SomeModels: TypeAlias = Annotated[Models, Field(min_length=1)]
Hours: TypeAlias = Annotated[
    float | None, Option("Stop the run as failed after this many hours; the next run continues.", gt=0)
]


@retried(task_run_name="plan")
def plan_shards(source: str, model: str | list[str], out: str, options: TagConfig) -> run.Work:
    """Plan the run and return its work. A source without files is an error, unless --min-files is 0."""
    options = replace(options, min_files=1 if options.min_files is None else options.min_files)
    with progress(f"listing {source}") as show:
        found = run.prepare_share(
            source, model, out, options, lambda found: show(f"listing and planning: {found:,} files found")
        )
    work = run.Work(*found)
    get_run_logger().info(visible(work.plan.text()))
    return work


@retried(task_run_name="tag-shards-{number}-of-{tasks}")
def tag_shards(work: run.Work, number: int, tasks: int, before: int) -> ShardCounts:
    """Tag a share of the remaining shards; a retry tags the rest of the share, and counts what is already written."""
    names, total = ", ".join(target.name for target in work.plan.targets), len(work.plan.entries)

    def on_progress(now: run.Progress) -> None:
        show(f"{before + now.done:,} of {total:,} files done, {now.failed:,} failed in this task")

    with progress(f"loading {names}" if number == 1 else f"{before:,} of {total:,} files done") as show:
        return work.run(at_most=-(-len(work.shards) // tasks), on_progress=on_progress)


@retried(task_run_name="tag-on-{runner}")
def tag_on_cluster(work: run.Work, runner: Runner, address: str | None) -> ShardCounts:
    """Tag all shards on a cluster; a retry tags only those without a part file."""
    with progress(f"tagging {len(work.plan.entries):,} files on {runner}"):
        return cluster.tag_plan(work.plan, work.shards, runner, address)


@task(persist_result=False, cache_policy=NO_CACHE, task_run_name="sum-up")
def sum_up(work: run.Work, counts: list[ShardCounts], failed: bool) -> Summary:
    """Add up the counts of the tasks, and create an artifact."""
    summary = run.finish(work.plan, sum(counts, ShardCounts()), done=[] if failed else work.shards)
    get_run_logger().info(visible(summary.text()))
    create_markdown_artifact(
        run_report.markdown(summary), key="tag", description=links(source=work.plan.source, results=work.plan.out)
    )
    return summary


def tag_source(
    source: str, model: list[str], out: str, options: TagConfig, runner: Runner, address: str | None
) -> Summary:
    """Plan, tag and write the summary; then raise the error of a failed task, if any."""
    work = plan_shards(source, model, out, options)
    states: list[State[ShardCounts]] = []
    counts: list[ShardCounts] = []
    tasks = min(len(work.shards), MAX_TASKS if runner == "local" else 1)
    for number in range(1, tasks + 1):
        if runner == "local":
            before = sum(each.files for each in counts)
            states.append(tag_shards(work, number, tasks, before, return_state=True))
        else:
            states.append(tag_on_cluster(work, runner, address, return_state=True))
        counts += [states[-1].result()] if states[-1].is_completed() else []
    summary = sum_up(work, counts, len(counts) < tasks)
    for state in states:
        state.result()
    return summary


@contextmanager
def at_most(hours: float | None) -> Iterator[None]:
    """Raise TimeoutError in a `with` block that takes longer; Prefect then marks the run as TimedOut."""
    with timeout(hours and hours * 3600):
        yield


@flow(name="tag", flow_run_name=run_name, persist_result=False)
def tag(
    source: Source,
    out: ResultsOut,
    model: SomeModels = (IMAGENET,),  # type: ignore[assignment]
    options: TagConfig = DEFAULTS,
    runner: Runner = "local",
    address: Address = None,
    max_hours: Hours = None,
) -> State[dict[str, object]]:
    """Tag every image of a source whose row is missing or out of date: one Parquet row per file and model."""
    with at_most(max_hours):
        summary = tag_source(source, model, out, options, runner, address)
    summary.check_failures()
    return Completed(message=summary.text(), data=summary.to_dict())


if __name__ == "__main__":
    command.main(tag)
