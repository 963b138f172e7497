"""Training pictures: decoded once where they fit in memory, changed at random every epoch, the same for a seed."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_all_start_methods
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tagger import hardware, images, storage
from tagger.images import UInt8Array
from tagger.images.transforms import Preprocessing
from tagger.training.config import TrainConfig

IN_MEMORY = 3_000_000_000
"""Bytes of decoded pictures kept, in all processes together; a larger set is decoded again every epoch."""
ROOM = 1.15
"""Pictures are kept this much larger than the network wants them, so that crops are enlarged little."""
_WORKERS = 16
"""Processes that feed a GPU, at most."""


def prepared(uris: Sequence[str], preparation: Preprocessing) -> UInt8Array:
    """Return (N, H, W, 3) uint8 as the tagging pipeline would feed them."""

    def one(uri: str) -> UInt8Array:
        return images.prepare_for(storage.read_bytes(uri), preparation)

    if not uris:
        return np.zeros((0, *preparation.size, 3), dtype=np.uint8)
    with ThreadPoolExecutor(hardware.cores()) as pool:
        return np.stack(list(pool.map(one, uris)))


class Pictures(Dataset[Tensor]):
    """Pictures by (epoch, index), each changed at random by a generator of its own: order and workers do not matter."""

    def __init__(self, uris: Sequence[str], preparation: Preprocessing, config: TrainConfig, device: str) -> None:
        self.uris, self.seed = list(uris), config.seed
        self._side = round(ROOM * max(preparation.size))
        self._transform: Any = create_transform(
            input_size=(3, *preparation.size),
            is_training=True,
            hflip=config.hflip,
            scale=(config.crop_scale, 1.0),
            color_jitter=0.0 if config.augment == "none" else 0.2,
            auto_augment=None if config.augment == "none" else config.augment,
            interpolation=preparation.interpolation,
            mean=preparation.mean,
            std=preparation.std,
        )
        self._kept: list[UInt8Array] | None = None
        copies = 1 + _workers(device)
        if len(self.uris) * self._side**2 * 4 * copies < IN_MEMORY:
            with ThreadPoolExecutor(hardware.cores()) as pool:
                self._kept = list(pool.map(self._decode, self.uris))

    def __len__(self) -> int:
        return len(self.uris)

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        epoch, index = place
        picture = self._kept[index] if self._kept else self._decode(self.uris[index])
        seed = hash((self.seed, epoch, index)) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        changed: Tensor = self._transform(Image.fromarray(picture))
        return changed

    def _decode(self, uri: str) -> UInt8Array:
        """Return the picture with its short side no longer than a crop needs."""
        picture, _ = images.decode(storage.read_bytes(uri))
        ratio = self._side / min(picture.size)
        if ratio < 1:
            size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
            picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        return np.asarray(picture)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) in an order that the seed and the epoch decide."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed, self.epoch = count, batch_size, seed, 0

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for start in range(0, self.count, self.batch_size):
            yield [(self.epoch, int(index)) for index in order[start : start + self.batch_size]]


class Batches:
    """Epochs of training batches on a device.

    On a CPU the network is what takes time, and pictures are changed in this process: forking one that already runs
    threads is not safe. A GPU is fed by processes of their own, which stay for all epochs.
    """

    def __init__(self, pictures: Pictures, sampler: EpochBatches, device: str) -> None:
        self.pictures, self.sampler, self.device = pictures, sampler, device
        self._loader: Iterable[Tensor] | None = None
        if device == "cuda":
            self._loader = DataLoader(
                pictures,
                batch_sampler=sampler,
                num_workers=_workers(device),
                collate_fn=torch.stack,
                pin_memory=True,
                worker_init_fn=_one_thread,
                multiprocessing_context="forkserver" if "forkserver" in get_all_start_methods() else "spawn",
                persistent_workers=True,
            )

    def epoch(self, number: int) -> Iterator[tuple[Tensor, list[int]]]:
        """Yield one epoch's batches: (N, 3, H, W) on the device, and which pictures they are."""
        self.sampler.epoch = number
        for batch, places in zip(self._loader or self._made_here(), self.sampler, strict=True):
            moved = batch.to(self.device, non_blocking=True, memory_format=torch.channels_last)
            yield moved, [index for _, index in places]

    def _made_here(self) -> Iterator[Tensor]:
        for places in self.sampler:
            with _own_randomness():
                batch = torch.stack([self.pictures[place] for place in places])
            yield batch


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Leave the generators that the network draws from as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def _workers(device: str) -> int:
    """Return how many processes prepare pictures; each has a copy of those that are kept."""
    return min(hardware.cores(), _WORKERS) if device == "cuda" else 0


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
