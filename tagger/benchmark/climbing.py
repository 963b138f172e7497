"""Train what is missing of a ladder, model by model and seed by seed, and write its report.

REPORT/models/<model>-<seed>/ is a checkpoint folder like any other. Its tagger.json is written last and says from what
the model came, so a folder that says the right thing is done: after a kill, the same command does only what is missing,
of a net that was being trained the epochs after the last one that was kept.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import torch

from tagger import checkpoint, hardware, options, schema, storage
from tagger.benchmark import data as ladder_data
from tagger.benchmark import measuring, pages, rungs, transfer
from tagger.benchmark.config import TRANSFER, LadderConfig
from tagger.benchmark.data import CIFAR10, LadderData, Say
from tagger.benchmark.recipes import STEPS
from tagger.benchmark.rungs import fit_rung
from tagger.benchmark.transfer import fit_transfer
from tagger.checkpoint.info import fingerprint
from tagger.data import normalisation
from tagger.errors import TaggerError, UsageError
from tagger.evaluation import metrics
from tagger.inference.engines import Float32Array
from tagger.training import own
from tagger.training.fitting import Diverged
from tagger.training.learning import UNFINISHED

SCORES = "scores.npy"
_VERSION = 3
"""Raise it when the same recipe, preparation and number of images give another model."""
_WITHOUT_CHANCE = ("knn", "knn-features", "probe")
_PACKAGES = ("tagger", "torch", "timm")


@dataclass(frozen=True)
class Climb:
    """What is to be trained, and where it goes."""

    dataset: str
    """cifar10, or a manifest or folder of labelled images."""
    out: str
    config: LadderConfig = field(default_factory=LadderConfig)
    data: str | None = None
    """Where CIFAR-10 is; None: it is downloaded."""

    def __post_init__(self) -> None:
        if self.data and self.dataset != CIFAR10:
            raise UsageError(
                f"--data {self.data}: says where CIFAR-10 is; {self.dataset} is itself what is learnt from"
            )

    @property
    def command(self) -> str:
        """Return the command that makes the same report."""
        return options.command("benchmark", self.dataset, self.config, out=self.out, data=self.data)

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Return every model and seed, one seed of all models first; what has no chance in it has one seed."""
        seeds, models = range(self.config.seeds), self.config.models
        return [(model, seed) for seed in seeds for model in models if not (seed and model in _WITHOUT_CHANCE)]

    def folder(self, model: str, seed: int) -> str:
        """Return the checkpoint folder of one of them."""
        return storage.join(storage.absolute(self.out), f"{pages.MODELS}/{model}-{seed}")

    def unfinished(self, model: str, seed: int) -> str:
        """Return the file with the state of one that is being trained."""
        return storage.join(storage.absolute(self.out), f"{pages.MODELS}/_{model}-{seed}.safetensors")


def plan(climb: Climb, say: Say = lambda line: None) -> list[tuple[str, int]]:
    """Return the models and seeds that are missing, once it is sure that all of them can be trained.

    The images are read anew. Raises UsageError for an --out that holds something else, or an option that cannot be
    right.
    """
    _kept.clear()
    known = {pages.MODELS, pages.PLOTS, "results.parquet", "report.md", "report.html"}
    if foreign := [name for name in storage.names_in(storage.absolute(climb.out)) or [] if name not in known]:
        raise UsageError(f"--out {climb.out}: holds {', '.join(foreign[:3])}; choose a new folder, or one of a report")
    missing = [pair for pair in climb.pairs if not _is_whole(climb, *pair, say)]
    _check_options(climb, missing, say)
    if done := len(climb.pairs) - len(missing):
        say(f"{done} of {len(climb.pairs)} models are there from before, {len(missing)} to train")
    return missing


def run_one(climb: Climb, model: str, seed: int, say: Say = lambda line: None) -> dict[str, Any]:
    """Train one model with one seed, judge it on the test images, and write its checkpoint folder."""
    found, folder = _data(climb, say), climb.folder(model, seed)
    if not storage.exists(storage.join(folder, UNFINISHED)):
        storage.remove_folder(folder)  # what a killed run, or other options, left
    watched = measuring.Memory("cpu" if model == "knn" else hardware.device(climb.config.device))
    torch.set_num_threads(hardware.cores())
    hardware.return_freed_memory()
    try:
        with watched.watch():
            do = _transfer if model in TRANSFER else _own
            facts, scores = do(climb, found, model, seed, say)
    except Diverged as error:
        storage.remove(climb.unfinished(model, seed))  # what was kept leads there again
        raise UsageError(f"{error}; another --preparation (scale, standardise, pixel-mean) may help") from error
    truth = _truth(found)
    judged = metrics.evaluate(scores, truth, "multiclass", found.train.label_names, None)
    facts |= _quality(judged) | {"memory_bytes": watched.most, "device": watched.device}
    facts |= {"versions": {name: metadata.version(name) for name in _PACKAGES}, "key": _key(climb, found, model, seed)}
    bundle_uri = storage.join(folder, checkpoint.BUNDLE)
    bundle = json.loads(storage.read_bytes(bundle_uri))
    storage.write_atomic(storage.join(folder, SCORES), _npy(scores))
    storage.write_atomic(bundle_uri, json.dumps(bundle | {"ladder": facts}, indent=2).encode())
    for state in (climb.unfinished(model, seed), storage.join(folder, UNFINISHED)):
        storage.remove(state)
    say(f"{model} (seed {seed}): {judged.accuracy.accuracy if judged.accuracy else 0:.2%} of the test images")
    return facts


def finish(climb: Climb, say: Say = lambda line: None) -> list[dict[str, Any]]:
    """Write results.parquet, report.md and report.html of all that is there; return the rows."""
    found = _data(climb, say)
    rows = [facts for pair in climb.pairs if (facts := _facts(climb, *pair))]
    scores = [_scores(climb, row) for row in rows]
    out = storage.absolute(climb.out)
    table = schema.from_rows([_row(facts) for facts in rows], "benchmark")
    storage.write_atomic(storage.join(out, "results.parquet"), schema.serialise(table, "benchmark"))
    pages.write(out, found, rows, scores, climb.folder, climb.command)
    return rows


def climb(todo: Climb, say: Say = lambda line: None) -> list[dict[str, Any]]:
    """Train what is missing and write the report; return a row per model and seed.

    A model that cannot be trained does not keep the others from it. Raises TaggerError at the end, naming all of them.
    """
    failed = {}
    for model, seed in plan(todo, say):
        try:
            run_one(todo, model, seed, say)
        except TaggerError as error:
            failed[model, seed] = error
            say(f"failed: {model} (seed {seed}): {error}")
    rows = finish(todo, say)
    check_failures(todo, failed)
    return rows


def check_failures(climb: Climb, failed: Mapping[tuple[str, int], object]) -> None:
    """Raise TaggerError when models and seeds could not be trained, with what each of them said."""
    if failed:
        said = "; ".join(f"{model} (seed {seed}): {error}" for (model, seed), error in failed.items())
        raise TaggerError(f"not trained: {said}; {climb.out}/report.html has the others")


def _own(climb: Climb, data: LadderData, model: str, seed: int, say: Say) -> tuple[dict[str, Any], Float32Array]:
    """Train a net of ours and save it."""
    device = hardware.device(climb.config.device)
    rung = fit_rung(model, data, climb.config, seed, device, climb.unfinished(model, seed), say)
    fitted = rung.fitted
    judged = own.judge(fitted, data.test)
    own.save(climb.folder(model, seed), fitted, rung.train, judged, climb.command)
    images = own.pixels(data.test.some(measuring.BATCH, 0), fitted.preparation, "cpu").images
    one_core, all_cores = measuring.rates(fitted.net, images)
    learning = sum(epoch.seconds for epoch in fitted.curve)
    facts = {
        "model": model,
        "seed": seed,
        "title": "k nearest neighbours" if model == "knn" else STEPS[model].title,
        "accuracy_tta": judged.accuracy_tta,
        "parameters": sum(parameter.numel() for parameter in fitted.net.parameters()),
        "flops": measuring.flops(fitted.net, images[:1]),
        "train_seconds": fitted.seconds,
        "train_images_per_second": len(rung.train.labels) * len(fitted.curve) / learning if learning else None,
        "epochs": len(fitted.curve) or None,
        "infer_one_core": one_core,
        "infer_all_cores": all_cores,
        "cut": rung.cut,
        "note": rung.note,
        "curve": [_point(asdict(epoch)) for epoch in fitted.curve],
        **rung.facts,
    }
    return facts, judged.scores


def _transfer(climb: Climb, data: LadderData, model: str, seed: int, say: Say) -> tuple[dict[str, Any], Float32Array]:
    """Train a backbone's head, or all of it."""
    made = fit_transfer(model, data, climb.config, seed, climb.folder(model, seed), climb.command, say)
    net = checkpoint.build(made.info)
    side = made.info.preprocessing.size[0]
    images = torch.zeros(64, 3, side, side)
    one_core, all_cores = measuring.rates(net, images)
    facts = {
        "model": model,
        "seed": seed,
        "title": made.title,
        "accuracy_tta": None,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "flops": measuring.flops(net, images[:1]),
        "train_seconds": made.seconds,
        "train_images_per_second": None,
        "epochs": len(made.curve) or None,
        "infer_one_core": one_core,
        "infer_all_cores": all_cores,
        "cut": made.cut,
        "note": made.note,
        "curve": made.curve,
    }
    return facts, made.scores


def _point(epoch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in epoch.items() if value is not None}


def _quality(judged: metrics.Evaluation) -> dict[str, Any]:
    found = judged.accuracy
    return {
        "accuracy": found.accuracy if found else None,
        "interval": list(found.interval) if found else [None, None],
        "log_loss": judged.log_loss,
        "calibration_error": judged.calibration_error,
    }


def _row(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a run as a row of results.parquet."""
    low, high = facts["interval"]
    versions = [f"{name} {version}" for name, version in facts["versions"].items()]
    return facts | {"accuracy_low": low, "accuracy_high": high, "versions": versions}


def _truth(data: LadderData) -> Float32Array:
    truth: Float32Array = np.eye(len(data.train.label_names), dtype=np.float32)[data.test.labels]
    return truth


_kept: dict[tuple[str, str | None, int], LadderData] = {}
"""The images that were read last: every model learns from the same."""


def _data(climb: Climb, say: Say = lambda line: None) -> LadderData:
    where = (climb.dataset, climb.data, climb.config.image_size)
    if where not in _kept:
        _kept.clear()
        _kept[where] = ladder_data.read(*where, say)
    return _kept[where]


def _key(climb: Climb, data: LadderData, model: str, seed: int) -> str:
    """Return a hash of everything that decides which model comes out."""
    if model in TRANSFER:
        how = transfer.identity(model, data, climb.config, seed)
    else:
        how = rungs.identity(model, data, climb.config)
    return fingerprint([_VERSION, data.data_id, model, seed, how])


def _facts(climb: Climb, model: str, seed: int) -> dict[str, Any] | None:
    """Return what is known of a model that is done, with these options; None otherwise."""
    uri = storage.join(climb.folder(model, seed), checkpoint.BUNDLE)
    if not storage.exists(uri):
        return None
    try:
        facts: dict[str, Any] = json.loads(storage.read_bytes(uri)).get("ladder") or {}
    except ValueError:
        return None
    return facts if facts.get("key") == _key(climb, _data(climb), model, seed) else None


def _is_whole(climb: Climb, model: str, seed: int, say: Say) -> bool:
    """Tell whether a model is done, with these options, and all of it can be read."""
    folder = climb.folder(model, seed)
    if not storage.exists(storage.join(folder, checkpoint.BUNDLE)):
        return False
    facts = _facts(climb, model, seed)
    if facts is None:
        say(f"{model} (seed {seed}): what is there has other options, or is damaged; it is replaced")
        return False
    try:
        checkpoint.build(checkpoint.describe(folder))
        _scores(climb, facts)
    except (TaggerError, ValueError) as error:
        say(f"{model} (seed {seed}): trained again, what is there is damaged ({error})")
        return False
    return True


def _check_options(climb: Climb, missing: Sequence[tuple[str, int]], say: Say) -> None:
    """Find out before anything is trained what would stop a model later."""
    config = climb.config
    hardware.device(config.device)
    images = _data(climb, say).train.images
    if config.preparation:
        normalisation.prepare(config.preparation, images[:1])
    if transferred := [model for model, _ in missing if model in TRANSFER]:
        try:
            checkpoint.build(checkpoint.describe(config.backbone))
        except TaggerError as error:
            raise UsageError(f"--backbone {error} (or leave {', '.join(transferred)} out of --models)") from error


def _scores(climb: Climb, facts: dict[str, Any]) -> Float32Array:
    content = storage.read_bytes(storage.join(climb.folder(facts["model"], facts["seed"]), SCORES))
    scores: Float32Array = np.load(io.BytesIO(content), allow_pickle=False)
    return scores


def _npy(array: Float32Array) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()
