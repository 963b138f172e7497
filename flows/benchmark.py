"""Compare models on the same images, as a Prefect flow: `python -m flows.benchmark cifar10 --out REPORT`.

There is one task per model and seed. They run one after the other, as they train on the same cores. Finished models are
in the report's folder, so a retried task, and the flow after a kill, train only the missing ones.
"""

import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.states import Completed

from flows import command
from flows.names import run_name
from flows.progress import progress
from flows.retries import is_temporary
from tagger.benchmark import pages
from tagger.benchmark.config import BenchmarkConfig
from tagger.benchmark.run import Benchmark
from tagger.checkpoint.info import Json
from tagger.options import Cifar10, Images, ReportOut

DEFAULTS = BenchmarkConfig()


@task(persist_result=False, cache_policy=NO_CACHE)
def plan_models(run: Benchmark) -> list[tuple[str, int]]:
    """Read the images and return the models and seeds to train."""
    return run.missing()


@task(
    retries=1,
    retry_delay_seconds=30,
    retry_condition_fn=is_temporary,
    persist_result=False,
    cache_policy=NO_CACHE,
    task_run_name="{model}-{seed}",
)
def train_model(run: Benchmark, model: str, seed: int, later: list[tuple[str, int]]) -> float:
    """Train one model with one seed and return its accuracy on the test images."""
    with progress(f"training {model}, seed {seed}"):
        return float(run.train(model, seed, later)["accuracy"])


@task(persist_result=False, cache_policy=NO_CACHE)
def report(run: Benchmark) -> list[Json]:
    """Write the report and create an artifact from it."""
    rows = run.finish()
    create_markdown_artifact(pages.markdown(run.out), key="benchmark")
    return rows


@flow(name="benchmark", flow_run_name=run_name, persist_result=False, log_prints=True)
def benchmark(
    dataset: Images,
    out: ReportOut,
    options: BenchmarkConfig = DEFAULTS,
    data: Cifar10 = None,
) -> State[list[Json]]:
    """Train models of increasing cost on the same images, CIFAR-10 or your own, and compare them."""
    run = Benchmark(dataset, out, options, data, print)
    missing = plan_models(run)
    states = {pair: train_model(run, *pair, missing[k:], return_state=True) for k, pair in enumerate(missing, 1)}
    rows = report(run)
    failed = {pair: state for pair, state in states.items() if not state.is_completed()}
    run.check_failures({pair: state.result(raise_on_failure=False) for pair, state in failed.items()})
    means = pd.DataFrame(rows).groupby("model")["accuracy"].mean()
    message = f"{len(means)} models; best: {means.idxmax()} {means.max():.2%} of the test images"
    return Completed(message=message, data=rows)


if __name__ == "__main__":
    command.main(benchmark)
