"""Training batches: images of a dataset with timm's transforms, or tensors that are already on the device."""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from tagger import hardware
from tagger.data.pixels import Pixels, Rows
from tagger.images import Preprocessing, UInt8Array, normalise
from tagger.training.config import TrainConfig
from tagger.training.distributed import ALONE, START_METHOD, Group, end_with_parent, start_server
from tagger.training.recipe import Recipe
from tagger.training.shared import SHARED_MEMORY, share_pixels
from tagger.training.trainer import Batch, seed_of

log = logging.getLogger(__name__)

MAX_WORKERS = 16
"""Maximum number of worker processes per GPU."""
PREFETCH = 2
"""Batches that each worker prepares ahead."""
EVALUATED = 64
"""Batch size of evaluation."""


class Normaliser:
    """uint8 pixels (N, H, W, 3) to network input (N, 3, H, W) on a device."""

    def __init__(self, preprocessing: Preprocessing, device: str) -> None:
        self.device = device
        self.mean, self.std = (values.to(device) for values in preprocessing.statistics())

    def __call__(self, pixels: UInt8Array | Tensor) -> Tensor:
        """Return a batch in channels_last."""
        moved = torch.as_tensor(pixels).to(self.device, non_blocking=True)
        return normalise(moved, self.mean, self.std).contiguous(memory_format=torch.channels_last)

    def batches(self, pixels: UInt8Array) -> Iterator[Tensor]:
        """Yield images in evaluation batches."""
        return map(self, torch.from_numpy(pixels).split(EVALUATED))


def batches(pixels: Callable[[], UInt8Array], targets: Tensor, normaliser: Normaliser) -> Callable[[], Iterable[Batch]]:
    """Return a function that yields evaluation batches; pixels (N, H, W, 3) are loaded when they are first needed."""
    loaded = functools.cache(pixels)

    return lambda: zip(normaliser.batches(loaded()), targets.split(EVALUATED), strict=True)


class TensorLoader:
    """Batches of normalised images (N, 3, H, W) on the device, flipped and translated there."""

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        recipe: Recipe,
        seed: int,
        offset: Tensor | None = None,
        processes: Group = ALONE,
    ) -> None:
        self.targets, self.recipe, self.seed, self.offset = targets, recipe, seed, offset
        self.processes, self.count = processes, len(images)
        self.images = images
        if recipe.flip == "alternate":
            self.images = _flip_some(images, torch.Generator(images.device).manual_seed(seed))

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.images) // self.recipe.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the images in an order that depends on seed and epoch: of every batch, this process's share."""
        recipe, device = self.recipe, self.images.device
        generator = torch.Generator(device).manual_seed(seed_of(self.seed, number))
        for batch in torch.randperm(self.count, device=device, generator=generator).split(recipe.batch_size):
            x = self.images[batch]
            if recipe.flip == "random":
                x = _flip_some(x, generator)
            elif recipe.flip == "alternate" and number % 2 == 0:
                x = x.flip(-1)
            x, target = self._translated(x, generator) if recipe.translate else x, self.targets[batch]
            if self.processes.size > 1:  # drawn for the whole batch, so that the images are those of one process
                rows = torch.tensor(self.processes.rows(len(batch)), device=device)
                x, target = x[rows], target[rows]
            yield x, target

    def _translated(self, x: Tensor, generator: torch.Generator) -> Tensor:
        recipe = self.recipe
        if recipe.fill == "mean" and self.offset is not None:
            return translated(x - self.offset, recipe.translate, generator) + self.offset
        return translated(x, recipe.translate, generator, "reflect" if recipe.fill == "reflect" else "constant")


def translated(batch: Tensor, by: int, generator: torch.Generator, fill: str = "constant") -> Tensor:
    """Translate each image (N, C, H, W) by up to `by` pixels each way, padded with zeros or a reflection."""
    height, width = batch.shape[-2:]
    padded = functional.pad(batch.float(), (by,) * 4, mode=fill).to(batch.dtype)
    top, left = torch.randint(0, 2 * by + 1, (2, len(batch), 1), device=batch.device, generator=generator)
    rows = top + torch.arange(height, device=batch.device)
    columns = left + torch.arange(width, device=batch.device)
    each = torch.arange(len(batch), device=batch.device).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _flip_some(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror about half of the images."""
    flipped = torch.rand(len(images), device=images.device, generator=generator) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)


class ImageLoader:
    """Batches of a dataset's images, augmented by timm's training transform.

    On a CPU the network takes nearly all of the time, so images are augmented in this process. For a GPU, worker
    processes do it; they live for all epochs. The batches are the same with any number of workers.
    """

    def __init__(
        self,
        dataset: AugmentedImages,
        targets: Tensor,
        batch_size: int,
        normaliser: Normaliser,
        workers: int,
        processes: Group = ALONE,
    ) -> None:
        self.dataset, self.targets, self.normaliser, self.count = dataset, targets, normaliser, len(dataset)
        self.sampler = EpochSampler(len(dataset), batch_size, dataset.seed, processes)
        self._loader = _in_workers(dataset, self.sampler, workers, normaliser.device) if workers else None

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.sampler)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield normalised images (N, 3, H, W) and targets (N, K): of every batch, this process's share."""
        self.sampler.epoch = number
        for pixels, places in zip(self._loader or self._here(), self.sampler, strict=True):
            rows = [index for _, index in places]
            yield self.normaliser(pixels), self.targets[rows].to(self.normaliser.device, non_blocking=True)

    def _here(self) -> Iterator[Tensor]:
        for places in self.sampler:
            python, numpy = random.getstate(), np.random.get_state()
            with torch.random.fork_rng(devices=[]):  # the network's own random numbers do not depend on the images'
                batch = torch.stack([self.dataset[place] for place in places])
            random.setstate(python)
            np.random.set_state(numpy)
            yield batch


class AugmentedImages(Dataset[Tensor]):
    """Augmented images by (epoch, index), each with its own random seed, so that order and workers do not matter."""

    def __init__(self, pixels: Pixels, rows: Rows, preprocessing: Preprocessing, config: TrainConfig) -> None:
        self.pixels, self.rows, self.seed, self.size = pixels, rows, config.seed, preprocessing.size
        plain = config.augment == "none"
        self._transform: Callable[[Image.Image], Tensor] = create_transform(
            input_size=(3, *preprocessing.size),
            is_training=True,
            use_prefetcher=True,  # uint8 (3, H, W) comes out; normalised on the device
            hflip=config.hflip,
            scale=(config.crop_scale, 1.0),
            color_jitter=0.0 if plain else 0.2,
            auto_augment=None if plain else config.augment,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        """Return uint8 pixels (H, W, 3)."""
        epoch, index = place
        seed = seed_of(self.seed, epoch, index)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        changed = self._transform(Image.fromarray(self.pixels.training_image(int(self.rows[index]))))
        return torch.from_numpy(np.ascontiguousarray(np.asarray(changed).transpose(1, 2, 0)))


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) in an order that depends on seed and epoch; of each, this process's share."""

    def __init__(self, count: int, batch_size: int, seed: int, processes: Group) -> None:
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0
        self.processes = processes

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of `epoch`."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for start in range(0, self.count, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield [(self.epoch, int(batch[row])) for row in self.processes.rows(len(batch))]


def workers_for(device: str, processes: int = 1) -> int:
    """Return the number of data-loading workers for each of `processes` training processes; 0 on a CPU."""
    return max(1, min(hardware.cores() // processes, MAX_WORKERS)) if device == "cuda" else 0


def _in_workers(dataset: AugmentedImages, sampler: EpochSampler, workers: int, device: str) -> Iterable[Tensor] | None:
    """Return a loader with workers; None, with a warning, if shared memory is too small for images and batches."""
    height, width = dataset.size
    batches = (PREFETCH * workers + 1) * sampler.batch_size * height * width * 3
    pixels = share_pixels(dataset.pixels, batches)
    if pixels is None:
        log.warning("%s is too small for the images; loading them in one process, which is slower", SHARED_MEMORY)
        return None
    dataset.pixels = pixels
    start_server()
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=PREFETCH,
        collate_fn=torch.stack,
        pin_memory=device == "cuda",
        worker_init_fn=_start_worker,
        multiprocessing_context=START_METHOD,
        persistent_workers=True,
    )


def _start_worker(worker: int) -> None:
    """Use one thread, and end with the training process, even if that is killed."""
    torch.set_num_threads(1)
    end_with_parent()
