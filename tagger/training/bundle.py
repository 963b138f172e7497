"""What was learnt -> a checkpoint folder: calibrated, judged on the test split once, with card and plots."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
from torch import nn

from tagger import checkpoint, images, schema, storage
from tagger.checkpoint import card
from tagger.checkpoint.card import CardFacts, TagFacts
from tagger.checkpoint.info import ModelInfo
from tagger.data.dataset import DATASET, Examples
from tagger.data.splits import NAMES
from tagger.evaluation import calibration, metrics
from tagger.evaluation.calibration import Threshold
from tagger.evaluation.metrics import Evaluation
from tagger.inference.engines import Float32Array
from tagger.reporting import plots
from tagger.training import network
from tagger.training.config import TrainConfig
from tagger.training.probe import scores_of

MISTAKES = 24
_SHOWN = 10
"""Tags that a warning names."""
_PACKAGES = ("tagger", "torch", "timm", "scikit-learn", "pillow")


@dataclass(frozen=True)
class Outcome:
    """The network that validated best."""

    net: nn.Module
    architecture: str
    arguments: dict[str, Any]
    """model_args"""
    method: str
    logits: dict[str, Float32Array]
    """val, and test where there is one: (N, K) before the temperature"""
    candidates: dict[str, float]
    """Method -> validation score"""
    curve: list[dict[str, Any]] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)
    """What validation chose beside the weights."""
    earlier_seconds: float = 0.0
    """What a training that was killed, and went on, had taken until then."""


@dataclass(frozen=True)
class Learned:
    """What came out of training and everything that is known of how it came about."""

    outcome: Outcome
    examples: Examples
    config: TrainConfig
    backbone: ModelInfo
    device: str
    seconds: float
    decoded: int
    """Images whose features had to be computed: what seconds depend on."""
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """A trained network's scores, thresholds and numbers."""

    temperature: float
    thresholds: list[Threshold]
    scores: dict[str, Float32Array]
    truth: dict[str, Float32Array]
    evaluations: dict[str, Evaluation]
    """val, and test where there is one"""
    error_before: float | None
    """Calibration error of the reported split before the temperature"""

    @property
    def reported(self) -> str:
        """Return the split that the card reports: test, or without one validation, which flatters."""
        return "test" if "test" in self.scores else "val"


def write(out: str, command: str, learned: Learned, judged: Judged) -> ModelInfo:
    """Draw, and write the checkpoint folder."""
    names, outcome = learned.examples.label_names, learned.outcome
    config = network.timm_config(
        outcome.net, outcome.architecture, learned.backbone, outcome.arguments, names, learned.config
    )
    pictures = draw(learned, judged)
    files = {f"plots/{name}.png": content for name, (_, content) in pictures.items()}
    files[DATASET] = schema.serialise(schema.without_locations(learned.examples.table), "manifest")
    text = card.card(
        _facts(out, command, learned, judged, {title: f"plots/{n}.png" for n, (title, _) in pictures.items()})
    )
    net = outcome.net.cpu().eval()
    return checkpoint.save(out, net, config, _tagger_json(learned, judged, command), text, files)


def judge(learned: Learned) -> Judged:
    """Learn temperature and thresholds on validation; score validation and, once, the test split."""
    task, names, config = learned.config.task, learned.examples.label_names, learned.config
    truth = {name: learned.examples.truth[learned.examples.split(name)] for name in learned.outcome.logits}
    temperature = calibration.fit_temperature(learned.outcome.logits["val"], truth["val"], task)
    scores = {name: scores_of(logits / temperature, task) for name, logits in learned.outcome.logits.items()}
    thresholds = calibration.learn_thresholds(scores["val"], truth["val"], names, config.precision_target)
    limits = [each.threshold for each in thresholds]
    evaluations = {name: metrics.evaluate(scores[name], truth[name], task, names, limits) for name in scores}
    reported = "test" if "test" in scores else "val"
    before = metrics.calibration_error(scores_of(learned.outcome.logits[reported], task), truth[reported], task)
    return Judged(temperature, thresholds, scores, truth, evaluations, before)


def draw(learned: Learned, judged: Judged) -> dict[str, tuple[str, bytes]]:
    """Return file name -> (title, PNG) of what makes the numbers understood."""
    split, names, task = judged.reported, learned.examples.label_names, learned.config.task
    scores, truth = judged.scores[split], judged.truth[split]
    bins = metrics.reliability_bins(scores, truth, task)
    raw = metrics.reliability_bins(scores_of(learned.outcome.logits[split], task), truth, task)
    before = (raw.confidence, raw.right, raw.count)
    drawn = {
        "reliability": ("Reliability", plots.reliability(bins.confidence, bins.right, bins.count, before)),
        "precision-recall": ("Precision and recall", _precision_recall(learned, judged)),
    }
    if task == "multiclass":
        drawn["confusion"] = (
            "Confusion matrix",
            plots.confusion_matrix(metrics.confusion_matrix(scores, truth), names),
        )
        if (grid := _mistakes(learned, judged)) is not None:
            drawn["mistakes"] = ("Most confident mistakes", grid)
    if learned.outcome.curve:
        name = "accuracy" if task == "multiclass" else "mean average precision"
        drawn["learning"] = ("Learning curves", plots.learning_curves(learned.outcome.curve, name))
    return drawn


def _precision_recall(learned: Learned, judged: Judged) -> bytes:
    split, names = judged.reported, learned.examples.label_names
    curves, averages, chosen = {}, {}, {}
    found = metrics.precision_recall_curve(judged.scores[split], judged.truth[split])
    for name, curve, tag in zip(names, found, judged.evaluations[split].tags, strict=True):
        if curve is not None:
            curves[name] = (curve.recall, curve.precision)
            averages[name] = tag.average_precision or 0.0
            chosen[name] = None if tag.precision is None or tag.recall is None else (tag.recall, tag.precision)
    return plots.precision_recall(curves, averages, chosen, learned.config.precision_target)


def _mistakes(learned: Learned, judged: Judged) -> bytes | None:
    """Return the wrong answers that the network was surest of, as pictures; None when there are none."""
    split, names = judged.reported, learned.examples.label_names
    scores, truth = judged.scores[split], judged.truth[split]
    wrong = np.flatnonzero(truth[np.arange(len(truth)), scores.argmax(axis=1)] == 0)
    surest = wrong[np.argsort(-scores.max(axis=1)[wrong], kind="stable")][:MISTAKES]
    if not len(surest):
        return None
    places = np.array(learned.examples.locations, dtype=object)[learned.examples.split(split)]
    pictures, captions = [], []
    for row in surest:
        picture, _ = images.decode(storage.read_bytes(places[row]))
        picture.thumbnail((160, 160))
        pictures.append(np.asarray(picture))
        is_really = names[truth[row].argmax()] if truth[row].any() else "none of them"
        name = storage.public_uri(places[row]).rpartition("/")[2]
        captions.append(f"{names[scores[row].argmax()]} {scores[row].max():.2f}\nis {is_really}\n{name}")
    return plots.mistakes(pictures, captions)


def _tagger_json(learned: Learned, judged: Judged, command: str) -> dict[str, Any]:
    evaluation = judged.evaluations[judged.reported]
    return {
        "task": learned.config.task,
        "label_names": list(learned.examples.label_names),
        "thresholds": {each.tag: each.threshold for each in judged.thresholds},
        "calibration": {
            "temperature": judged.temperature,
            "fitted_on": "val",
            "measured_on": judged.reported,
            "error_before": judged.error_before,
            "error_after": evaluation.calibration_error,
            "precision_target": learned.config.precision_target,
            "tags": [asdict(each) for each in judged.thresholds],
        },
        "metrics": {name: asdict(found) for name, found in judged.evaluations.items()},
        "training": {
            "command": command,
            "method": learned.outcome.method,
            "candidates": learned.outcome.candidates,
            "chosen": learned.outcome.chosen,
            "backbone": learned.config.backbone,
            "config": asdict(learned.config),
            "images": {name: int(learned.examples.split(name).sum()) for name in NAMES},
            "fingerprint": learned.examples.data_fingerprint(),
            "curve": learned.outcome.curve,
            "warnings": list(learned.warnings),
            "seconds": round(learned.seconds, 1),
            "images_decoded": learned.decoded,
            "device": learned.device,
            "versions": _versions(),
        },
    }


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES}


_WORDS = {"train": "train", "val": "validation", "test": "test"}


def _facts(out: str, command: str, learned: Learned, judged: Judged, drawn: dict[str, str]) -> CardFacts:
    after = judged.evaluations[judged.reported].calibration_error
    errors = None if judged.error_before is None or after is None else (judged.error_before, after)
    return CardFacts(
        name=out.rstrip("/").rpartition("/")[2],
        task=learned.config.task,
        architecture=learned.backbone.architecture,
        backbone=learned.config.backbone,
        method=learned.outcome.method,
        label_names=learned.examples.label_names,
        images={word: int(learned.examples.split(name).sum()) for name, word in _WORDS.items()},
        headlines={_WORDS[split]: headline(found) for split, found in judged.evaluations.items()},
        tags=_tag_facts(learned, judged),
        tags_measured_on=_WORDS[judged.reported],
        calibration_error=errors,
        temperature=judged.temperature,
        precision_target=learned.config.precision_target,
        warnings=[*learned.warnings, *too_few(judged.thresholds)],
        plots=drawn,
        command=command,
        config=asdict(learned.config) | learned.outcome.chosen,
        fingerprint=learned.examples.data_fingerprint(),
        seconds=learned.seconds,
        device=learned.device,
        versions=_versions(),
    )


def headline(evaluation: Evaluation) -> str:
    """Return accuracy or mean average precision with its interval."""
    if evaluation.accuracy:
        low, high = evaluation.accuracy.interval
        return f"accuracy {evaluation.accuracy.accuracy:.1%} ({low:.1%} to {high:.1%})"
    between = ""
    if evaluation.mean_average_precision_interval:
        low, high = evaluation.mean_average_precision_interval
        between = f" ({low:.1%} to {high:.1%})"
    return f"mean average precision {evaluation.mean_average_precision or 0.0:.1%}{between}"


def too_few(thresholds: list[Threshold]) -> list[str]:
    """Say which tags cannot be trusted yet, and how many examples would do."""
    lines = []
    few = [each for each in thresholds if each.status == "too few"]
    if few:
        missing = [f"{each.tag} ({each.needed or 'some'} more)" for each in few]
        lines.append(f"tags with too few validation examples for a threshold: {_shown(missing)}")
    missed = [each.tag for each in thresholds if each.status == "not reached"]
    if missed:
        lines.append(f"tags that do not reach the precision asked for: {_shown(missed)}")
    return lines


def _shown(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def _tag_facts(learned: Learned, judged: Judged) -> list[TagFacts]:
    counts = learned.examples.counts()
    return [
        TagFacts(
            tag=found.tag,
            train=counts["train"][found.tag],
            validation=counts["val"][found.tag],
            test=counts["test"][found.tag],
            precision=found.precision,
            recall=found.recall,
            average_precision=found.average_precision,
            threshold=learnt.threshold,
            status=learnt.status,
            needed=None if learnt.needed is None else learnt.images + learnt.needed,
        )
        for found, learnt in zip(judged.evaluations[judged.reported].tags, judged.thresholds, strict=True)
    ]
