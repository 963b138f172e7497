"""Distributed training with torch.distributed: each process's share of a batch, gradients and weights."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, get_all_start_methods, parent_process
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch
import torch.distributed as dist
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

START_METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
WARMUP = 10
"""Optimizer steps with exact gradients before compressed gradients or local steps begin."""
LOCAL_STEPS = 8
"""Local steps between two averages of the weights."""
POWERSGD_RANK = 4
ONE_BUCKET_MB = 100_000
"""A bucket larger than the gradients of any network."""

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes that train one network, and the rank of this one."""

    rank: int = 0
    size: int = 1
    gradients: str = "exact"
    """exact, powersgd (compressed), or local (local SGD: weights are averaged instead of gradients)."""
    here: int = 1
    """Number of processes on this machine."""

    def rows(self, count: int) -> list[int]:
        """Return the rows of a batch for this process: all rows if the batch is too small to be shared.

        Rows at equal distance from both ends stay together, because mixup blends those.
        """
        shared = count >= 2 * self.size
        return [row for row in range(count) if not shared or min(row, count - 1 - row) % self.size == self.rank]

    def weight(self, count: int) -> float:
        """Return the weight of an image in this process: every process trains on all images of a small batch."""
        return 1.0 if count >= 2 * self.size else 1.0 / self.size

    def with_shared_norms(self, net: nn.Module, device: str) -> nn.Module:
        """Return the network with batch-norm statistics over all processes, which torch supports on GPUs only."""
        return convert_sync_batchnorm(net) if self.size > 1 and device == "cuda" else net

    def parallel(self, net: nn.Module, steps: int) -> nn.Module:
        """Return the network with gradients averaged over the processes; `steps` optimizer steps are done already."""
        if self.size == 1:
            return net
        # gloo's threads deadlock if several buckets are compressed at a time
        one_bucket = ONE_BUCKET_MB if self.gradients == "powersgd" else None
        wrapped = DistributedDataParallel(net, bucket_cap_mb=one_bucket)
        if self.gradients == "powersgd":
            compressed = PowerSGDState(None, POWERSGD_RANK, start_powerSGD_iter=WARMUP)
            wrapped.register_comm_hook(compressed, powerSGD_hook)
        elif self.gradients == "local":
            left = max(0, WARMUP - steps)
            wrapped.register_comm_hook(PostLocalSGDState(None, None, left, False), post_localSGD_hook)
        return wrapped

    def averages_after(self, step: int) -> bool:
        """Return whether the weights are averaged after an optimizer step, counted from 1."""
        return self.size > 1 and self.gradients == "local" and step > WARMUP and step % LOCAL_STEPS == 0

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Set tensors to their mean over the processes."""
        flat = torch.cat([each.reshape(-1) for each in tensors])
        dist.all_reduce(flat)
        for each, mean in zip(tensors, (flat / self.size).split([each.numel() for each in tensors]), strict=True):
            each.copy_(mean.view(each.shape))

    def sum(self, *values: Tensor) -> Tensor:
        """Return the sums of scalars over the processes."""
        total = torch.stack([value.float() for value in values])
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def from_first(self, compute: Callable[[], T]) -> T:
        """Compute a value in the first process, and return it in all of them."""
        if self.size == 1:
            return compute()
        found: list[T | None] = [compute() if self.rank == 0 else None]
        dist.broadcast_object_list(found, 0, device=torch.device("cpu"))
        return found[0]  # type: ignore[return-value]


ALONE = Group()


def start_server() -> None:
    """Start the fork server, which imports torch and timm once, in parallel with this process."""
    if START_METHOD == "forkserver":
        forkserver.set_forkserver_preload(["__main__", "tagger.training.methods"])
        forkserver.ensure_running()


def end_with_parent() -> None:
    """End this process as soon as its parent has ended, even if the parent was killed."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


def synchronised(net: Callable[[Tensor], Tensor], now: bool) -> contextlib.AbstractContextManager[None]:
    """Return a context in which gradients are averaged over the processes now, or only accumulated here."""
    if now or not isinstance(net, DistributedDataParallel):
        return contextlib.nullcontext()
    return net.no_sync()
