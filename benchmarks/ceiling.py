"""Accuracy of several checkpoints alone and combined, and the resolution of the test images.

    python -m benchmarks.ceiling CHECKPOINT... [--side 32]

The checkpoints must be trained on the same images and splits (`dataset.parquet`). Prints accuracy and log-loss on
validation and test: of each checkpoint, of each averaged over an image and its mirror image, of the mean of all scores,
and of one network with the mean of all weights. Finally prints the PSNR of the test images after shrinking to `--side`
pixels and enlarging again: a high value means that an image has no more detail than that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import machine
from tagger import checkpoint, images, storage
from tagger.checkpoint.info import ModelInfo
from tagger.data.dataset import DATASET, Dataset, read_dataset
from tagger.data.pixels import FilePixels
from tagger.images import UInt8Array
from tagger.training.loaders import Normaliser
from tagger.training.trainer import logits_of

SPLITS = ("val", "test")

Scores = Callable[[UInt8Array], Tensor]
"""Images (N, H, W, 3) -> probabilities (N, K)."""


def main() -> None:
    """Parse the arguments, score the splits, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--side", type=int, default=32)
    arguments = parser.parse_args()
    models = [checkpoint.describe(each) for each in arguments.checkpoints]
    dataset = read_dataset(storage.join(storage.absolute(arguments.checkpoints[0]), DATASET), multilabel=False)
    print(f"{machine.describe()}\n\n| | {' | '.join(f'{split}: accuracy | log-loss' for split in SPLITS)} |")
    print("|---|--:|--:|--:|--:|")
    parts = [split_of(dataset, split, models[0]) for split in SPLITS]
    for name, scores in candidates(models):
        cells = [metrics(scores(pixels), labels) for pixels, labels in parts]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\nPSNR after {arguments.side} pixels: median {np.median(psnr(dataset, arguments.side)):.1f} dB")


def split_of(dataset: Dataset, split: str, info: ModelInfo) -> tuple[UInt8Array, Tensor]:
    """Return pixels (N, H, W, 3) at the networks' input size, and labels (N,)."""
    rows = np.flatnonzero(dataset.split(split))
    pixels = FilePixels(dataset.locations, info.preprocessing).fitted(rows)
    return pixels, torch.from_numpy(dataset.truth[rows].argmax(axis=1))


def candidates(models: Sequence[ModelInfo]) -> list[tuple[str, Scores]]:
    """Return the models to compare, by name."""
    nets = [checkpoint.build(info) for info in models]
    each = [scores_of(info, net) for info, net in zip(models, nets, strict=True)]
    found = [(info.name, scores) for info, scores in zip(models, each, strict=True)]
    found += [(f"{info.name}, mirrored too", mirrored(scores)) for info, scores in zip(models, each, strict=True)]
    if len(nets) > 1:
        found.append(("mean of scores", lambda pixels: torch.stack([scores(pixels) for scores in each]).mean(0)))
        found.append(("mean of weights", scores_of(models[0], mean_net(models[0], nets))))
    return found


def scores_of(info: ModelInfo, net: nn.Module) -> Scores:
    """Return a function that computes a network's scores, not calibrated."""
    normaliser = Normaliser(info.preprocessing, "cpu")
    return lambda pixels: logits_of(net, map(normaliser, torch.from_numpy(pixels).split(64))).softmax(1)


def mirrored(scores: Scores) -> Scores:
    """Return a function that averages the scores of an image and its mirror image."""
    return lambda pixels: (scores(pixels) + scores(np.ascontiguousarray(pixels[:, :, ::-1]))) / 2


def mean_net(info: ModelInfo, nets: Sequence[nn.Module]) -> nn.Module:
    """Return a network with the mean of all weights."""
    states, net = [each.state_dict() for each in nets], checkpoint.build(info)
    first = states[0]
    net.load_state_dict(
        {name: torch.stack([state[name].float() for state in states]).mean(0).to(first[name].dtype) for name in first}
    )
    return net


def metrics(scores: Tensor, labels: Tensor) -> str:
    """Return accuracy and log-loss as cells."""
    accuracy = (scores.argmax(1) == labels).float().mean().item()
    return f"{accuracy:.1%} | {functional.nll_loss(scores.log(), labels).item():.3f}"


def psnr(dataset: Dataset, side: int) -> list[float]:
    """Return the PSNR in dB of each test image after shrinking and enlarging."""
    found = []
    for row in np.flatnonzero(dataset.split("test")).tolist():
        image, _ = images.decode(storage.read_bytes(dataset.locations[row]))
        small = image.resize((side, side), Image.Resampling.BOX)
        again = small.resize(image.size, Image.Resampling.BICUBIC)
        error = np.square(np.asarray(image, dtype=float) - np.asarray(again, dtype=float)).mean()
        found.append(float(10 * np.log10(255**2 / error)) if error else float("inf"))
    return found


if __name__ == "__main__":
    main()
