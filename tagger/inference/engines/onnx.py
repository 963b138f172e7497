"""onnxruntime on the CPU, for the files of `tagger export --format onnx`: one thread per core, a batch each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tagger import hardware, storage
from tagger.checkpoint import onnx as onnx_files
from tagger.checkpoint.info import ModelInfo
from tagger.images import UInt8Array
from tagger.inference.engines.choice import CannotRun, Choice
from tagger.inference.engines.probe import Float32Array, probe_images, rate

if TYPE_CHECKING:
    from torch import nn

    Build = Callable[[ModelInfo], nn.Module]
    Calibration = Callable[[], UInt8Array]

BATCH_SIZE = 8


class OnnxEngine:
    """An ONNX file in memory as an engine; `concurrency` threads may call it at the same time."""

    shares_cores = True

    def __init__(self, content: bytes, name: str, batch_size: int | None = None, precision: str | None = None) -> None:
        import onnxruntime

        self._session = onnx_files.session(content, name)
        precision = precision or onnx_files.precision(self._session)
        self.name = f"onnxruntime {onnxruntime.__version__} cpu {precision}"
        self.batch_size, self.concurrency = batch_size or BATCH_SIZE, hardware.cores()
        self.images_per_second: float | None = None

    def __call__(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score any number of images."""
        size = self.batch_size
        parts = [self._run(images[start : start + size]) for start in range(0, len(images), size)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _run(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        outputs = [onnx_files.SCORES, onnx_files.EMBEDDINGS]
        scores, embeddings = self._session.run(outputs, {onnx_files.INPUT: np.ascontiguousarray(images)})
        return scores, embeddings


def load(
    info: ModelInfo, build: Build, choice: Choice, batch_size: int | None, calibration: Calibration | None
) -> OnnxEngine:
    """Load an ONNX file, and measure its rate; raises CannotRun for a checkpoint."""
    if info.only_engine != "onnx":
        raise CannotRun(f"{info.name}: --engine onnx runs .onnx files; convert it with `tagger export --format onnx`")
    engine = OnnxEngine(storage.read_bytes(info.weights), info.name, batch_size)
    engine.images_per_second = round(rate(engine, probe_images(info.preprocessing.size), seconds=0.2), 1)
    return engine
