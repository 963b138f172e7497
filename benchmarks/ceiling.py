"""Where fine-tuning stops paying: what several checkpoints reach together, and how many pixels the pictures hold.

    python -m benchmarks.ceiling CHECKPOINT... [--side 32]

The checkpoints learnt from the same images and splits (`dataset.parquet`). Prints accuracy and log-loss on validation
and test: of each, of each with the mean over an image and its mirror image, of the mean of all scores, and of one net
with the mean of all weights. Last the PSNR of the test pictures once they were shrunk to `--side` pixels and enlarged
again: high where they held no more than that to begin with.
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
from tagger.data.dataset import Examples, read_examples
from tagger.images import UInt8Array
from tagger.training.bundle import DATASET
from tagger.training.finetune import logits_of
from tagger.training.loading import prepared

SPLITS = ("val", "test")


def main() -> None:
    """Parse, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--side", type=int, default=32)
    given = parser.parse_args()
    models = [checkpoint.describe(each) for each in given.checkpoints]
    examples = read_examples(storage.join(storage.absolute(given.checkpoints[0]), DATASET), multilabel=False)
    print(f"{machine.describe()}\n\n| | {' | '.join(f'{split}: accuracy | log-loss' for split in SPLITS)} |")
    print("|---|--:|--:|--:|--:|")
    parts = [(pixels(examples, split, models[0]), truth_of(examples, split)) for split in SPLITS]
    nets = [checkpoint.build(info) for info in models]
    for name, scores in candidates(models, nets):
        judged = [judge(scores(pictures), labels) for pictures, labels in parts]
        print(f"| {name} | {' | '.join(judged)} |", flush=True)
    print(f"\nPSNR after {given.side} pixels: median {np.median(psnr(examples, given.side)):.1f} dB")


def pixels(examples: Examples, split: str, info: ModelInfo) -> UInt8Array:
    """Return (N, H, W, 3) as the nets are fed."""
    uris = [uri for uri, there in zip(examples.uris, examples.split(split), strict=True) if there]
    return prepared(uris, info.preprocessing)


def truth_of(examples: Examples, split: str) -> Tensor:
    """Return labels (N,)."""
    return torch.from_numpy(examples.truth[examples.split(split)].argmax(axis=1))


Scores = Callable[[UInt8Array], Tensor]


def candidates(models: Sequence[ModelInfo], nets: Sequence[nn.Module]) -> list[tuple[str, Scores]]:
    """Return what is compared: a name, and what gives scores (N, K)."""
    each = [of_net(info, net) for info, net in zip(models, nets, strict=True)]
    found = [(info.name, scores) for info, scores in zip(models, each, strict=True)]
    found += [(f"{info.name}, mirrored too", mirrored(scores)) for info, scores in zip(models, each, strict=True)]
    if len(nets) > 1:
        found.append(("mean of scores", lambda pictures: torch.stack([scores(pictures) for scores in each]).mean(0)))
        found.append(("mean of weights", of_net(models[0], mean_net(models[0], nets))))
    return found


def of_net(info: ModelInfo, net: nn.Module) -> Scores:
    """Return what scores pictures."""
    return lambda pictures: torch.from_numpy(logits_of(net, pictures, info, "cpu")).softmax(1)


def mirrored(scores: Scores) -> Scores:
    """Return the mean over a picture and its mirror image."""
    return lambda pictures: (scores(pictures) + scores(np.ascontiguousarray(pictures[:, :, ::-1]))) / 2


def mean_net(info: ModelInfo, nets: Sequence[nn.Module]) -> nn.Module:
    """Return a net with the mean of all weights."""
    states, net = [each.state_dict() for each in nets], checkpoint.build(info)
    first = states[0]
    net.load_state_dict(
        {name: torch.stack([state[name].float() for state in states]).mean(0).to(first[name].dtype) for name in first}
    )
    return net


def judge(scores: Tensor, labels: Tensor) -> str:
    """Return accuracy and log-loss as cells."""
    right = (scores.argmax(1) == labels).float().mean().item()
    return f"{right:.1%} | {functional.nll_loss(scores.log(), labels).item():.3f}"


def psnr(examples: Examples, side: int) -> list[float]:
    """Return the PSNR in dB of each test picture that was shrunk and enlarged."""
    found = []
    for uri, there in zip(examples.uris, examples.split("test"), strict=True):
        if there:
            picture, _ = images.decode(storage.read_bytes(uri))
            small = picture.resize((side, side), Image.Resampling.BOX)
            again = small.resize(picture.size, Image.Resampling.BICUBIC)
            error = np.square(np.asarray(picture, dtype=float) - np.asarray(again, dtype=float)).mean()
            found.append(float(10 * np.log10(255**2 / error)) if error else float("inf"))
    return found


if __name__ == "__main__":
    main()
