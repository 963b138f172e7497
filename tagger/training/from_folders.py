"""From a folder of labelled images to a checkpoint folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch

from tagger import checkpoint, datasets, metrics, storage
from tagger.datasets import LabelledImages
from tagger.errors import UsageError
from tagger.model_info import ModelInfo
from tagger.models.speedrun import Speedrun
from tagger.training.scratch import EpochReport, ScratchConfig, predict_scores, train_from_scratch


def train_folder(
    data: str,
    out: str,
    config: ScratchConfig,
    device: str = "auto",
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
) -> ModelInfo:
    """Train on `data/train/<class>/`, report on `data/test/<class>/`, save a checkpoint folder; return what is in it.

    The test split is read once, after training. Raises UsageError or SourceError before anything is trained.
    """
    if min(config.epochs, config.batch_size) < 1 or config.image_size < 16:
        raise UsageError("--epochs and --batch-size must be at least 1, --image-size at least 16")
    if storage.names_in(storage.absolute(out)):
        raise UsageError(f"--out {out}: exists and is not empty; choose a new folder for the checkpoint")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    size = (config.image_size, config.image_size)
    train = datasets.read_class_folders(storage.join(data, "train"), size)
    test = datasets.read_class_folders(storage.join(data, "test"), size, train.label_names)
    curve: list[EpochReport] = []

    def report(epoch: EpochReport) -> None:
        curve.append(epoch)
        on_epoch(epoch)

    net = train_from_scratch(train, len(train.label_names), config, device, report)
    scores = predict_scores(net, test).numpy()
    result = metrics.accuracy(scores, test.labels)
    run = ScratchRun(config, device, train, test, curve, result)
    return checkpoint.save(out, net, run.timm_config(net), run.bundle(), run.card(out, net))


@dataclass(frozen=True)
class ScratchRun:
    """What a finished training leaves for the checkpoint folder."""

    config: ScratchConfig
    device: str
    train: LabelledImages
    test: LabelledImages
    curve: list[EpochReport]
    result: metrics.Accuracy

    def timm_config(self, net: Speedrun) -> dict[str, Any]:
        """Return config.json in timm's format."""
        side = self.config.image_size
        return {
            "architecture": "tagger_speedrun",
            "num_classes": len(self.train.label_names),
            "num_features": net.num_features,
            "model_args": {},
            "label_names": list(self.train.label_names),
            "pretrained_cfg": {
                "input_size": [3, side, side],
                "interpolation": "bicubic",
                "crop_pct": 1.0,
                "crop_mode": "center",
                "mean": list(self.train.mean),
                "std": list(self.train.std),
                "num_classes": len(self.train.label_names),
            },
        }

    def bundle(self) -> dict[str, Any]:
        """Return tagger.json."""
        packages = ("tagger", "torch", "timm")
        return {
            "task": "multiclass",
            "label_names": list(self.train.label_names),
            "metrics": {"test": {"images": self.result.images, "accuracy": asdict(self.result)}},
            "training": {
                "config": asdict(self.config),
                "images": len(self.train.labels),
                "fingerprint": self.train.fingerprint(),
                "seconds": round(sum(epoch.seconds for epoch in self.curve)),
                "device": self.device,
                "versions": {name: metadata.version(name) for name in packages},
            },
        }

    def card(self, out: str, net: Speedrun) -> str:
        """Return the model card as Markdown."""
        low, high = self.result.interval
        curve = (f"| {r.epoch} | {r.loss:.3f} | {r.accuracy:.1%} | {r.seconds:.0f} |" for r in self.curve)
        return _CARD.format(
            name=out.rstrip("/").rpartition("/")[2],
            out=out,
            config=self.config,
            parameters=sum(parameter.numel() for parameter in net.parameters()),
            images=len(self.train.labels),
            labels=", ".join(self.train.label_names),
            test=self.result,
            low=low,
            high=high,
            seconds=sum(epoch.seconds for epoch in self.curve),
            device=self.device,
            curve="\n".join(curve),
        )


_CARD = """# {name}

A convolutional net of {parameters:,} parameters (`tagger/models/speedrun.py`), trained from scratch on
{images:,} images of {config.image_size}x{config.image_size} pixels: {labels}.

**Test accuracy {test.accuracy:.2%}** (95% interval {low:.2%} to {high:.2%}) on {test.images:,} images never used in
training, one seed, without test-time augmentation.

Made in {seconds:.0f} s on {device} by

    tagger train DATA --method scratch --out {out} --image-size {config.image_size} \\
        --epochs {config.epochs} --batch-size {config.batch_size} --seed {config.seed}

where DATA holds `train/<class>/` and `test/<class>/`.

| epoch | loss | accuracy on augmented training images | seconds |
|---|---|---|---|
{curve}

The weights are under the licence of this project. Scores are softmax probabilities, not calibrated.
"""
