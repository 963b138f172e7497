"""From labelled images to a checkpoint folder: splits, probe, fine-tuning, calibration, card."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from tagger import checkpoint, hardware, storage
from tagger.checkpoint.info import ModelInfo
from tagger.data import features, scan
from tagger.data.dataset import BoolArray, Examples, read_examples
from tagger.data.splits import NAMES
from tagger.errors import SourceError, UsageError
from tagger.inference.engines import Float32Array
from tagger.options import command
from tagger.storage import StrPath
from tagger.training import finetune, neighbours, network, probe, state
from tagger.training.bundle import Learned, Outcome, judge, too_few, write
from tagger.training.config import TrainConfig
from tagger.training.loading import Pictures, prepared

UNFINISHED = "_training.safetensors"
"""File in the checkpoint's folder with the state of a fine-tuning run that has not ended."""


@dataclass(frozen=True)
class Reports:
    """Who is told how training goes."""

    say: Callable[[str], None] = lambda line: None
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None
    on_epoch: Callable[[dict[str, Any]], None] = lambda entry: None


def train(
    dataset: StrPath,
    out: StrPath,
    config: TrainConfig | None = None,
    resume: bool = False,
    reports: Reports | None = None,
    beside: Sequence[str] = (),
    notes: Sequence[str] = (),
    made_by: str | None = None,
    keep_state: bool = False,
) -> ModelInfo:
    """Learn the labels of a manifest or folder and write a checkpoint folder; return what it holds.

    Validation chooses (strength, method, epoch, temperature, thresholds); the test split is scored once, at the end.
    With `resume` a run that was killed while fine-tuning goes on after its last whole epoch. `beside` names files that
    may already be in the folder; `notes` are said in the card, and so is `made_by`, where that is not `tagger train`.
    `keep_state` leaves it to the caller to remove UNFINISHED: whoever has more to do then, and is killed, goes on here.
    Raises TaggerError.
    """
    config, reports = config or TrainConfig(), reports or Reports()
    torch.set_num_threads(hardware.cores())
    hardware.keep_freed_memory()
    dataset, out = os.fspath(dataset), os.fspath(out)
    folder = storage.absolute(out)
    _check_out(out, folder, resume, beside)
    started = time.perf_counter()
    lesson = prepare(dataset, config, reports)
    outcome = _learn(lesson, folder, reports)
    learned = Learned(
        outcome=outcome,
        examples=lesson.examples,
        config=config,
        backbone=lesson.backbone,
        device=lesson.device,
        seconds=time.perf_counter() - started + outcome.earlier_seconds,
        decoded=lesson.decoded,
        warnings=(*lesson.warnings, *notes),
    )
    judged = judge(learned)
    for line in too_few(judged.thresholds):
        reports.say(f"note: {line}")
    info = write(out, made_by or command("train", dataset, config, out=out), learned, judged)
    if not keep_state:
        storage.remove(storage.join(folder, UNFINISHED))
    return info


@dataclass(frozen=True)
class Lesson:
    """Everything that is known before anything is learnt."""

    examples: Examples
    features: Float32Array
    """(N, D) of the frozen backbone."""
    decoded: int
    """Images whose features were not known from before."""
    backbone: ModelInfo
    config: TrainConfig
    device: str
    warnings: tuple[str, ...]
    """What was left out, and other things to know of the data."""
    rows: dict[str, BoolArray]
    """Split -> which images."""

    def part(self, split: str) -> tuple[Float32Array, Float32Array]:
        """Return features and truth of one split."""
        rows = self.rows[split]
        return self.features[rows], self.examples.truth[rows]


def prepare(dataset: str, config: TrainConfig, reports: Reports) -> Lesson:
    """Read the examples, leave out what does not decode, keep near-duplicates together, compute features."""
    device = hardware.device(config.device)
    examples = read_examples(dataset, config.multilabel)
    published = checkpoint.describe(config.backbone)
    backbone = features.for_size(published, config.preprocessing(published.preprocessing))
    reports.say(f"{len(examples):,} labelled images, {len(examples.label_names):,} labels")
    examples, report = scan.split(examples, config.seed, lambda done, total: reports.on_progress("copies", done, total))
    computed, have, decoded = features.embed(
        backbone,
        examples.uris,
        examples.image_ids,
        config.device,
        lambda done, total: reports.on_progress("features", done, total),
    )
    reports.say(f"features: {decoded:,} images decoded, {len(examples) - decoded:,} known from before")
    examples = examples.keep(have, "they do not decode")
    rows = {name: examples.split(name) for name in NAMES}
    _check_splits(dataset, rows, examples, config.multilabel)
    counts, *found = report
    reports.say(counts)
    warnings = (*examples.notes, *found)
    for warning in warnings:
        reports.say(f"note: {warning}")
    return Lesson(examples, computed[have], decoded, backbone, config, device, warnings, rows)


def _learn(lesson: Lesson, folder: str, reports: Reports) -> Outcome:
    """Fit the probe, fine-tune when asked for or worth it, and keep what validates better; or remember neighbours."""
    config, architecture = lesson.config, lesson.backbone.architecture
    if config.method == "knn":
        return _remember(lesson, reports)
    head = probe.fit(*lesson.part("train"), *lesson.part("val"), config)
    val_features, val_truth = lesson.part("val")
    probed = finetune.score_of(probe.scores_of(head(val_features), config.task), val_truth, config.task)
    reports.say(f"probe: {_score_name(config)} {probed:.1%} on {len(val_truth):,} validation images")
    net, arguments = network.with_head(lesson.backbone, len(lesson.examples.label_names), config)
    started_from_probe = network.set_head(net, head)
    if not started_from_probe and config.method != "finetune":
        raise UsageError(f"--backbone {config.backbone}: its head is not one linear layer; use --method finetune")
    logits = {name: head(lesson.features[rows]) for name, rows in lesson.rows.items() if name != "train" and rows.any()}
    outcome = Outcome(net, architecture, arguments, "probe", logits, {"probe": probed})
    begun = storage.exists(storage.join(folder, UNFINISHED))  # what was once worth while is, whatever the load is now
    if config.method == "probe" or (config.method == "auto" and not begun and not _worth_while(net, lesson, reports)):
        return outcome
    tuned, _ = network.with_head(lesson.backbone, len(lesson.examples.label_names), config)
    if started_from_probe:
        network.set_head(tuned, head)
    progress, logits = fine_tune_lesson(tuned, lesson, storage.join(folder, UNFINISHED), reports.on_epoch)
    tried = progress.tried_score
    scores = outcome.candidates | {"finetune": tried}
    if started_from_probe and not progress.best_epoch:
        reports.say(f"fine-tuned: {_score_name(config)} {tried:.1%} at most; the probe is better and is kept")
        return replace(outcome, candidates=scores, curve=progress.curve, earlier_seconds=progress.earlier_seconds)
    reports.say(f"fine-tuned: {_score_name(config)} {tried:.1%}, best after epoch {progress.best_epoch}")
    earlier = progress.earlier_seconds
    return Outcome(tuned, architecture, arguments, "finetune", logits, scores, progress.curve, earlier_seconds=earlier)


def _remember(lesson: Lesson, reports: Reports) -> Outcome:
    """Let the nearest labelled images vote."""

    def compared(metric: str, done: int, total: int) -> None:
        reports.on_progress(f"{metric} distances", done, total)

    found = neighbours.fit(*lesson.part("train"), *lesson.part("val"), compared)
    chosen = {"k": found.k, "metric": found.metric, "examples": len(found.labels)}
    reports.say(f"knn: k = {found.k}, {found.metric}; accuracy {found.accuracy:.1%} on the validation images")
    net, arguments = network.with_neighbours(lesson.backbone, found, len(lesson.examples.label_names), lesson.config)
    logits = {
        name: net.neighbours.forward_head(torch.from_numpy(lesson.features[rows])).numpy()
        for name, rows in lesson.rows.items()
        if name != "train" and rows.any()
    }
    return Outcome(net, "tagger_feature_knn", arguments, "knn", logits, {"knn": found.accuracy}, chosen=chosen)


def fine_tune_lesson(
    net: nn.Module, lesson: Lesson, state_uri: str, on_epoch: finetune.OnEpoch, judge_test: bool = True
) -> tuple[state.Progress, dict[str, Float32Array]]:
    """Fine-tune a network in place; return how it went and the logits of validation and, if asked for, test."""
    examples, config, rows = lesson.examples, lesson.config, lesson.rows
    uris = np.array(examples.uris, dtype=object)
    pixels = {
        name: prepared(list(uris[rows[name]]), lesson.backbone.preprocessing)
        for name in ("val", "test")[: 1 + judge_test]
    }
    task = finetune.Task(
        pictures=Pictures(list(uris[rows["train"]]), lesson.backbone.preprocessing, config, lesson.device),
        truth=torch.from_numpy(examples.truth[rows["train"]]),
        val_pixels=pixels["val"],
        val_truth=examples.truth[rows["val"]],
        backbone=lesson.backbone,
        config=config,
        data=examples.data_fingerprint(),
        device=lesson.device,
    )
    progress = finetune.fine_tune(net, task, state_uri, on_epoch)
    logits = {
        name: finetune.logits_of(net, part, lesson.backbone, lesson.device)
        for name, part in pixels.items()
        if len(part)
    }
    return progress, logits


def _worth_while(net: nn.Module, lesson: Lesson, reports: Reports) -> bool:
    """Tell whether fine-tuning is expected to end within the budget; on a GPU it always is worth trying."""
    if lesson.device == "cuda":
        return True
    config, count = lesson.config, int(lesson.rows["train"].sum())
    seconds = _seconds_per_image(copy.deepcopy(net), lesson.backbone, config)
    minutes = seconds * count * config.epochs / 60
    if minutes > config.budget_minutes:
        reports.say(
            f"fine-tuning would take about {minutes:.0f} minutes here, "
            f"over --budget-minutes {config.budget_minutes:g}; "
            "the probe is kept (--method finetune does it all the same)"
        )
    return minutes <= config.budget_minutes


def _seconds_per_image(net: nn.Module, backbone: ModelInfo, config: TrainConfig) -> float:
    """Time one step of training, after one to warm up."""
    batch = torch.zeros(min(16, max(2, config.batch_size)), *backbone.preprocessing.size, 3, dtype=torch.uint8)
    net.train()
    for _ in range(2):
        started = time.perf_counter()
        net(network.normalised(batch, backbone)).sum().backward()
    return (time.perf_counter() - started) / len(batch)


def _check_splits(dataset: str, rows: dict[str, Any], examples: Examples, multilabel: bool) -> None:
    for name, least in (("train", 2), ("val", 1)):
        if rows[name].sum() < least:
            counts = ", ".join(f"{int(part.sum())} {split}" for split, part in rows.items())
            raise SourceError(
                f"{dataset}: {counts} images; too few in {name} to learn from: label some more, or leave splits away "
                "where they were given"
            )
    here = [
        name for name, there in zip(examples.label_names, examples.truth[rows["train"]].any(0), strict=True) if there
    ]
    if len(here) < (1 if multilabel else 2):
        raise SourceError(
            f"{dataset}: the training images have one label, {', '.join(here) or 'none'}, of "
            f"{len(examples.label_names)}; there is nothing to tell apart until others have some in train"
        )


def _check_out(out: str, folder: str, resume: bool, beside: Sequence[str]) -> None:
    names = [name for name in storage.names_in(folder) or [] if name not in beside]
    if resume and UNFINISHED not in names:
        raise UsageError(f"--resume: {out} holds no unfinished training; leave --resume away to begin one")
    if UNFINISHED in names and not resume:
        raise UsageError(f"--out {out}: holds an unfinished training; add --resume to go on, or delete the folder")
    if names and not resume:  # beside an unfinished training there may be a checkpoint that was being written
        raise UsageError(f"--out {out}: exists and is not empty ({', '.join(names[:3])}); choose a new folder")


def _score_name(config: TrainConfig) -> str:
    return "mean average precision" if config.multilabel else "accuracy"
