"""Hyperparameter search: Optuna proposes, validation decides, unpromising trials are pruned."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tagger import checkpoint, options, storage
from tagger.checkpoint.info import Json, ModelInfo
from tagger.errors import MissingExtra, UsageError
from tagger.options import Range, flag
from tagger.reporting import plots
from tagger.storage import StrPath
from tagger.training import data, launch, methods
from tagger.training.config import TrainConfig, differences
from tagger.training.data import Callbacks, TrainingData
from tagger.training.train import UNFINISHED, train
from tagger.training.trainer import Diverged, Epoch

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

STUDY = "_tuning.db"
"""SQLite file of the study in the checkpoint folder; running the command again continues it."""
SEARCH = {field.name: option.search for field, _, option in options.declared(TrainConfig) if option.search}
"""Options that a search chooses, in addition to the method, with the values that it tries."""
_SAME_TRIALS = ("device", "precision_target")
"""Options that do not change the score of a trial."""
_FOR_IMPORTANCE = 8
"""Minimum number of complete trials to estimate the importance of options."""


@dataclass(frozen=True)
class Tuned:
    """Result of a search."""

    info: ModelInfo
    trials: list[Json]
    """Number, state and value of each, and the options tried."""
    best: Json


def tune(
    dataset: StrPath,
    out: StrPath,
    config: TrainConfig,
    trials: int = 20,
    timeout_minutes: float | None = None,
    callbacks: Callbacks | None = None,
) -> Tuned:
    """Try hyperparameters on the validation split, then train with the best.

    Calling it again continues a stopped search. The test split is not used before the end.
    Raises UsageError when the folder holds something else or a search with other options, MissingExtra without Optuna.
    """
    callbacks = callbacks or Callbacks()
    dataset, out = os.fspath(dataset), os.fspath(out)
    _check_options(config, trials)
    there = _open(out)
    found = data.read(dataset, config, callbacks)
    study = _study(out, found, config)
    done = sum(trial.state.is_finished() for trial in study.trials)
    if done < trials:
        limit = timeout_minutes * 60 if timeout_minutes else None
        study.optimize(_objective(found, config, callbacks), trials - done, timeout=limit, catch=(Diverged,))
    if not _complete(study):
        raise UsageError(f"{out}: no trial finished in time; raise --timeout and run the command again to continue")
    chosen = options_of(study.best_trial)
    callbacks.say(f"best: validation {study.best_value:.1%} with {words(chosen)}")
    if done >= trials and checkpoint.CARD in there:
        callbacks.say(f"{done} trials had finished before; --trials {done + 10} runs ten more")
        return Tuned(checkpoint.describe(out), _rows(study), chosen)
    return _train_best(study, dataset, out, _of_trial(config, chosen), callbacks)


def _check_options(config: TrainConfig, trials: int) -> None:
    """Raise UsageError for an option that the search chooses itself or does not use."""
    try:
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
    except ImportError as error:
        raise MissingExtra("tagger tune", "optuna", "tune") from error
    if trials < 1:
        raise UsageError(f"--trials must be at least 1, got {trials}")
    launch.check_gpus(config.gpus, config.device)
    given = options.given(config)
    if searched := _flags(given & {"method", *SEARCH}):
        raise UsageError(f"tagger tune searches {searched} itself; omit it, or use `tagger train`")
    if unused := _flags(given - options.used(config, method="finetune").keys()):
        raise UsageError(f"tagger tune does not use {unused}; omit it, or use `tagger train`")


def _flags(names: set[str]) -> str:
    """Return options as text, in the order of their declaration."""
    return ", ".join(f"--{flag(name)}" for name in vars(TrainConfig()) if name in names)


def _open(out: str) -> list[str]:
    """Create the folder of a search; return what it holds. Raises UsageError for a folder with anything else."""
    folder = storage.absolute(out)
    if storage.is_remote(folder):
        raise UsageError(f"--out {out}: the search is stored in a local file; choose a local folder")
    there = storage.names_in(folder) or []
    if there and STUDY not in there:
        foreign = [name for name in there if not name.startswith("_tuning")]
        raise UsageError(f"--out {out}: exists and is not empty ({', '.join(foreign[:3])}); choose a new folder")
    os.makedirs(storage.local_path(folder), exist_ok=True)
    return there


def _study(out: str, found: TrainingData, config: TrainConfig) -> Study:
    """Open the study of a folder; raises UsageError if it has other options, since its scores are not comparable."""
    import optuna

    study = optuna.create_study(
        study_name=found.dataset.data_fingerprint(),
        storage=f"sqlite:///{storage.local_path(storage.absolute(out))}/{STUDY}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    if before := study.user_attrs.get("config"):
        if changed := differences(before, config, ignoring=_SAME_TRIALS):
            raise UsageError(
                f"--out: this search was started with other options ({'; '.join(changed)}); choose a new folder"
            )
    else:
        study.set_user_attr("config", json.loads(json.dumps(asdict(config))))
    seed = config.seed + len(study.trials)  # a new seed for every call, else it would repeat its proposals
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    return study


def _objective(found: TrainingData, base: TrainConfig, callbacks: Callbacks) -> Callable[[Trial], float]:
    probed, head_fits = methods.fit_probe(found, replace(base, method="finetune"), Callbacks())

    def objective(trial: Trial) -> float:
        chosen = suggest(trial, base)
        if trial.number == 0:
            value = probed.candidates["probe"]
        else:
            reporting = replace(callbacks, on_epoch=_pruning(trial, callbacks))
            start = probed if head_fits else None
            tuned = methods.fine_tune(found, _of_trial(base, chosen), start, None, reporting, splits=())
            value = tuned.candidates["finetune"]
        callbacks.say(f"trial {trial.number}: {value:.1%} with {words(chosen)}")
        return value

    return objective


def _pruning(trial: Trial, callbacks: Callbacks) -> Callable[[Epoch], None]:
    """Return a callback that stops an unpromising trial after an epoch."""
    import optuna

    def on_epoch(epoch: Epoch) -> None:
        callbacks.on_epoch(epoch)
        trial.report(epoch.val_score or 0.0, epoch.epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    return on_epoch


def suggest(trial: Trial, base: TrainConfig) -> Json:
    """Return the options of one trial: the first is the probe, all others fine-tune."""
    if trial.number == 0:
        return {"method": "probe"}
    used = options.used(base, method="finetune")
    return {"method": "finetune"} | {
        name: trial.suggest_float(name, values.low, values.high, log=values.log)
        if isinstance(values, Range)
        else trial.suggest_categorical(name, values)
        for name, values in SEARCH.items()
        if name in used
    }


def _of_trial(base: TrainConfig, chosen: Mapping[str, object]) -> TrainConfig:
    """Return all options of a trial; those that its method does not use have their defaults."""
    return TrainConfig(**options.used(base, **chosen))


def options_of(trial: FrozenTrial) -> Json:
    """Return the options of a trial."""
    return {"method": "finetune" if trial.number else "probe", **trial.params}


def words(options: Mapping[str, object]) -> str:
    """Return options as text: lr 0.0012, augment none."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in options.items()
    )


def _complete(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.trials if trial.state.name == "COMPLETE" and trial.value is not None]


def _rows(study: Study) -> list[Json]:
    return [
        {"number": trial.number, "state": trial.state.name.lower(), "value": trial.value, **options_of(trial)}
        for trial in study.trials
    ]


def _train_best(study: Study, dataset: str, out: str, best: TrainConfig, callbacks: Callbacks) -> Tuned:
    """Train with the best options, and save the trials with the checkpoint."""
    folder, trials = storage.absolute(out), _rows(study)
    storage.remove(storage.join(folder, UNFINISHED))  # left by a search that was killed during its final training
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


def _importances(study: Study) -> dict[str, float] | None:
    """Return the importance of each option of fine-tuning; None with too few trials."""
    import optuna

    values = {trial.value for trial in _complete(study)}
    if len(_complete(study)) < _FOR_IMPORTANCE or len(values) < 3:
        return None
    return dict(optuna.importance.get_param_importances(study))
