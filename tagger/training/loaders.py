"""Training batches: images of a dataset through timm's transforms, or tensors that are already on the device."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_all_start_methods

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from tagger import hardware
from tagger.data.pixels import Subset
from tagger.images import Preprocessing, UInt8Array, normalise
from tagger.training.recipe import Recipe
from tagger.training.trainer import Batch, seed_of

MAX_WORKERS = 16
"""Processes that prepare images for a GPU."""


class Normaliser:
    """uint8 pixels (N, H, W, 3) to network input (N, 3, H, W) on a device."""

    def __init__(self, preprocessing: Preprocessing, device: str) -> None:
        self.device = device
        self.mean, self.std = (values.to(device) for values in preprocessing.statistics())

    def __call__(self, pixels: UInt8Array | Tensor) -> Tensor:
        """Return a batch in channels_last."""
        moved = torch.as_tensor(pixels).to(self.device, non_blocking=True)
        return normalise(moved, self.mean, self.std).contiguous(memory_format=torch.channels_last)


def batches(
    pixels: Callable[[], UInt8Array], targets: Tensor, normaliser: Normaliser, size: int = 64
) -> Callable[[], Iterable[Batch]]:
    """Return a function that yields evaluation batches; pixels (N, H, W, 3) are loaded when they are first needed."""
    loaded = functools.cache(pixels)

    def each() -> Iterator[Batch]:
        for chunk, target in zip(torch.from_numpy(loaded()).split(size), targets.split(size), strict=True):
            yield normaliser(chunk), target

    return each


class TensorLoader:
    """Batches of normalised images (N, 3, H, W) that lie on the device, flipped and translated there."""

    def __init__(
        self, images: Tensor, targets: Tensor, recipe: Recipe, seed: int, offset: Tensor | None = None
    ) -> None:
        self.targets, self.recipe, self.offset = targets, recipe, offset
        self.images = _flip_some(images, seed) if recipe.flip == "alternate" else images

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.images) // self.recipe.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the images in random order; the trainer has seeded the generator for this epoch."""
        recipe = self.recipe
        for rows in torch.randperm(len(self.images), device=self.images.device).split(recipe.batch_size):
            x = self.images[rows]
            if recipe.flip == "random":
                x = _flip_some(x)
            elif recipe.flip == "alternate" and number % 2 == 0:
                x = x.flip(-1)
            yield self._translated(x) if recipe.translate else x, self.targets[rows]

    def _translated(self, x: Tensor) -> Tensor:
        recipe = self.recipe
        if recipe.fill == "mean" and self.offset is not None:
            return translated(x - self.offset, recipe.translate) + self.offset
        return translated(x, recipe.translate, "reflect" if recipe.fill == "reflect" else "constant")


def translated(batch: Tensor, by: int, fill: str = "constant") -> Tensor:
    """Translate each image (N, C, H, W) by up to `by` pixels each way; zeros or a reflection come in."""
    height, width = batch.shape[-2:]
    padded = functional.pad(batch.float(), (by,) * 4, mode=fill).to(batch.dtype)
    top, left = torch.randint(0, 2 * by + 1, (2, len(batch), 1), device=batch.device)
    rows = top + torch.arange(height, device=batch.device)
    columns = left + torch.arange(width, device=batch.device)
    each = torch.arange(len(batch), device=batch.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _flip_some(images: Tensor, seed: int | None = None) -> Tensor:
    """Mirror about half of the images."""
    generator = None if seed is None else torch.Generator(images.device).manual_seed(seed)
    flipped = torch.rand(len(images), device=images.device, generator=generator) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)


class ImageLoader:
    """Batches of a dataset's images, each changed at random by timm's training transform.

    On a CPU the network takes nearly all of the time, and images are changed in this process. For a GPU, worker
    processes do it; they live for all epochs.
    """

    def __init__(self, dataset: AugmentedImages, targets: Tensor, batch_size: int, normaliser: Normaliser) -> None:
        self.dataset, self.targets, self.normaliser = dataset, targets, normaliser
        self.sampler = EpochSampler(len(dataset), batch_size, dataset.seed)
        self._loader: Iterable[Tensor] | None = None
        if normaliser.device == "cuda":
            self._loader = DataLoader(
                dataset,
                batch_sampler=self.sampler,
                num_workers=_workers(normaliser.device),
                collate_fn=torch.stack,
                pin_memory=True,
                worker_init_fn=_one_thread,
                multiprocessing_context="forkserver" if "forkserver" in get_all_start_methods() else "spawn",
                persistent_workers=True,
            )

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.sampler)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield normalised images (N, 3, H, W) and targets (N, K)."""
        self.sampler.epoch = number
        for pixels, places in zip(self._loader or self._here(), self.sampler, strict=True):
            rows = [index for _, index in places]
            yield self.normaliser(pixels), self.targets[rows].to(self.normaliser.device)

    def _here(self) -> Iterator[Tensor]:
        for places in self.sampler:
            python, numpy = random.getstate(), np.random.get_state()
            with torch.random.fork_rng(devices=[]):  # the network's own random numbers do not depend on the images'
                batch = torch.stack([self.dataset[place] for place in places])
            random.setstate(python)
            np.random.set_state(numpy)
            yield batch


class AugmentedImages(Dataset[Tensor]):
    """Images by (epoch, index), each changed by random numbers of its own: order and workers do not matter."""

    def __init__(
        self,
        images: Subset,
        preprocessing: Preprocessing,
        seed: int,
        augment: str,
        crop_scale: float,
        hflip: float,
    ) -> None:
        self.images, self.seed = images, seed
        self._transform: Callable[[Image.Image], Tensor] = create_transform(
            input_size=(3, *preprocessing.size),
            is_training=True,
            use_prefetcher=True,  # uint8 (3, H, W) comes out; normalised on the device
            hflip=hflip,
            scale=(crop_scale, 1.0),
            color_jitter=0.0 if augment == "none" else 0.2,
            auto_augment=None if augment == "none" else augment,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        """Return uint8 pixels (H, W, 3)."""
        epoch, index = place
        seed = seed_of(self.seed, epoch, index)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        changed = self._transform(Image.fromarray(self.images.training_image(index)))
        return torch.from_numpy(np.ascontiguousarray(np.asarray(changed).transpose(1, 2, 0)))


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) in an order that depends on seed and epoch."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of `epoch`."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for start in range(0, self.count, self.batch_size):
            yield [(self.epoch, int(index)) for index in order[start : start + self.batch_size]]


def copies(device: str) -> int:
    """Return how many processes hold the decoded images: this one and those that prepare images for a GPU."""
    return 1 + _workers(device)


def _workers(device: str) -> int:
    return min(hardware.cores(), MAX_WORKERS) if device == "cuda" else 0


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
