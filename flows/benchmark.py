"""Climb the ladder of models, as a Prefect flow: `python -m flows.benchmark cifar10 --out REPORT`.

One task per model and seed, one after the other: they learn on the same cores. What is done lies in the report's
folder, so a retried task, and the flow after a kill, train only what is missing.
"""

from statistics import mean
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.states import Completed

from flows import command
from flows.retries import may_pass
from tagger import benchmark as ladder
from tagger.benchmark import Climb, LadderConfig

DEFAULTS = LadderConfig()


@task(persist_result=False)
def plan_models(climb: Climb) -> list[tuple[str, int]]:
    """Return the models and seeds that are missing."""
    return ladder.plan(climb, print)


@task(
    retries=1, retry_delay_seconds=30, retry_condition_fn=may_pass, persist_result=False, task_run_name="{model}-{seed}"
)
def train_model(climb: Climb, model: str, seed: int) -> float:
    """Train one model with one seed; return its accuracy on the test images."""
    return float(ladder.run_one(climb, model, seed, print)["accuracy"])


@task(persist_result=False)
def report(climb: Climb) -> list[dict[str, Any]]:
    """Write the report, and leave its Markdown as an artifact."""
    rows = ladder.finish(climb, print)
    create_markdown_artifact(ladder.markdown(climb.out), key="benchmark")
    return rows


@flow(name="benchmark", persist_result=False, log_prints=True)
def benchmark(dataset: str, out: str, options: LadderConfig = DEFAULTS, data: str | None = None) -> State[Any]:
    """Train models of rising cost on the same images, CIFAR-10 or your own, and compare them."""
    climb = Climb(dataset, out, options, data)
    missing = plan_models(climb)
    states = [train_model(climb, model, seed, return_state=True) for model, seed in missing]
    rows = report(climb)
    failed = {
        pair: state.result(raise_on_failure=False)
        for pair, state in zip(missing, states, strict=True)
        if not state.is_completed()
    }
    ladder.check_failures(climb, failed)
    means = {row["model"]: mean(each["accuracy"] for each in rows if each["model"] == row["model"]) for row in rows}
    best = max(means, key=means.__getitem__)
    return Completed(message=f"{len(means)} models; best: {best} {means[best]:.2%} of the test images", data=rows)


def main() -> None:
    """Parse the command line and run the flow."""
    parser = command.parser("benchmark", benchmark.__doc__, "benchmark ladder")
    parser.add_argument("dataset", help="cifar10, or a manifest with labels or a folder of labelled images")
    parser.add_argument("--out", required=True, help="folder for the report and every model")
    parser.add_argument("--data", help="where CIFAR-10 is: archive or folder; else it is downloaded")
    build = command.add_options(parser, LadderConfig)
    parsed = parser.parse_args()
    arguments = {"dataset": parsed.dataset, "out": parsed.out, "options": build(parsed), "data": parsed.data}
    command.run(benchmark, arguments)


if __name__ == "__main__":
    main()
