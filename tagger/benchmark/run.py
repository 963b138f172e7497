"""Train the missing models of a benchmark, one by one, and write its report.

OUT/models/<model>-<seed>/ is an ordinary checkpoint folder. Its tagger.json is written last and records the options and
data of the model, so after a kill the same command trains only the missing models.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from importlib import metadata

import numpy as np
import torch

from tagger import checkpoint, hardware, options, schema, storage
from tagger.benchmark import data as benchmark_data
from tagger.benchmark import measure, pages
from tagger.benchmark.baselines import DETERMINISTIC, TRANSFER, weight
from tagger.benchmark.budget import Budget
from tagger.benchmark.config import FULL, BenchmarkConfig
from tagger.benchmark.data import CIFAR10, BenchmarkData, Say
from tagger.benchmark.train import Model, Task, evaluate, identity, train_model
from tagger.checkpoint.info import Json, fingerprint
from tagger.data import normalisation
from tagger.errors import TableError, TaggerError, UsageError
from tagger.evaluation.metrics import Evaluation
from tagger.inference.engines import Float32Array
from tagger.training import result
from tagger.training.data import Callbacks
from tagger.training.result import PACKAGES
from tagger.training.resume import State

SCORES = "scores.npy"
SAVED_EVERY = 30.0
"""Seconds between two saves of a training's state; a kill costs no more than this plus the epoch it was in."""
_VERSION = 4
"""Increment it when the same recipe, normalisation and images give another model."""
_LONG = 1000
"""Number of images from which progress is reported."""

Pair = tuple[str, int]


class Benchmark:
    """A benchmark: models and seeds, trained on the same images into one folder."""

    def __init__(
        self,
        dataset: str,
        out: str,
        config: BenchmarkConfig | None = None,
        data: str | None = None,
        say: Say = lambda line: None,
    ) -> None:
        if data and dataset != CIFAR10:
            raise UsageError(f"--data {data}: is the location of CIFAR-10; with the dataset {dataset}, omit it")
        self.dataset, self.out, self.config = dataset, out, config or BenchmarkConfig()
        self.place, self.say = data, say
        self.budget = Budget(self.config.seconds)

    @property
    def command(self) -> str:
        """Return the command that reproduces the report."""
        return options.command("benchmark", self.dataset, self.config, out=self.out, data=self.place)

    @property
    def pairs(self) -> list[Pair]:
        """Return all pairs of model and seed, ordered by seed; deterministic models have one seed."""
        seeds, models = range(self.config.seeds), self.config.models
        return [(model, seed) for seed in seeds for model in models if not (seed and model in DETERMINISTIC)]

    @cached_property
    def data(self) -> BenchmarkData:
        """Read the images, once for all models."""
        return benchmark_data.read(self.dataset, self.place, self.config, Callbacks(self.say, _tenths(self.say)))

    def missing(self) -> list[Pair]:
        """Return the models and seeds still to be trained, the cheapest first, after checking their options.

        Raises UsageError for an --out that has other files, or an invalid option.
        """
        known = {pages.MODELS, pages.PLOTS, "results.parquet", "report.md", "report.html"}
        if foreign := [name for name in storage.names_in(storage.absolute(self.out)) or [] if name not in known]:
            raise UsageError(
                f"--out {self.out}: has other files ({', '.join(foreign[:3])}); choose a new folder, or that of an "
                "earlier benchmark"
            )
        missing = [pair for pair in self.pairs if not self._is_complete(*pair)]
        self._check_options(missing)
        if done := len(self.pairs) - len(missing):
            self.say(f"{done} of {len(self.pairs)} models are already trained, {len(missing)} to train")
        return sorted(missing, key=lambda pair: weight(pair[0]))

    def train(self, model: str, seed: int, later: Sequence[Pair] = ()) -> Json:
        """Train one model with one seed, evaluate and save it; the models in `later` share the rest of the budget."""
        folder, say = self.folder(model, seed), partial(self._say, model, seed)
        storage.remove_folder(folder)
        callbacks = Callbacks(say, _tenths(say), lambda epoch: say(epoch.text()))
        torch.set_num_threads(hardware.cores())
        seconds = self.budget.share(weight(model), [weight(name) for name, _ in later])
        state = self._state(model, seed)
        with measure.Memory("cpu" if model == "knn" else hardware.device(self.config.device)) as memory:
            trained = train_model(Task(model, self.data, self.config, seed, seconds, state, callbacks))
        evaluation = evaluate(trained, self.data)
        facts = self._facts_of(trained, evaluation, model, seed)
        facts |= {"memory_bytes": memory.peak, "device": memory.device}
        self._save(folder, trained, evaluation, facts)
        state.remove()
        say(f"{facts['accuracy'] or 0:.2%} of the test images{f' ({trained.cut})' if trained.cut else ''}")
        return facts

    def finish(self) -> list[Json]:
        """Write results.parquet, report.md and report.html of all trained models; return the rows."""
        rows = [facts for pair in self.pairs if (facts := self._facts(*pair))]
        scores = [self._scores(row) for row in rows]
        out = storage.absolute(self.out)
        table = schema.from_rows([_row(facts) for facts in rows], "benchmark")
        storage.write_atomic(storage.join(out, "results.parquet"), schema.serialise(table, "benchmark"))
        pages.write(out, pages.gather(self.data, rows, scores, self.folder, self.command))
        return rows

    def run(self) -> list[Json]:
        """Train the missing models and write the report; return a row per model and seed.

        A model that fails does not stop the others. Raises TaggerError at the end, naming all that failed.
        """
        failed: dict[Pair, object] = {}
        missing = self.missing()
        for index, (model, seed) in enumerate(missing):
            try:
                self.train(model, seed, missing[index + 1 :])
            except TaggerError as error:
                failed[model, seed] = error
                self._say(model, seed, f"failed: {error}")
        rows = self.finish()
        self.check_failures(failed)
        return rows

    def check_failures(self, failed: Mapping[Pair, object]) -> None:
        """Raise TaggerError if models failed, with the reason for each."""
        if failed:
            listed = "; ".join(f"{model} (seed {seed}): {error}" for (model, seed), error in failed.items())
            raise TaggerError(f"not trained: {listed}; {self.out}/report.html has the others")

    def folder(self, model: str, seed: int) -> str:
        """Return the checkpoint folder of a model and seed."""
        return storage.join(storage.absolute(self.out), f"{pages.MODELS}/{model}-{seed}")

    def _state(self, model: str, seed: int) -> State:
        """Return the saved state of a training, after removing one that belongs to other options or data."""
        uri = storage.join(storage.absolute(self.out), f"{pages.MODELS}/_{model}-{seed}.pt")
        state = State(uri, {"key": self._key(model, seed), "budget": self.config.budget}, SAVED_EVERY)
        if not state.exists():
            return state
        try:
            before = state.load()["identity"]
            if (before["key"], before["budget"]) == (state.identity["key"], state.identity["budget"]):
                self._say(model, seed, "continues after the last saved epoch")
                return state
            reason = "the options changed"
        except (TableError, KeyError) as error:
            reason = str(error)
        self._say(model, seed, f"starts over ({reason})")
        state.remove()
        return state

    def _key(self, model: str, seed: int) -> str:
        """Return a hash of everything that determines the model that a training in full produces."""
        how = identity(model, self.data, self.config, seed)
        return fingerprint([_VERSION, self.data.data_id, model, seed, how])

    def _facts(self, model: str, seed: int) -> Json | None:
        """Return the facts of a model that was trained with these options; None otherwise."""
        uri = storage.join(self.folder(model, seed), checkpoint.BUNDLE)
        if not storage.exists(uri):
            return None
        try:
            facts: Json = json.loads(storage.read_bytes(uri)).get("benchmark") or {}
        except ValueError:
            return None
        same = facts.get("key") == self._key(model, seed)
        return facts if same and (not facts["cut"] or facts["budget"] == self.config.budget) else None

    def _is_complete(self, model: str, seed: int) -> bool:
        """Return whether a model was trained with these options and can be read."""
        folder = self.folder(model, seed)
        if not storage.exists(storage.join(folder, checkpoint.BUNDLE)):
            return False
        facts = self._facts(model, seed)
        if facts is None:
            self._say(model, seed, "was trained with other options, or is damaged; it is trained again")
            return False
        try:
            checkpoint.build(checkpoint.describe(folder))
            self._scores(facts)
        except (TaggerError, ValueError) as error:
            self._say(model, seed, f"damaged ({error}); it is trained again")
            return False
        return True

    def _check_options(self, missing: Sequence[Pair]) -> None:
        """Raise now the TaggerError that would stop a model later."""
        hardware.device(self.config.device)
        if transferred := [model for model, _ in missing if model in TRANSFER]:
            try:
                checkpoint.build(checkpoint.describe(self.config.backbone))
            except TaggerError as error:
                raise UsageError(f"--backbone {error} (or remove {', '.join(transferred)} from --models)") from error
        images = self.data.images
        if self.config.normalisation:
            normalisation.compute(self.config.normalisation, images[:1])

    def _facts_of(self, trained: Model, evaluation: Evaluation, model: str, seed: int) -> Json:
        """Return the report's entries of a model."""
        net, size = trained.network.net, trained.network.preprocessing.size
        inputs = torch.zeros(measure.BATCH, 3, *size)
        one_core, all_cores = measure.rates(net, inputs)
        learning = sum(epoch.seconds for epoch in trained.curve)
        found = evaluation.accuracy
        return {
            "model": model,
            "seed": seed,
            "title": trained.title,
            "accuracy": found.accuracy if found else None,
            "interval": list(found.interval) if found else [None, None],
            "accuracy_tta": trained.accuracy_tta,
            "log_loss": evaluation.log_loss,
            "calibration_error": evaluation.calibration_error,
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "flops": measure.flops(net, inputs[:1]),
            "train_seconds": trained.seconds,
            "train_images_per_second": trained.images * len(trained.curve) / learning if learning else None,
            "epochs": len(trained.curve) or None,
            "infer_one_core": one_core,
            "infer_all_cores": all_cores,
            "cut": trained.cut,
            "note": trained.note,
            "curve": [{k: v for k, v in asdict(epoch).items() if v is not None} for epoch in trained.curve],
            "versions": {name: metadata.version(name) for name in ("tagger", "torch", "timm")},
            "key": self._key(model, seed),
            "budget": self.config.budget if trained.cut else FULL,
            **trained.facts,
        }

    def _save(self, folder: str, trained: Model, evaluation: Evaluation, facts: Json) -> None:
        files = {SCORES: _npy(trained.scores)}
        if trained.trained is not None:
            result.save(folder, trained.trained, self.command, {"benchmark": facts}, files)
            return
        checkpoint.save(
            folder,
            trained.network,
            label_names=self.data.dataset.label_names,
            task="multiclass",
            metrics={"test": asdict(evaluation), "test_accuracy_tta": trained.accuracy_tta},
            training=self._training(trained, facts),
            files=files,
            facts={"benchmark": facts},
            statistics=trained.statistics,
        )

    def _training(self, trained: Model, facts: Json) -> Json:
        data, names = self.data, self.data.dataset.label_names
        caveats = [f"trained on less than the recipe: {trained.cut}"] if trained.cut else []
        return {
            "command": self.command,
            "dataset": data.name,
            "method": "knn" if facts["model"] == "knn" else "scratch",
            "backbone": None,
            "hyperparameters": trained.hyperparameters,
            "seed": facts["seed"],
            "images": {"train": trained.images, "test": len(data.test)},
            "labels": {"train": data.train.counts(names), "test": data.test.counts(names)},
            "fingerprint": data.data_id,
            "curve": facts["curve"],
            "warnings": [line for line in (*caveats, data.note, trained.note) if line],
            "seconds": round(trained.seconds, 1),
            "device": facts["device"],
            "versions": {name: metadata.version(name) for name in PACKAGES},
        }

    def _scores(self, facts: Json) -> Float32Array:
        content = storage.read_bytes(storage.join(self.folder(facts["model"], facts["seed"]), SCORES))
        scores: Float32Array = np.load(io.BytesIO(content), allow_pickle=False)
        return scores

    def _say(self, model: str, seed: int, line: str) -> None:
        self.say(f"{model} (seed {seed}): {line}" if self.config.seeds > 1 else f"{model}: {line}")


def _tenths(say: Say) -> Callable[[str, int, int], None]:
    """Return a progress callback that reports every tenth of a long step."""
    reported: dict[str, int] = {}

    def on_progress(step: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if total >= _LONG and tenth > reported.get(step, 0):
            reported[step] = tenth
            say(f"{step}: {done:,} of {total:,}")

    return on_progress


def _row(facts: Json) -> Json:
    """Return the facts of a model as a row of results.parquet."""
    low, high = facts["interval"]
    versions = [f"{name} {version}" for name, version in facts["versions"].items()]
    return facts | {"accuracy_low": low, "accuracy_high": high, "versions": versions}


def _npy(array: Float32Array) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()
