"""Networks trained without pretrained weights, on images that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tagger import hardware, models
from tagger.data.arrays import LabelledImages
from tagger.data.normalisation import Normalisation
from tagger.images import UInt8Array
from tagger.inference.engines import Float32Array
from tagger.models.small import SmallNet
from tagger.models.speedrun import Speedrun
from tagger.training import resume
from tagger.training.distributed import ALONE, Group
from tagger.training.loaders import Normaliser, TensorLoader
from tagger.training.recipe import Recipe
from tagger.training.resume import State
from tagger.training.trainer import Batch, Epoch, OnEpoch, Trainer, logits_of, seed_of

WHITENING_IMAGES = 5000
_CHUNK = 1000


@dataclass(frozen=True)
class Network:
    """Architecture of a network and the normalisation of its input."""

    architecture: str
    model_args: dict[str, object]
    num_classes: int
    normalisation: Normalisation


def train_net(
    trainer: Trainer, state: State | None = None, on_epoch: OnEpoch = lambda epoch: None
) -> tuple[nn.Module, list[Epoch]]:
    """Train a network and return it on the CPU with its learning curve; deterministic on one CPU.

    A saved training continues from its state. Raises Diverged.
    """
    resume.fit(trainer, state, on_epoch)
    return trainer.net.eval().cpu().to(memory_format=torch.contiguous_format), trainer.curve


def make_trainer(
    network: Network,
    train: LabelledImages,
    recipe: Recipe,
    seed: int,
    device: str,
    validation: LabelledImages | None = None,
    multilabel: bool = False,
    compiled: bool = False,
    processes: Group = ALONE,
) -> Trainer:
    """Return a trainer whose normalised images are on the device, in bf16 if the device computes in bf16."""
    torch.manual_seed(seed)
    net = models.build(network.architecture, network.num_classes, network.model_args)
    offset = network.normalisation.offset
    if isinstance(net, SmallNet) and offset is not None:
        net.set_offset(torch.from_numpy(offset))
    elif isinstance(net, Speedrun):
        rows = np.random.default_rng(seed_of(seed)).permutation(len(train))[:WHITENING_IMAGES]
        net.set_whitening(on_device(train.images[np.sort(rows)], network.normalisation, "cpu"))
    bf16 = hardware.has_bf16(device)
    images = on_device(train.images, network.normalisation, device, torch.bfloat16 if bf16 else torch.float32)
    targets = torch.from_numpy(train.truth).to(device)
    moved = None if offset is None else torch.from_numpy(offset).to(device, images.dtype)
    loader = TensorLoader(images, targets, recipe, seed, moved, processes)
    held_out = None if validation is None else _batches(validation, network.normalisation, device)
    return Trainer(
        net, loader, recipe, seed, device, held_out, multilabel, autocast=bf16, compiled=compiled, processes=processes
    )


def on_device(
    images: UInt8Array, normalisation: Normalisation, device: str, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return normalised images (N, 3, H, W) on a device; subtracting the offset is left to the network."""
    normaliser = Normaliser(normalisation.preprocessing(images.shape[1]), device)
    chunks = [normaliser(chunk).to(dtype) for chunk in torch.from_numpy(images).split(_CHUNK)]
    return torch.cat(chunks).contiguous(memory_format=torch.channels_last)


def _batches(data: LabelledImages, normalisation: Normalisation, device: str) -> Callable[[], Iterable[Batch]]:
    images, targets = on_device(data.images, normalisation, device), torch.from_numpy(data.truth)
    return lambda: zip(images.split(_CHUNK), targets.split(_CHUNK), strict=True)


def score(net: nn.Module, images: UInt8Array, normalisation: Normalisation, tta: bool = False) -> Float32Array:
    """Return logits (N, K) on the CPU in fp32; with test-time augmentation, the mean over six views of each image."""
    inputs = on_device(images, normalisation, "cpu").split(_CHUNK)
    logits: Float32Array = logits_of(Views(net) if tta else net, inputs).numpy()
    return logits


class Views(nn.Module):
    """Averages over an image and two translations of it by a pixel, each mirrored too (airbench's views)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean output (N, K)."""
        height, width = images.shape[-2:]
        padded = functional.pad(images, (1, 1, 1, 1), mode="reflect")
        shifts = [padded[..., :height, :width], padded[..., 2:, 2:]]
        whole, *moved = (self.net(view) + self.net(view.flip(-1)) for view in (images, *shifts))
        mean: Tensor = whole / 4 + (moved[0] + moved[1]) / 8
        return mean
