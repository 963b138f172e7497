"""From a folder of labelled images to a checkpoint of the speed-run net."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace

from tagger import hardware, storage
from tagger.checkpoint.info import ModelInfo
from tagger.data import arrays, normalisation
from tagger.errors import UsageError
from tagger.training import own
from tagger.training.fitting import Diverged, OnEpoch, Recipe

SPEEDRUN = Recipe(
    epochs=14,
    batch_size=512,
    lr=0.75,
    schedule="triangle",
    momentum="0.85",
    nesterov=True,
    weight_decay=0.002 / 1.5,
    norm_rate=64.0,
    label_smoothing=0.2,
    mirror="alternate",
    shift=2,
    fill="reflect",
    learnt_until=(("whiten.bias", 3),),
    average=True,
)
"""airbench's recipe (Jordan 2024, arXiv 2404.00498); its rates are for batches of 1,024, here scaled with the batch.

14 epochs of CIFAR-10 are 0.345 PFLOP for this net, airbench94's own are 0.36.
"""


@dataclass(frozen=True)
class ScratchConfig:
    """What a user may decide about a net from scratch."""

    image_size: int = 32
    epochs: int = SPEEDRUN.epochs
    batch_size: int = SPEEDRUN.batch_size
    seed: int = 0

    def recipe(self) -> Recipe:
        """Return the recipe with these epochs and this batch; raises UsageError."""
        if self.image_size < 16:
            raise UsageError(f"--image-size must be at least 16, got {self.image_size}")
        rate = SPEEDRUN.lr * self.batch_size / SPEEDRUN.batch_size
        return replace(SPEEDRUN, epochs=self.epochs, batch_size=self.batch_size, lr=rate)


def train_folder(
    data: str, out: str, config: ScratchConfig, device: str = "auto", on_epoch: OnEpoch = lambda report: None
) -> ModelInfo:
    """Train on `data/train/<class>/`, report on `data/test/<class>/`, save a checkpoint folder; return what is in it.

    The test split is read once, after training. Raises UsageError or SourceError before anything is trained.
    """
    recipe = config.recipe()
    if storage.names_in(storage.absolute(out)):
        raise UsageError(f"--out {out}: exists and is not empty; choose a new folder for the checkpoint")
    device = hardware.device(device)
    size = (config.image_size, config.image_size)
    train = arrays.read_class_folders(storage.join(data, "train"), size)
    test = arrays.read_class_folders(storage.join(data, "test"), size, train.label_names)
    preparation = normalisation.prepare("standardise", train.images)
    try:
        fitted = own.train_net("tagger_speedrun", {}, train, None, preparation, recipe, config.seed, device, on_epoch)
    except Diverged as error:
        raise UsageError(f"{error}; take a smaller --batch-size, and with it a lower rate") from error
    return own.save(out, fitted, train, own.judge(fitted, test), _command(out, config))


def _command(out: str, config: ScratchConfig) -> str:
    options = ["--image-size", config.image_size, "--epochs", config.epochs, "--batch-size", config.batch_size]
    return shlex.join(
        ["tagger", "train", "DATA", "--method", "scratch", "--out", out, *map(str, options), "--seed", str(config.seed)]
    )
