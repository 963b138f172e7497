"""Train a checkpoint: read and scan the data, fit, evaluate, save."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from tagger import hardware, options, storage
from tagger.checkpoint.info import ModelInfo
from tagger.errors import UsageError
from tagger.training import data, launch, methods, result
from tagger.training.config import TrainConfig, differences
from tagger.training.data import Callbacks, TrainingData
from tagger.training.result import Trained
from tagger.training.resume import State

UNFINISHED = "_training.pt"
"""File in the checkpoint folder with the state of an unfinished training."""


def train(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: TrainConfig | None = None,
    resume: bool = False,
    callbacks: Callbacks | None = None,
    beside: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> ModelInfo:
    """Train on the labels of a manifest or folder and write a checkpoint folder; return its description.

    Strength, method, epoch, temperature and thresholds are chosen on validation; the test split is scored once, at the
    end. With `resume` a killed fine-tuning continues after its last finished epoch. `beside` names files that
    may already be in the folder; `notes` are added to the card's warnings. Raises TaggerError.
    """
    dataset, out = os.fspath(dataset), os.fspath(out)
    config, callbacks = config or TrainConfig(), callbacks or Callbacks()
    folder = storage.absolute(out)
    launch.check_gpus(config.gpus, config.device)
    with storage.claimed(folder):
        _check_out(out, folder, resume, beside)
        started = time.perf_counter()
        found = data.read(dataset, config, callbacks)
        found = replace(found, notes=(*found.notes, *notes))
        state = State(storage.join(folder, UNFINISHED), identity(config, found))
        if resume:
            check_resumable(state, config)
        trained = fit_and_evaluate(found, config, state, callbacks, started)
        for line in result.too_few(trained.thresholds):
            callbacks.say(f"note: {line}")
        if not resume:  # another training may have written to a remote folder meanwhile
            _check_empty(out, folder, beside)
        info = result.save(out, trained, options.command("train", dataset, config, out=out))
        state.remove()
    return info


def fit_and_evaluate(
    found: TrainingData, config: TrainConfig, state: State, callbacks: Callbacks, started: float
) -> Trained:
    """Train by the configured method and evaluate the result; its time counts from `started`."""
    torch.set_num_threads(hardware.cores())
    fitted = methods.fit(found, config, state, callbacks)
    return result.evaluate(fitted, found, config, time.perf_counter() - started + fitted.seconds_before)


def identity(config: TrainConfig, found: TrainingData) -> dict[str, object]:
    """Return what determines a training: options and data."""
    return {"config": asdict(config), "data": found.dataset.data_fingerprint()}


def check_resumable(state: State, config: TrainConfig) -> None:
    """Raise UsageError if the training was started with other options or data, naming the difference."""
    before = state.load()["identity"]
    if changed := differences(before["config"], config, ignoring=["gpus"]):
        raise UsageError(f"--resume: this training was started with other options ({'; '.join(changed)}); repeat those")
    if before["data"] != state.identity["data"]:
        raise UsageError(f"--resume: the labelled images have changed since this training started; delete {state.uri}")


def _check_out(out: str, folder: str, resume: bool, beside: Sequence[str]) -> None:
    unfinished = storage.exists(storage.join(folder, UNFINISHED))
    if resume and not unfinished:
        raise UsageError(f"--resume: {out} has no unfinished training; omit --resume to start one")
    if unfinished and not resume:
        raise UsageError(f"--out {out}: has an unfinished training; add --resume to continue it, or delete the folder")
    if not resume:  # next to an unfinished training there may be a checkpoint that was being written
        _check_empty(out, folder, beside)


def _check_empty(out: str, folder: str, beside: Sequence[str]) -> None:
    allowed = (*beside, storage.LOCK, UNFINISHED)
    if names := [name for name in storage.names_in(folder) or [] if name not in allowed]:
        raise UsageError(f"--out {out}: exists and is not empty ({', '.join(names[:3])}); choose a new folder")
