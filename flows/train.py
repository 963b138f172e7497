"""Learn labels, as a Prefect flow: `python -m flows.train DATASET --out checkpoints/NAME`."""

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.runtime import task_run
from prefect.states import Completed

from flows import command
from flows.retries import may_pass
from tagger import storage
from tagger.training import Reports, TrainConfig
from tagger.training import train as train_checkpoint
from tagger.training.learning import UNFINISHED

DEFAULTS = TrainConfig()


@task(retries=2, retry_delay_seconds=30, retry_condition_fn=may_pass, persist_result=False)
def learn(dataset: str, out: str, options: TrainConfig, resume: bool) -> dict[str, Any]:
    """Train and write the checkpoint folder; return its id and numbers."""
    retried = (task_run.run_count or 1) > 1 and storage.exists(storage.join(storage.absolute(out), UNFINISHED))
    info = train_checkpoint(dataset, out, options, resume or retried, Reports(say=print))
    return {"out": out, "model_id": info.model_id, "metrics": info.metrics}


@task(persist_result=False)
def report(out: str) -> None:
    """Leave the model card as an artifact."""
    card = storage.read_bytes(storage.join(storage.absolute(out), "README.md")).decode()
    text = "\n".join(line for line in card.splitlines() if not line.startswith("!["))
    create_markdown_artifact(text, key="train")


@flow(name="train", persist_result=False, log_prints=True)
def train(dataset: str, out: str, options: TrainConfig = DEFAULTS, resume: bool = False) -> State[dict[str, Any]]:
    """Learn the labels of a dataset and write a checkpoint folder with thresholds, numbers and a model card."""
    found = learn(dataset, out, options, resume)
    report(out)
    return Completed(message=f"checkpoint: {out}", data=found)


def main() -> None:
    """Parse the command line and run the flow."""
    parser = command.parser("train", train.__doc__)
    parser.add_argument("dataset", help="manifest with labels, or a folder of labelled images")
    parser.add_argument("--out", required=True, help="checkpoint folder to write")
    parser.add_argument("--resume", action="store_true", help="go on with a training that was interrupted")
    build = command.add_options(parser, TrainConfig)
    parsed = parser.parse_args()
    arguments = {"dataset": parsed.dataset, "out": parsed.out, "options": build(parsed), "resume": parsed.resume}
    command.run(train, arguments)


if __name__ == "__main__":
    main()
