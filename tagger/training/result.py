"""A trained network with calibration, thresholds and metrics, and its checkpoint folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from typing import cast

import numpy as np
import torch
from sklearn.metrics import precision_recall_curve

from tagger import checkpoint, options, schema, storage
from tagger.checkpoint import Built
from tagger.checkpoint.info import ModelInfo
from tagger.checkpoint.unknown import Statistics
from tagger.data.dataset import DATASET
from tagger.data.splits import NAMES
from tagger.evaluation import calibration, metrics, unknown
from tagger.evaluation.calibration import Threshold
from tagger.evaluation.metrics import Evaluation, Reliability
from tagger.images import UInt8Array
from tagger.inference.engines import Float32Array
from tagger.models.backbone import TimmNet
from tagger.reporting import plots
from tagger.training.config import DEFAULT_BACKBONE, TrainConfig
from tagger.training.data import TrainingData
from tagger.training.loaders import Normaliser
from tagger.training.methods import TrainedNetwork
from tagger.training.probe import scores_of

MISTAKES = 24
"""Number of images in the grid of mistakes."""
_SHOWN = 10
"""Maximum number of tags that a warning lists."""
_FROZEN = ("probe", "knn")
"""Methods that do not change the features of the backbone."""
PACKAGES = ("tagger", "torch", "timm", "scikit-learn", "pillow")


@dataclass(frozen=True)
class Trained:
    """A trained network, evaluated."""

    fitted: TrainedNetwork
    data: TrainingData
    config: TrainConfig
    seconds: float
    temperature: float
    thresholds: list[Threshold]
    scores: dict[str, Float32Array]
    """Split (val, and test if there is one) -> scores (N, K), calibrated."""
    truth: dict[str, Float32Array]
    evaluations: dict[str, Evaluation]
    statistics: Statistics | None = None
    """Statistics for detecting unknown images."""

    @property
    def reported(self) -> str:
        """Return the split that the card reports: test, or validation, whose numbers are optimistic."""
        return "test" if "test" in self.scores else "val"

    @cached_property
    def before_calibration(self) -> Reliability:
        """Return the reliability of the reported split before calibration."""
        raw = scores_of(self.fitted.logits[self.reported], self.config.task)
        return metrics.reliability_bins(raw, self.truth[self.reported], self.config.task)

    @property
    def warnings(self) -> list[str]:
        """Return the warnings of the model card."""
        return [*self.data.notes, *too_few(self.thresholds)]


def evaluate(fitted: TrainedNetwork, data: TrainingData, config: TrainConfig, seconds: float) -> Trained:
    """Fit temperature and thresholds on validation; evaluate validation and, once, the test split."""
    task, names = config.task, data.dataset.label_names
    truth = {name: data.truth(name) for name in fitted.logits}
    temperature = calibration.fit_temperature(fitted.logits["val"], truth["val"], task)
    scores = {name: scores_of(logits / temperature, task) for name, logits in fitted.logits.items()}
    thresholds = calibration.learn_thresholds(scores["val"], truth["val"], names, config.precision_target)
    limits = [each.threshold for each in thresholds]
    evaluations = {name: metrics.evaluate(scores[name], truth[name], task, names, limits) for name in scores}
    statistics = _statistics(fitted, data)
    return Trained(fitted, data, config, seconds, temperature, thresholds, scores, truth, evaluations, statistics)


def _statistics(fitted: TrainedNetwork, data: TrainingData) -> Statistics | None:
    """Return the statistics for detecting unknown images; None if there are too few images."""
    splits = {name: data.indices(name) for name in NAMES}
    if data.features is not None and fitted.method in _FROZEN:
        return unknown.fit(splits, data.features.__getitem__)
    return unknown.fit(splits, lambda rows: embed(fitted.network, data.pixels.fitted(rows), data.device))


@torch.inference_mode()
def embed(network: Built, pixels: UInt8Array, device: str) -> Float32Array:
    """Return the embeddings (N, D) of images (N, H, W, 3) of the size of the network's input."""
    net, normaliser = network.net.eval().to(device), Normaliser(network.preprocessing, device)
    timm_net, parts = cast(TimmNet, net), list[Float32Array]()
    for batch in normaliser.batches(pixels):
        features = timm_net.forward_head(timm_net.forward_features(batch), pre_logits=True)
        parts.append(features.float().cpu().numpy())
    net.cpu()
    return np.concatenate(parts)


def save(
    out: str,
    trained: Trained,
    command: str,
    facts: Mapping[str, object] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> ModelInfo:
    """Write the checkpoint folder with its card and plots; `facts` are added to tagger.json, `files` to the folder."""
    fitted, dataset = trained.fitted, trained.data.dataset
    fitted.network.net.cpu().eval()
    return checkpoint.save(
        out,
        fitted.network,
        label_names=dataset.label_names,
        task=trained.config.task,
        thresholds={each.tag: each.threshold for each in trained.thresholds},
        calibration=_calibration(trained),
        metrics={name: asdict(found) for name, found in trained.evaluations.items()},
        training=_training(trained, command),
        plots=_plots(trained),
        files={DATASET: schema.serialise(schema.without_locations(dataset.table), "manifest"), **(files or {})},
        facts=facts,
        statistics=trained.statistics,
    )


def _calibration(trained: Trained) -> dict[str, object]:
    return {
        "temperature": trained.temperature,
        "fitted_on": "val",
        "measured_on": trained.reported,
        "error_before": trained.before_calibration.error,
        "error_after": trained.evaluations[trained.reported].calibration_error,
        "precision_target": trained.config.precision_target,
        "tags": [asdict(each) for each in trained.thresholds],
    }


def _training(trained: Trained, command: str) -> dict[str, object]:
    fitted, config, dataset = trained.fitted, trained.config, trained.data.dataset
    backbone = checkpoint.default_backbone() if config.backbone == DEFAULT_BACKBONE else config.backbone
    backbone = storage.public_uri(backbone) if storage.is_remote(backbone) else backbone
    hyperparameters = options.used(config, method=fitted.method) | {"method": config.method}
    del hyperparameters["labels"]  # data, which the command names
    if "backbone" in hyperparameters:
        hyperparameters["backbone"] = backbone
    return {
        "command": command,
        "dataset": trained.data.name,
        "method": fitted.method,
        "backbone": hyperparameters.get("backbone"),
        "candidates": fitted.candidates,
        "hyperparameters": hyperparameters | fitted.recipe | fitted.chosen,
        "seed": config.seed,
        "images": {name: len(trained.data.indices(name)) for name in NAMES},
        "labels": dataset.counts(),
        "fingerprint": dataset.data_fingerprint(),
        "curve": [asdict(epoch) for epoch in fitted.curve],
        "warnings": trained.warnings,
        "seconds": round(trained.seconds, 1),
        "images_decoded": trained.data.decoded,
        "device": trained.data.device,
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def too_few(thresholds: list[Threshold]) -> list[str]:
    """Return warnings about tags whose threshold is not proven, with the number of validation images they need."""
    lines = []
    if few := [each for each in thresholds if each.status == "too few"]:
        missing = [f"{each.tag} ({each.needed or 'some'} more)" for each in few]
        lines.append(f"tags with too few validation images for a threshold: {_listed(missing)}")
    if missed := [each.tag for each in thresholds if each.status == "not reached"]:
        lines.append(f"tags that do not reach the target precision: {_listed(missed)}")
    return lines


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")


def _plots(trained: Trained) -> dict[str, tuple[str, bytes]]:
    """Return file name -> (title, PNG)."""
    split, names, task = trained.reported, trained.data.dataset.label_names, trained.config.task
    scores, truth = trained.scores[split], trained.truth[split]
    bins = metrics.reliability_bins(scores, truth, task)
    drawn = {
        "reliability": ("Reliability", plots.reliability(bins, trained.before_calibration)),
        "precision-recall": ("Precision and recall", _precision_recall(trained)),
    }
    if task == "multiclass":
        matrix = metrics.confusion_matrix(scores, truth)
        drawn["confusion"] = ("Confusion matrix", plots.confusion_matrix(matrix, list(names)))
        if (grid := _mistakes(trained)) is not None:
            drawn["mistakes"] = ("Most confident mistakes", grid)
    if trained.fitted.curve:
        curve = [asdict(epoch) for epoch in trained.fitted.curve]
        drawn["learning"] = ("Learning curves", plots.learning_curves(curve, trained.config.score_name))
    return drawn


def _precision_recall(trained: Trained) -> bytes:
    split = trained.reported
    curves, averages, chosen = {}, {}, {}
    for k, tag in enumerate(trained.evaluations[split].tags):
        if tag.images:
            precision, recall, _ = precision_recall_curve(trained.truth[split][:, k], trained.scores[split][:, k])
            curves[tag.tag] = (recall, precision)
            averages[tag.tag] = tag.average_precision or 0.0
            chosen[tag.tag] = None if tag.precision is None or tag.recall is None else (tag.recall, tag.precision)
    return plots.precision_recall(curves, averages, chosen, trained.config.precision_target)


def _mistakes(trained: Trained) -> bytes | None:
    """Return the most confident mistakes as a grid of images; None without any."""
    split, dataset = trained.reported, trained.data.dataset
    names, scores, truth = dataset.label_names, trained.scores[split], trained.truth[split]
    confident = metrics.confident_mistakes(scores, truth, MISTAKES)
    if not len(confident):
        return None
    rows = trained.data.indices(split)[confident]
    captions = []
    for row, place in zip(rows.tolist(), confident.tolist(), strict=True):
        label = names[truth[place].argmax()] if truth[place].any() else "no label"
        file = storage.redact(dataset.uris[row]).rpartition("/")[2]
        captions.append(f"{names[scores[place].argmax()]} {scores[place].max():.2f}\nlabel: {label}\n{file}")
    return plots.mistakes([trained.data.pixels.thumbnail(row) for row in rows.tolist()], captions)
