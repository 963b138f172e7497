"""Tag a source, as a Prefect flow: `python -m flows.tag SOURCE --model MODEL --out RESULTS`.

One plan, at most 16 tasks with a share of the shards each, and one report. The results table decides what is done: a
retried task, a rerun after a kill and the next nightly run only do what is missing.
"""

from typing import Annotated

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.futures import wait
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import command
from flows.retries import retried
from tagger.options import Models, ResultsOut, Source
from tagger.tagging import cluster, run
from tagger.tagging.cluster import Address, Runner
from tagger.tagging.config import TagConfig
from tagger.tagging.summary import ShardCounts, Summary

MAX_TASKS = 16
DEFAULTS = TagConfig()


@retried()
def plan_shards(source: str, model: str | list[str], out: str, options: TagConfig) -> run.Work:
    """Plan the run; return the work that it is."""
    return run.Work(*run.prepare_share(source, model, out, options))


@retried(task_run_name="tag-shards-{number}-of-{tasks}")
def tag_shards(work: run.Work, number: int, tasks: int) -> ShardCounts:
    """Tag a share of the shards that are left; a retry does the rest of the share, and counts what was written."""
    return work.run(at_most=-(-len(work.shards) // tasks))


@retried(task_run_name="tag-on-{runner}")
def tag_on_cluster(work: run.Work, runner: Runner, address: str | None) -> ShardCounts:
    """Tag all shards in a cluster; a retry does only those without a part file."""
    return cluster.tag_plan(work.plan, work.shards, runner, address)


@task(persist_result=False, cache_policy=NO_CACHE)
def report(work: run.Work, counts: list[ShardCounts], failed: bool) -> Summary:
    """Sum up the tasks, create an artifact."""
    summary = run.finish(work.plan, sum(counts, ShardCounts()), done=[] if failed else work.shards)
    create_markdown_artifact(summary.markdown(), key="tag")
    return summary


@flow(name="tag", task_runner=ThreadPoolTaskRunner(max_workers=1), persist_result=False)  # type: ignore[arg-type]
def tag(
    source: Source,
    model: Annotated[Models, Field(min_length=1)],
    out: ResultsOut,
    options: TagConfig = DEFAULTS,
    runner: Runner = "local",
    address: Address = None,
) -> State[dict[str, object]]:
    """Tag every image of a source whose row is missing or out of date: one Parquet row per file and model."""
    work = plan_shards(source, model, out, options)
    if runner == "local":
        tasks = min(len(work.shards), MAX_TASKS)
        futures = [tag_shards.submit(work, number, tasks) for number in range(1, tasks + 1)]
    else:
        tasks = min(len(work.shards), 1)
        futures = [tag_on_cluster.submit(work, runner, address) for _ in range(tasks)]
    wait(futures)
    finished = [future.result() for future in futures if future.state.is_completed()]
    summary = report(work, finished, len(finished) < tasks)
    for future in futures:
        future.result()  # raises the error of a task that failed, after the report counted the others
    summary.check_failures()
    return Completed(message=summary.text(), data=summary.to_dict())


if __name__ == "__main__":
    command.main(tag)
