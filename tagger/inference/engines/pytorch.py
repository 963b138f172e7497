"""PyTorch engine: eager fp32 on the CPU is the reference; compiled, bf16 and CUDA share its code."""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tagger import hardware
from tagger.checkpoint.info import ModelInfo
from tagger.errors import ModelError, first_line
from tagger.images import UInt8Array
from tagger.inference.engines.probe import TOLERANCE, Float32Array, probe_images, rate
from tagger.models.scorer import Scorer

log = logging.getLogger(__name__)

BATCH_SIZE = {"cpu": 32, "cuda": 256}
GRAPHED = 64
"""Up to this batch size kernel launches dominate on a GPU: replay them as a CUDA graph."""
_BF16_TOLERANCE = 0.05
"""bf16 has 8 bits of mantissa, and a compiler rounds in other places."""


def load(
    info: ModelInfo, net: nn.Module, device: str, precision: str, batch_size: int | None, compiled: bool
) -> TorchEngine:
    """Put a network on a device; where compiling fails or changes its scores, it runs eagerly with a warning."""
    torch.set_num_threads(hardware.cores())
    whole = scorer(info, net)
    images = probe_images(info.preprocessing.size)
    engine = TorchEngine(whole, device, precision, batch_size)
    if compiled:
        try:
            faster = TorchEngine(whole, device, precision, batch_size, compiled=True)
            _check(faster, engine, images)
            engine = faster
        except Exception as error:  # whatever the compiler stumbles on, the eager network still runs
            log.warning("torch cannot compile %s (%s); running it eagerly", info.name, first_line(error))
            torch.compiler.reset()
    engine.images_per_second = round(rate(engine, images, seconds=0.2), 1)
    return engine


class TorchEngine:
    """Run the network as timm would: channels_last, on CPU or CUDA, in fp32 or bf16 autocast."""

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
        self.concurrency, self.shares_cores = (3, False) if device == "cuda" else (1, True)
        self.images_per_second: float | None = None
        self._device, self._precision, self._compiled = device, precision, compiled
        self._lock = threading.Lock()
        if device == "cuda" and precision == "fp32":
            use_ieee_fp32()
        self._copies = torch.cuda.Stream() if device == "cuda" else None
        scorer = scorer.to(device).to(memory_format=torch.channels_last)
        self._run: Any = scorer
        if compiled:
            graphed = device == "cuda" and self.batch_size <= GRAPHED
            self._run = torch.compile(scorer, dynamic=False, mode="reduce-overhead" if graphed else "default")

    def __call__(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score any number of images; when the device has no memory for a batch, halve it from then on."""
        size = self.batch_size
        try:
            parts = [self._score(images[i : i + size], size) for i in range(0, len(images), size)]
        except torch.OutOfMemoryError as error:
            self._halve(min(len(images), size), error)
            return self(images)
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _halve(self, failed: int, error: Exception) -> None:
        """Take smaller batches than the one that failed; several threads may come here for the same one."""
        with self._lock:
            if failed == 1:
                raise ModelError(f"{self._device} has no memory for a single image; use --device cpu") from error
            if failed // 2 < self.batch_size:
                self.batch_size = failed // 2
                log.warning("out of memory on %s: batches of %d from here on", self._device, self.batch_size)
            if self._device == "cuda":
                torch.cuda.empty_cache()

    @torch.inference_mode()
    def _score(self, images: UInt8Array, size: int) -> tuple[Float32Array, Float32Array]:
        """Score up to one batch; a compiled network always gets a whole one, so that it compiles once."""
        missing = size - len(images) if self._compiled else 0
        whole = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images
        batch = self._to_device(whole)
        with self._lock, torch.autocast(self._device, torch.bfloat16, enabled=self._precision == "bf16"):
            if self._copies is not None:
                torch.cuda.current_stream().wait_stream(self._copies)
                batch.record_stream(torch.cuda.current_stream())
            scores, embeddings = self._run(batch)  # leave the lock with copies: a CUDA graph reuses its outputs
            return scores[: len(images)].cpu().numpy().copy(), embeddings[: len(images)].cpu().numpy().copy()

    def _to_device(self, images: UInt8Array) -> Tensor:
        """Copy uint8 pixels; to a GPU from pinned memory on a stream of its own, beside the batch that is computing."""
        batch = torch.from_numpy(images)
        if self._copies is None:
            return batch
        with torch.cuda.stream(self._copies):
            return batch.pin_memory().to(self._device, non_blocking=True)


def use_ieee_fp32() -> None:
    """Compute fp32 on CUDA as IEEE fp32 in this process; PyTorch's default for convolutions is TF32."""
    cudnn: Any = torch.backends.cudnn
    cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "ieee"


def scorer(info: ModelInfo, net: nn.Module) -> Scorer:
    """Put a network between its normalisation and its probabilities."""
    prep = info.preprocessing
    return Scorer(net, prep.mean, prep.std, info.task, info.temperature).eval()


def _check(engine: TorchEngine, eager: TorchEngine, images: UInt8Array) -> None:
    """Compile, and compare with the same network run eagerly."""
    difference = float(np.abs(engine(images)[0] - eager(images)[0]).max())
    tolerance = TOLERANCE if "fp32" in engine.name else _BF16_TOLERANCE
    if not difference <= tolerance:
        raise RuntimeError(f"its scores differ from eager torch by {difference:.2g}")
