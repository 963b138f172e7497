"""Hyperparameter search: Optuna proposes, validation decides, hopeless trials are pruned."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tagger import checkpoint, storage
from tagger.checkpoint.info import ModelInfo
from tagger.errors import MissingExtra, UsageError
from tagger.options import flag
from tagger.reporting import plots
from tagger.storage import StrPath
from tagger.training import data, methods
from tagger.training.config import TrainConfig, differences
from tagger.training.data import Callbacks, TrainingData
from tagger.training.train import UNFINISHED, train
from tagger.training.trainer import Diverged, Epoch

STUDY = "_tuning.db"
"""SQLite file in the checkpoint's folder; the same command continues it."""


SEARCHED = ("method", "lr", "weight_decay", "layer_decay", "label_smoothing", "augment", "freeze_norms")
"""Options that a search chooses."""


@dataclass(frozen=True)
class Tuned:
    """Result of a search."""

    info: ModelInfo
    trials: list[dict[str, Any]]
    """number, state, value, and the options tried"""
    best: dict[str, Any]


def tune(
    dataset: StrPath,
    out: StrPath,
    config: TrainConfig,
    trials: int = 20,
    timeout_minutes: float | None = None,
    callbacks: Callbacks | None = None,
) -> Tuned:
    """Try hyperparameters on the validation split, then train with the best.

    A search that was stopped continues when it is called again. The test split is not used before the end.
    Raises UsageError when the folder holds something else or a search with other options, MissingExtra without Optuna.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("tagger tune", "optuna", "tune") from error
    callbacks = callbacks or Callbacks()
    if trials < 1:
        raise UsageError(f"--trials must be at least 1, got {trials}")
    dataset, out = os.fspath(dataset), os.fspath(out)
    if given := [name for name in SEARCHED if getattr(config, name) != getattr(TrainConfig(), name)]:
        raise UsageError(
            f"tagger tune searches --{', --'.join(map(flag, given))} itself; omit it, or use `tagger train`"
        )
    folder = storage.absolute(out)
    if storage.is_remote(folder):
        raise UsageError(f"--out {out}: a study is a local file; tune into a local folder")
    there = storage.names_in(folder) or []
    if there and STUDY not in there:
        foreign = [name for name in there if not name.startswith("_tuning")]
        raise UsageError(f"--out {out}: exists and is not empty ({', '.join(foreign[:3])}); choose a new folder")
    os.makedirs(storage.local_path(folder), exist_ok=True)
    found = data.read(dataset, replace(config, method="auto"), callbacks)
    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(
        study_name=found.dataset.data_fingerprint(),
        storage=f"sqlite:///{storage.local_path(folder)}/{STUDY}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    _refuse_other_options(study, config)
    study.sampler = optuna.samplers.TPESampler(
        seed=config.seed + len(study.trials)
    )  # another seed for every call, else it would repeat its proposals
    done = sum(trial.state.is_finished() for trial in study.trials)
    limit = timeout_minutes * 60 if timeout_minutes else None
    if done < trials:
        study.optimize(_objective(found, config, callbacks), trials - done, timeout=limit, catch=(Diverged,))
    if not any(trial.value is not None and trial.state.name == "COMPLETE" for trial in study.trials):
        raise UsageError(f"{out}: no trial finished in time; raise --timeout and run the command again to continue")
    chosen = options_of(study.best_trial)
    callbacks.say(f"best: validation {study.best_value:.1%} with {words(chosen)}")
    if done >= trials and checkpoint.CARD in there:
        callbacks.say(f"{done} trials had finished before; --trials {done + 10} runs ten more")
        return Tuned(checkpoint.describe(out), _rows(study), chosen)
    return _keep(study, dataset, out, folder, replace(config, **chosen), callbacks)


_SAME_TRIALS = ("device", "precision_target", "budget_minutes")
"""Options that do not change the score of a trial."""


def _refuse_other_options(study: Any, config: TrainConfig) -> None:
    """Keep trials of one backbone, size and so on apart from those of another: their scores do not compare."""
    before = study.user_attrs.get("config")
    if before is None:
        study.set_user_attr("config", json.loads(json.dumps(asdict(config))))
    elif changed := differences(before, config, ignoring=_SAME_TRIALS):
        raise UsageError(
            f"--out: this search was started with other options ({'; '.join(changed)}); choose a new folder"
        )


def suggest(trial: Any, multilabel: bool = False) -> dict[str, Any]:
    """Return the options of one trial: the first is the probe, all others fine-tune."""
    if trial.number == 0:
        return {"method": "probe"}
    smoothing = {} if multilabel else {"label_smoothing": trial.suggest_float("label_smoothing", 0.0, 0.2)}
    return smoothing | {
        "method": "finetune",
        "lr": trial.suggest_float("lr", 5e-5, 2e-3, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-3, 0.2, log=True),
        "layer_decay": trial.suggest_float("layer_decay", 0.7, 1.0),
        "augment": trial.suggest_categorical("augment", ["none", "rand-m5-mstd0.5", "rand-m9-mstd0.5"]),
        "freeze_norms": trial.suggest_categorical("freeze_norms", [True, False]),
    }


def _objective(found: TrainingData, base: TrainConfig, callbacks: Callbacks) -> Callable[[Any], float]:
    probed, starts_from_probe = methods.fit_probe(found, replace(base, method="finetune"), Callbacks())
    score = probed.candidates["probe"]

    def objective(trial: Any) -> float:
        import optuna

        chosen = suggest(trial, base.multilabel)
        config = replace(base, **chosen)
        if config.method == "probe":
            callbacks.say(f"trial {trial.number}: probe {score:.1%}")
            return score

        def on_epoch(epoch: Epoch) -> None:
            callbacks.on_epoch(epoch)
            trial.report(epoch.val_score, epoch.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        start = probed.net if starts_from_probe else None
        tuned = methods.fine_tune(found, config, start, score, None, replace(callbacks, on_epoch=on_epoch), splits=())
        value = tuned.candidates["finetune"]
        callbacks.say(f"trial {trial.number}: {value:.1%} with {words(chosen)}")
        return value

    return objective


def options_of(trial: Any) -> dict[str, Any]:
    """Return the options of a trial."""
    return {"method": "finetune" if trial.number else "probe", **trial.params}


def words(options: dict[str, Any]) -> str:
    """Return options as text: lr 0.0012, augment none."""
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in options.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _rows(study: Any) -> list[dict[str, Any]]:
    return [
        {"number": trial.number, "state": trial.state.name.lower(), "value": trial.value, **options_of(trial)}
        for trial in study.trials
    ]


def _keep(study: Any, dataset: str, out: str, folder: str, best: TrainConfig, callbacks: Callbacks) -> Tuned:
    """Train with the best options, and leave the trials with the checkpoint."""
    storage.remove(
        storage.join(folder, UNFINISHED)
    )  # left by a search that was killed while it trained with the best options
    trials = _rows(study)
    note = (
        f"options chosen by tagger tune in {len(trials)} trials (trials.parquet, plots/trials.png) on the validation "
        "split, whose numbers are optimistic"
    )
    info = train(dataset, out, best, callbacks=callbacks, beside=storage.names_in(folder) or (), notes=[note])
    values = [trial["value"] if trial["state"] == "complete" else None for trial in trials]
    bests = [max([v for v in values[: i + 1] if v is not None], default=None) for i in range(len(values))]
    drawn = plots.trials(values, bests, [trial["state"] for trial in trials], _importances(study))
    storage.write_atomic(storage.join(folder, "plots/trials.png"), drawn)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(trials), sink)
    storage.write_atomic(storage.join(folder, "trials.parquet"), sink.getvalue().to_pybytes())
    return Tuned(info, trials, options_of(study.best_trial))


def _importances(study: Any) -> dict[str, float] | None:
    """Return how much each option of fine-tuning mattered; None when too few trials tell."""
    import optuna

    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if len(complete) < 8 or len({trial.value for trial in complete}) < 3:
        return None
    return dict(optuna.importance.get_param_importances(study))
