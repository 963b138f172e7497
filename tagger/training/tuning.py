"""Look for better options than the defaults: Optuna proposes, validation decides, hopeless trials are cut short."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tagger import checkpoint, storage
from tagger.checkpoint.info import ModelInfo
from tagger.errors import MissingExtra, UsageError
from tagger.reporting import plots
from tagger.storage import StrPath
from tagger.training import finetune, network, probe
from tagger.training.config import TrainConfig, differences
from tagger.training.learning import UNFINISHED, Lesson, Reports, fine_tune_lesson, prepare, train

STUDY = "_tuning.db"
"""SQLite file in the checkpoint's folder; the same command goes on with it."""


@dataclass(frozen=True)
class Tuned:
    """What a search found."""

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
    reports: Reports | None = None,
) -> Tuned:
    """Try options on the validation split until so many trials have ended, then train with the best.

    A search that was stopped goes on when it is called again. The test split is not looked at before the end.
    Raises UsageError when the folder holds something else or a search with other options, MissingExtra without Optuna.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("tagger tune", "optuna", "tune") from error
    reports = reports or Reports()
    if trials < 1:
        raise UsageError(f"--trials must be at least 1, got {trials}")
    dataset, out = os.fspath(dataset), os.fspath(out)
    folder = storage.absolute(out)
    if storage.is_remote(folder):
        raise UsageError(f"--out {out}: a study is a local file; tune into a local folder")
    there = storage.names_in(folder) or []
    if there and STUDY not in there:
        foreign = [name for name in there if not name.startswith("_tuning")]
        raise UsageError(f"--out {out}: exists and is not empty ({', '.join(foreign[:3])}); choose a new folder")
    os.makedirs(storage.local_path(folder), exist_ok=True)
    lesson = prepare(dataset, replace(config, method="auto"), reports)
    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(
        study_name=lesson.examples.data_fingerprint(),
        storage=f"sqlite:///{storage.local_path(folder)}/{STUDY}",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    )
    _refuse_other_options(study, config)
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))  # else it would begin as before
    done = sum(trial.state.is_finished() for trial in study.trials)
    limit = timeout_minutes * 60 if timeout_minutes else None
    if done < trials:
        study.optimize(_objective(lesson, reports), trials - done, timeout=limit)
    if not any(trial.value is not None and trial.state.name == "COMPLETE" for trial in study.trials):
        raise UsageError(f"{out}: no trial ended in time; give --timeout more minutes, and call again to go on")
    chosen = options_of(study.best_trial)
    reports.say(f"best: {study.best_value:.1%} on validation with {words(chosen)}")
    if done >= trials and checkpoint.CARD in there:
        reports.say(f"{done} trials had ended before; --trials {done + 10} would try ten more")
        return Tuned(checkpoint.describe(out), _rows(study), chosen)
    return _keep(study, dataset, out, folder, replace(config, **chosen), reports)


_SAME_TRIALS = ("device", "precision_target", "budget_minutes")
"""Options that change no trial's score."""


def _refuse_other_options(study: Any, config: TrainConfig) -> None:
    """Keep trials of one backbone, size and so on apart from those of another: their scores do not compare."""
    before = study.user_attrs.get("config")
    if before is None:
        study.set_user_attr("config", json.loads(json.dumps(asdict(config))))
    elif changed := differences(before, config, ignoring=_SAME_TRIALS):
        raise UsageError(f"--out: this search was begun with other options ({'; '.join(changed)}); choose a new folder")


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


def _objective(lesson: Lesson, reports: Reports) -> Callable[[Any], float]:
    head = probe.fit(*lesson.part("train"), *lesson.part("val"), lesson.config)
    val_features, val_truth = lesson.part("val")
    probed = finetune.score_of(probe.scores_of(head(val_features), lesson.config.task), val_truth, lesson.config.task)

    def objective(trial: Any) -> float:
        import optuna

        options = suggest(trial, lesson.config.multilabel)
        config = replace(lesson.config, **options)
        if config.method == "probe":
            reports.say(f"trial {trial.number}: probe {probed:.1%}")
            return probed

        def on_epoch(entry: dict[str, Any]) -> None:
            reports.on_epoch(entry)
            trial.report(entry["val_score"], entry["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned

        net, _ = network.with_head(lesson.backbone, len(lesson.examples.label_names), config)
        network.set_head(net, head)
        with tempfile.TemporaryDirectory() as folder:
            state_uri = storage.local_uri(str(Path(folder) / "state.safetensors"))
            progress, _ = fine_tune_lesson(net, replace(lesson, config=config), state_uri, on_epoch, judge_test=False)
        reports.say(f"trial {trial.number}: {progress.tried_score:.1%} with {words(options)}")
        return progress.tried_score

    return objective


def options_of(trial: Any) -> dict[str, Any]:
    """Return the options that a trial of a study had."""
    return {"method": "finetune" if trial.number else "probe", **trial.params}


def words(options: dict[str, Any]) -> str:
    """Return options as people read them: lr 0.0012, augment none."""
    shown = {name: f"{value:.3g}" if isinstance(value, float) else value for name, value in options.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _rows(study: Any) -> list[dict[str, Any]]:
    return [
        {"number": trial.number, "state": trial.state.name.lower(), "value": trial.value, **options_of(trial)}
        for trial in study.trials
    ]


def _keep(study: Any, dataset: str, out: str, folder: str, best: TrainConfig, reports: Reports) -> Tuned:
    """Train with the best options, and leave the trials with the checkpoint."""
    storage.remove(storage.join(folder, UNFINISHED))  # of a search that was killed while it trained the best
    trials = _rows(study)
    note = (
        f"options chosen by tagger tune in {len(trials)} trials (trials.parquet, plots/trials.png) on the validation "
        "split, whose numbers are flattered by it"
    )
    info = train(dataset, out, best, reports=reports, beside=storage.names_in(folder) or (), notes=[note])
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
