"""Cost of a trained network: FLOPs, images per second, memory."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tagger import hardware
from tagger.models.knn import Knn

_SECONDS = 0.5
BATCH = 256
"""Number of images on which a network is timed."""


def flops(net: nn.Module, image: Tensor) -> int:
    """Return the floating-point operations of a forward pass of one image (1, 3, H, W), as torch counts them."""
    if isinstance(net, Knn):  # torch does not count cdist: a difference, an absolute value or a square, and a sum
        return 3 * net.examples.numel()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(image)
    return int(counter.get_total_flops())


def rates(net: nn.Module, images: Tensor) -> tuple[float, float]:
    """Return images/s of eager torch on one core, and on all cores that this process may use."""
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, hardware.cores()):
            torch.set_num_threads(count)
            found.append(_rate(net, images[:BATCH]))
        return found[0], found[1]
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _rate(net: nn.Module, batch: Tensor) -> float:
    small = batch[:8]
    net(small)
    started = time.perf_counter()
    net(small)
    if time.perf_counter() - started > _SECONDS / 4:  # a larger batch would take too long
        batch = small
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < _SECONDS:
        net(batch)
        done += len(batch)
    return done / (time.perf_counter() - started)


class Memory:
    """Measure the peak memory of a `with` block: that of the GPU on CUDA, else that of this process."""

    def __init__(self, device: str) -> None:
        self.device, self.peak = device, 0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device == "cuda":
            self.peak = torch.cuda.max_memory_allocated()
        else:
            self._ended.set()
            self._watcher.join(timeout=60)

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, _resident())
            if self._ended.wait(0.1):
                return


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):  # not Linux: use the peak since the process started
        return hardware.peak_memory()
