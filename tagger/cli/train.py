"""`train`, `evaluate`, `calibrate`, `tune`: from labels to a checkpoint and its metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tagger.cli.app import Json, Quiet, app
from tagger.cli.printing import headline, print_json, print_table, progress, say, show
from tagger.options import CheckpointOut, Dataset, Device, Resume, expand
from tagger.training.config import TrainConfig

if TYPE_CHECKING:
    from tagger.checkpoint import info
    from tagger.evaluation.metrics import Evaluation
    from tagger.training.data import Callbacks


@app.command(epilog="Example: tagger train dataset.parquet --out checkpoints/bees --backbone timm/resnet50.a1_in1k")
@expand
def train(
    dataset: Dataset,
    out: CheckpointOut,
    config: TrainConfig,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train on labelled images and write a checkpoint.

    The checkpoint includes thresholds, metrics and a model card.
    """
    from tagger import hardware
    from tagger.training import launch
    from tagger.training.train import train

    hardware.keep_freed_memory()
    config = replace(config, gpus=launch.torchrun_gpus(config.gpus))
    if launch.follows():
        launch.follow()
        return
    with _callbacks(quiet or as_json) as callbacks:
        info = train(dataset, out, config, resume, callbacks)
    if as_json:
        print_json({"out": out, "model_id": info.model_id, "metrics": info.metrics})
    elif not quiet:
        show(f"{headline(info.metrics)}\ncheckpoint: {out} (card: {out}/README.md)")


@app.command(epilog="Example: tagger evaluate checkpoints/bees dataset.parquet --split test")
@expand
def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or URL, timm/NAME, or local-dir:FOLDER.")],
    dataset: Dataset,
    split: Annotated[Literal["train", "val", "test", "all"], typer.Option(help="Images to evaluate on.")] = "test",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate a checkpoint on labelled images."""
    from tagger.evaluation.evaluate import evaluate

    with progress(as_json) as show_step:
        show_step("evaluating", 0)
        found = evaluate(model, dataset, split, device)
    if as_json:
        print_json({"model": found.model.name, "split": split, "notes": found.notes, **asdict(found.evaluation)})
        return
    _print_evaluation(found.evaluation)
    for note in found.notes:
        show(f"note: {note}")


@app.command(epilog="Example: tagger calibrate checkpoints/bees dataset.parquet")
@expand
def calibrate(
    model: Annotated[str, typer.Argument(help="Checkpoint folder, which is changed.")],
    dataset: Dataset,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Add detection of unknown images to a checkpoint.

    DATASET has the images it was trained on. Scores do not change.
    """
    from tagger.evaluation.unknown import calibrate

    with progress(as_json) as show_step:
        show_step("comparing images", 0)
        info = calibrate(model, dataset, device)
    assert info.statistics
    if as_json:
        print_json({"model": info.name, "model_id": info.model_id, "unknown": info.statistics.entry()})
        return
    show(f"{model}: {len(info.statistics.examples):,} training images stored; unknown from {info.statistics.cut:.3f}")


@app.command(epilog="Example: tagger tune dataset.parquet --out checkpoints/bees --trials 20 --timeout 60")
@expand
def tune(
    dataset: Dataset,
    out: CheckpointOut,
    config: TrainConfig,
    trials: Annotated[int, typer.Option(min=1, help="Total number of trials, including earlier ones.")] = 20,
    timeout: Annotated[
        float | None, typer.Option(help="Time limit in minutes, after which no trial is started.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search hyperparameters, then train with the best.

    Trials are compared on the validation images. Run the command again to continue.
    """
    from tagger import hardware
    from tagger.training.tune import tune

    hardware.keep_freed_memory()
    with _callbacks(quiet or as_json) as callbacks:
        found = tune(dataset, out, config, trials, timeout, callbacks)
    if as_json:
        print_json({"out": out, "best": found.best, "trials": found.trials, "metrics": found.info.metrics})
    elif not quiet:
        print_table(["trial", "state", "validation", "options"], [_trial_row(trial) for trial in found.trials])
        show(f"{headline(found.info.metrics)}\ncheckpoint: {out}")


@contextlib.contextmanager
def _callbacks(silent: bool) -> Iterator[Callbacks]:
    """Report progress on stderr."""
    from tagger.training.data import Callbacks

    with progress(silent) as show_step:
        show_step("reading the dataset", 0)
        yield Callbacks() if silent else Callbacks(say, show_step, lambda epoch: say(epoch.text()))


def _print_evaluation(found: Evaluation) -> None:
    names = ["tag", "images", "tagged", "precision", "recall", "average precision", "threshold"]
    rows = [
        [tag.tag, tag.images, tag.predicted, _share(tag.precision), _share(tag.recall), _share(tag.average_precision),
         "best" if tag.threshold is None else f"{tag.threshold:.3f}"]
        for tag in found.tags
        if tag.images or tag.predicted
    ]  # fmt: skip
    print_table(names, rows)
    if others := len(found.tags) - len(rows):
        show(f"not listed: {others:,} tags without labelled or tagged images")
    show(headline({"": asdict(found)}))
    show(f"log-loss {found.log_loss or 0:.3f}, calibration error {found.calibration_error or 0:.3f}")


def _trial_row(trial: info.Json) -> list[object]:
    from tagger.training.tune import words

    options = {name: value for name, value in trial.items() if name not in ("number", "state", "value")}
    return [trial["number"], trial["state"], _share(trial["value"]), words(options)]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
