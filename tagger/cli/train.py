"""`train`, `evaluate`, `tune`: from labels to a checkpoint and its numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tagger.cli.app import app
from tagger.cli.options import Device, Json, Quiet
from tagger.cli.printing import headline, print_json, print_table, say, step_progress
from tagger.errors import UsageError

if TYPE_CHECKING:
    from tagger.evaluation.metrics import Evaluation
    from tagger.training import Epoch, Reports, TrainConfig

Dataset = Annotated[str, typer.Argument(help="Manifest with labels (`tagger ingest`), or a folder of labelled images.")]
Out = Annotated[str, typer.Option(help="Checkpoint folder to write; new or empty.")]
Backbone = Annotated[str, typer.Option(help="timm/NAME, or local-dir:FOLDER in timm's layout.")]
Multilabel = Annotated[bool, typer.Option("--multilabel", help="An image may have several labels, or none.")]
ImageSize = Annotated[int | None, typer.Option(min=16, help="Side in pixels; by default the backbone's (scratch: 32).")]
Fit = Annotated[
    Literal["crop", "letterbox", "squash"],
    typer.Option(help="Crop the centre, letterbox the whole picture, or squash it."),
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Passes over the training images; by default 18 (scratch: 14).")
]
Batch = Annotated[int | None, typer.Option(min=1, help="Images per step; by default 32 (scratch: 512).")]
Method = Annotated[
    Literal["auto", "probe", "finetune", "knn", "scratch"],
    typer.Option(
        help="probe (a linear head on frozen features, seconds), finetune (the whole network), auto (both when "
        "time allows, the better is kept), knn (the nearest labelled images by frozen features vote), or scratch (a "
        "small net of our own from nothing)."
    ),
]
Seed = Annotated[int, typer.Option(help="Same seed, same CPU: the same checkpoint.")]
Target = Annotated[float, typer.Option(help="Precision that every tag's threshold is to reach.")]


@app.command(epilog="Example: tagger train dataset.parquet --out checkpoints/bees --backbone timm/resnet50.a1_in1k")
def train(
    dataset: Dataset,
    out: Out,
    backbone: Backbone = "timm/mobilenetv3_large_100.ra_in1k",
    method: Method = "auto",
    multilabel: Multilabel = False,
    image_size: ImageSize = None,
    fit: Fit = "crop",
    epochs: Epochs = None,
    batch_size: Batch = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches per optimizer step.")] = 1,
    optimizer: Annotated[Literal["adamw", "sgd"], typer.Option(help="How weights are changed.")] = "adamw",
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-4,
    schedule: Annotated[str, typer.Option(help="cosine, or rates with epochs each: 0.01x10,0.001x5.")] = "cosine",
    warmup_epochs: Annotated[float, typer.Option(help="Epochs in which a cosine's rate rises.")] = 1.0,
    momentum: Annotated[float, typer.Option(help="Of sgd.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="L2, as the optimizer means it.")] = 0.05,
    l1: Annotated[float, typer.Option(help="Penalty on absolute weights.")] = 0.0,
    layer_decay: Annotated[float, typer.Option(help="Rate of a block, as a share of the next one's.")] = 1.0,
    dropout: Annotated[float, typer.Option(help="Before the head.")] = 0.0,
    drop_path: Annotated[float, typer.Option(help="Stochastic depth.")] = 0.0,
    label_smoothing: Annotated[
        float, typer.Option(help="Share of a label given to the others; not with --multilabel.")
    ] = 0.1,
    augment: Annotated[str, typer.Option(help="timm's RandAugment, or none.")] = "rand-m5-mstd0.5",
    crop_scale: Annotated[float, typer.Option(help="Least share of a picture that a training crop shows.")] = 0.5,
    hflip: Annotated[float, typer.Option(help="Share of pictures mirrored; 0 where left and right matter.")] = 0.5,
    mixup: Annotated[float, typer.Option(help="Strength; 0: none.")] = 0.0,
    cutmix: Annotated[float, typer.Option(help="Strength; 0: none.")] = 0.0,
    ema: Annotated[float, typer.Option(help="Decay of an average of the weights; 0: none.")] = 0.99,
    clip: Annotated[float, typer.Option(help="Largest gradient norm; 0: any.")] = 1.0,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without better validation before it stops.")] = 10,
    freeze_norms: Annotated[bool, typer.Option(help="Keep the backbone's batch-norm statistics.")] = True,
    class_weights: Annotated[bool, typer.Option("--class-weights", help="Rare labels count more.")] = False,
    precision_target: Target = 0.9,
    budget_minutes: Annotated[float, typer.Option(help="On a CPU, auto fine-tunes only if it takes no longer.")] = 10.0,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was interrupted.")] = False,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn the labels of a dataset and write a checkpoint folder with thresholds, numbers and a model card."""
    given = {name: value for name, value in locals().items() if value is not None}
    if method == "scratch":
        _train_from_scratch(given)
        return
    from tagger import training

    silent = quiet or as_json
    with _reports(silent) as reports:
        info = training.train(dataset, out, _config(given), resume, reports)
    if as_json:
        print_json({"out": out, "model_id": info.model_id, "metrics": info.metrics})
    elif not quiet:
        typer.echo(f"{headline(info.metrics)}\ncheckpoint: {out} (README.md is its card)")


@app.command(epilog="Example: tagger evaluate checkpoints/bees dataset.parquet --split test")
def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or URL, timm/NAME, or local-dir:FOLDER.")],
    dataset: Dataset,
    split: Annotated[Literal["train", "val", "test", "all"], typer.Option(help="Which images.")] = "test",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Judge a checkpoint on labelled images: the numbers of its card, or of new images."""
    from tagger import training

    found = training.evaluate(model, dataset, split, device)
    if as_json:
        print_json({"model": found.model.name, "split": split, "notes": found.notes, **asdict(found.evaluation)})
        return
    _print_evaluation(found.evaluation)
    for note in found.notes:
        typer.echo(f"note: {note}")


@app.command(epilog="Example: tagger tune dataset.parquet --out checkpoints/bees --trials 20 --timeout 60")
def tune(
    dataset: Dataset,
    out: Out,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier calls included.")] = 20,
    timeout: Annotated[float | None, typer.Option(help="Minutes after which no trial begins.")] = None,
    backbone: Backbone = "timm/mobilenetv3_large_100.ra_in1k",
    multilabel: Multilabel = False,
    image_size: ImageSize = None,
    fit: Fit = "crop",
    epochs: Epochs = None,
    precision_target: Target = 0.9,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try options on the validation images, then train with the best; called again, it goes on."""
    given = {name: value for name, value in locals().items() if value is not None}
    from tagger import training

    silent = quiet or as_json
    with _reports(silent) as reports:
        found = training.tune(dataset, out, _config(given), trials, timeout, reports)
    if as_json:
        print_json({"out": out, "best": found.best, "trials": found.trials, "metrics": found.info.metrics})
    elif not quiet:
        print_table(["trial", "state", "validation", "options"], [_trial_row(trial) for trial in found.trials])
        typer.echo(f"{headline(found.info.metrics)}\ncheckpoint: {out}")


def _config(given: dict[str, Any]) -> TrainConfig:
    from tagger.training import TrainConfig

    return TrainConfig(**{field.name: given[field.name] for field in fields(TrainConfig) if field.name in given})


def _train_from_scratch(given: dict[str, Any]) -> None:
    from tagger import training

    known = {field.name for field in fields(training.ScratchConfig)}
    defaults = {field.name: field.default for field in fields(training.TrainConfig)} | {"resume": False}
    strange = [
        name for name in defaults.keys() - known - {"method", "device"} if given.get(name) not in (None, defaults[name])
    ]
    if strange:
        listed = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in strange))
        raise UsageError(
            f"--method scratch: {listed} would do nothing; it has --image-size, --epochs, --batch-size, --seed and "
            "--device"
        )
    config = training.ScratchConfig(**{name: given[name] for name in known if name in given})
    silent = given["quiet"] or given["as_json"]

    def on_epoch(report: Epoch) -> None:
        if not silent:
            shown = f"loss {report.train_loss:.3f}  training accuracy {report.train_score:.1%}  {report.seconds:.0f} s"
            say(f"epoch {report.epoch}/{config.epochs}  {shown}")

    info = training.train_folder(given["dataset"], given["out"], config, given["device"], on_epoch)
    if given["as_json"]:
        print_json({"out": given["out"], "model_id": info.model_id, "metrics": info.metrics})
    elif not given["quiet"]:
        typer.echo(f"{headline(info.metrics)}\ncheckpoint: {given['out']}")


@contextlib.contextmanager
def _reports(silent: bool) -> Iterator[Reports]:
    """Say on stderr how training goes, with a bar on a terminal."""
    from tagger.training import Reports

    if silent:
        yield Reports()
        return
    with step_progress() as on_progress:
        yield Reports(say=say, on_progress=on_progress, on_epoch=lambda entry: say(_epoch_line(entry)))


def _epoch_line(entry: dict[str, Any]) -> str:
    return (
        f"epoch {entry['epoch']}/{entry['epochs']}: loss {entry['train_loss']:.3f}, "
        f"validation {entry['val_score']:.1%} (loss {entry['val_loss']:.3f}), "
        f"{entry['seconds']:.0f} s, about {entry['left']:.0f} s left"
    )


def _print_evaluation(found: Evaluation) -> None:
    names = ["tag", "images", "given", "precision", "recall", "average precision", "threshold"]
    rows = [
        [tag.tag, tag.images, tag.predicted, _share(tag.precision), _share(tag.recall), _share(tag.average_precision),
         "best" if tag.threshold is None else f"{tag.threshold:.3f}"]
        for tag in found.tags
    ]  # fmt: skip
    print_table(names, rows)
    typer.echo(headline({"": asdict(found)}))
    typer.echo(f"log-loss {found.log_loss or 0:.3f}, calibration error {found.calibration_error or 0:.3f}")


def _trial_row(trial: dict[str, Any]) -> list[Any]:
    from tagger.training.tuning import words

    options = {name: value for name, value in trial.items() if name not in ("number", "state", "value")}
    return [trial["number"], trial["state"], _share(trial["value"]), words(options)]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
