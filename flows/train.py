"""Train a checkpoint, as a Prefect flow: `python -m flows.train DATASET --out checkpoints/NAME`."""

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.runtime import task_run
from prefect.states import Completed

from flows import command
from flows.names import run_name
from flows.progress import progress
from flows.retries import retried
from tagger import storage
from tagger.options import CheckpointOut, Dataset, Resume
from tagger.training import train as training
from tagger.training.config import TrainConfig
from tagger.training.data import Callbacks

DEFAULTS = TrainConfig()


@retried(task_run_name="train")
def train_checkpoint(dataset: str, out: str, options: TrainConfig, resume: bool) -> dict[str, object]:
    """Train, write the checkpoint folder and return its id and metrics."""
    unfinished = storage.join(storage.absolute(out), training.UNFINISHED)
    retried = (task_run.run_count or 1) > 1 and storage.exists(unfinished)
    with progress(f"training on {dataset}") as show:
        callbacks = Callbacks(
            say=print,
            on_progress=lambda step, done, total: show(f"{step}: {done:,} of {total:,}"),
            on_epoch=lambda epoch: print(epoch.text()),
        )
        info = training.train(dataset, out, options, resume or retried, callbacks)
    return {"out": out, "model_id": info.model_id, "metrics": info.metrics}


@task(persist_result=False)
def report(out: str) -> None:
    """Create an artifact from the model card."""
    card = storage.read_bytes(storage.join(storage.absolute(out), "README.md")).decode()
    text = card.split("\n---\n", 1)[-1]  # without the front matter
    create_markdown_artifact("\n".join(line for line in text.splitlines() if not line.startswith("![")), key="train")


@flow(name="train", flow_run_name=run_name, persist_result=False, log_prints=True)
def train(
    dataset: Dataset,
    out: CheckpointOut,
    options: TrainConfig = DEFAULTS,
    resume: Resume = False,
) -> State[dict[str, object]]:
    """Train on the labels of a dataset and write a checkpoint with thresholds, metrics and a model card."""
    found = train_checkpoint(dataset, out, options, resume)
    report(out)
    return Completed(message=f"checkpoint: {out}", data=found)


if __name__ == "__main__":
    command.main(train)
