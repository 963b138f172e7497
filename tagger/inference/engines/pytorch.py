"""PyTorch engine. Eager fp32 on the CPU is the reference; compiled, less exact and CUDA engines share its code."""

from __future__ import annotations

import copy
import functools
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from tagger import hardware, storage
from tagger.checkpoint.info import ModelInfo
from tagger.errors import ModelError, first_line
from tagger.images import UInt8Array
from tagger.inference.engines.probe import TOLERANCE, Float32Array, probe_images, rate
from tagger.models.scorer import Scorer

if TYPE_CHECKING:
    from tagger.inference.engines import Build, Calibration
    from tagger.inference.engines.choice import Choice

log = logging.getLogger(__name__)

_Network: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

BATCH_SIZE = {"cpu": 32, "cuda": 256}
_IN_FLIGHT = 2
"""Batches in flight per GPU: while one is computed, the next is copied."""
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LESS_EXACT_TOLERANCE = 0.05
"""bf16 has 8 bits of mantissa, and a compiler rounds differently."""


def load(
    info: ModelInfo, build: Build, choice: Choice, batch_size: int | None, calibration: Calibration | None = None
) -> TorchEngine:
    """Load a network onto a device; if compiling fails or changes its scores, it runs eagerly with a warning."""
    torch.set_num_threads(hardware.cores())
    whole = scorer(info, build(info))
    images = probe_images(info.preprocessing.size)
    engine = TorchEngine(whole, choice.device, choice.precision, batch_size)
    if choice.engine == "torch":
        # compiling takes up to a minute; later runs reuse the result
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(storage.cache_folder() / "inductor"))
        try:
            faster = TorchEngine(whole, choice.device, choice.precision, batch_size, compiled=True)
            _check(faster, engine, images)
            engine = faster
        except Exception as error:  # any failure of the compiler; the eager network still runs
            log.warning("torch cannot compile %s (%s); running it eagerly", info.name, first_line(error))
            torch.compiler.reset()
    engine.images_per_second = round(rate(engine, images, seconds=0.2), 1)
    return engine


class TorchEngine:
    """Run the network as timm would: channels_last, on CPU or CUDA, in fp32, tf32, or bf16 or fp16 autocast."""

    def __init__(
        self,
        scorer: Scorer,
        device: str,
        precision: str = "fp32",
        batch_size: int | None = None,
        compiled: bool = False,
    ) -> None:
        how = "compiled" if compiled else "eager"
        self.name = f"torch {torch.__version__} {how} {device} {precision}"
        self.batch_size = batch_size or BATCH_SIZE[device]
        self.concurrency, self.shares_cores = 1, True
        self.images_per_second: float | None = None
        self._device, self._precision, self._compiled = device, precision, compiled
        self._lock = threading.Lock()
        if device == "cuda":
            nets = [self._placed(copy.deepcopy(scorer), f"cuda:{gpu}") for gpu in range(torch.cuda.device_count())]
            self.concurrency, self.shares_cores = _IN_FLIGHT * len(nets), False
            self._lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
            for gpu, net in [*enumerate(nets)] * _IN_FLIGHT:
                self._lanes.put(_Lane(torch.device("cuda", gpu), functools.partial(self._compute, net)))
        else:
            self._net = self._placed(scorer, device)

    def _placed(self, scorer: Scorer, device: str) -> _Network:
        placed = scorer.to(device).to(memory_format=torch.channels_last)
        compiled: _Network = torch.compile(placed, dynamic=False) if self._compiled else placed
        return compiled

    def __call__(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score any number of images; if a batch does not fit into the device's memory, halve the batch size."""
        size = self.batch_size
        try:
            parts = [self._score(images[i : i + size], size) for i in range(0, len(images), size)]
        except torch.OutOfMemoryError as error:
            self._halve(min(len(images), size), error)
            return self(images)
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _halve(self, failed: int, error: Exception) -> None:
        """Halve the batch size that failed; several threads may fail with the same one."""
        with self._lock:
            if failed == 1:
                raise ModelError(
                    f"{self._device} has too little memory for a single image; use --device cpu"
                ) from error
            if failed // 2 < self.batch_size:
                self.batch_size = failed // 2
                log.warning("out of memory on %s: batches of %d from here on", self._device, self.batch_size)
            if self._device == "cuda":
                torch.cuda.empty_cache()

    def _score(self, images: UInt8Array, size: int) -> tuple[Float32Array, Float32Array]:
        """Score up to one batch; a compiled network always gets a full one, so that it compiles once."""
        missing = size - len(images) if self._compiled else 0
        whole = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images
        if self._device == "cuda":
            lane = self._lanes.get()
            try:
                scores, embeddings = lane.score(whole, size)
            finally:
                self._lanes.put(lane)
        else:
            with self._lock:
                scores, embeddings = (each.numpy() for each in self._compute(self._net, torch.from_numpy(whole)))
        return scores[: len(images)].copy(), embeddings[: len(images)].copy()

    @torch.inference_mode()
    def _compute(self, net: _Network, batch: Tensor) -> tuple[Tensor, Tensor]:
        dtype = _AUTOCAST.get(self._precision)
        if self._device == "cuda" and dtype is None:
            set_fp32(self._precision == "tf32")
        with torch.autocast(self._device, dtype or torch.bfloat16, enabled=dtype is not None):
            return net(batch)


class _Lane:
    """One batch in flight on a GPU: pinned memory, a stream, and the copies in and out.

    Memory is pinned once and reused; a thread waits only for its own batch, without holding the GIL.
    """

    def __init__(self, device: torch.device, compute: _Network) -> None:
        self._device, self._compute = device, compute
        self._stream = torch.cuda.Stream(device)
        self._pinned: dict[str, Tensor] = {}

    def score(self, images: UInt8Array, size: int) -> tuple[Float32Array, Float32Array]:
        """Copy in, compute, copy out; the arrays are valid until the next call."""
        count = len(images)
        host = self._room("images", (size, *images.shape[1:]), torch.uint8)[:count]
        np.copyto(host.numpy(), images)
        with torch.cuda.stream(self._stream), torch.inference_mode():
            outputs = self._compute(host.to(self._device, non_blocking=True))
            copies = []
            for name, output in zip(("scores", "embeddings"), outputs, strict=True):
                room = self._room(name, (size, *output.shape[1:]), torch.float32)[:count]
                copies.append(room.copy_(output, non_blocking=True))
        self._stream.synchronize()
        scores, embeddings = (each.numpy() for each in copies)
        return scores, embeddings

    def _room(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        room = self._pinned.get(name)
        if room is None or room.shape[0] < shape[0] or room.shape[1:] != shape[1:]:
            self._pinned[name] = torch.empty(shape, dtype=dtype, pin_memory=True)
        return self._pinned[name]


def set_fp32(tf32: bool) -> None:
    """Compute fp32 on CUDA as IEEE fp32, or as TF32, which is PyTorch's own default for convolutions."""
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"


def scorer(info: ModelInfo, net: nn.Module) -> Scorer:
    """Wrap a network with its normalisation and the conversion to probabilities."""
    prep = info.preprocessing
    return Scorer(net, prep.mean, prep.std, info.task, info.temperature).eval()


def _check(engine: TorchEngine, eager: TorchEngine, images: UInt8Array) -> None:
    """Compile, and raise RuntimeError if the scores differ from those of the eager network."""
    difference = float(np.abs(engine(images)[0] - eager(images)[0]).max())
    tolerance = TOLERANCE if "fp32" in engine.name else _LESS_EXACT_TOLERANCE
    if not difference <= tolerance:
        raise RuntimeError(f"its scores differ from eager torch by {difference:.2g}")
