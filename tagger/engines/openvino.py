"""OpenVINO on the CPU, in fp32.

The converted network is kept under the cache folder by model_id, so a second start needs neither torch nor timm. It is
kept only after it agreed with the eager reference on probe images; otherwise the reference runs.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tagger import storage
from tagger.engines import Float32Array
from tagger.errors import MissingExtra, ModelError
from tagger.images import UInt8Array
from tagger.model_info import ModelInfo

if TYPE_CHECKING:
    from torch import nn

    Build = Callable[[ModelInfo], nn.Module]

TOLERANCE = 1e-3
"""Largest difference of a probability on the probe images that still counts as the same network."""

_IR, _AGREEMENT = "model.xml", "agreement.json"


class OpenVinoEngine:
    """A compiled network with a fixed batch size; smaller batches are padded."""

    def __init__(self, ir: Path, batch_size: int, precision: str = "f32") -> None:
        import openvino as ov

        core = ov.Core()
        model = core.read_model(ir)
        model.reshape([batch_size, *list(model.input(0).partial_shape)[1:]])
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "CACHE_DIR": str(ir.parent / "compiled"),
        }
        self._request: Any = core.compile_model(model, "CPU", options).create_infer_request()
        self._batch_size = batch_size
        self.name = f"openvino {ov.__version__.partition('-')[0]} cpu fp32"

    def __call__(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score a batch of any size."""
        if len(images) > self._batch_size:
            halves = [self(images[: self._batch_size]), self(images[self._batch_size :])]
            return np.concatenate([h[0] for h in halves]), np.concatenate([h[1] for h in halves])
        missing = self._batch_size - len(images)
        padded = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images
        outputs = self._request.infer([padded], share_inputs=True)
        return outputs[0][: len(images)].copy(), outputs[1][: len(images)].copy()


def load(info: ModelInfo, build: Build, batch_size: int, required: bool) -> OpenVinoEngine | None:
    """Return the engine, converting the network first when the cache lacks it; None when it cannot be used.

    With `required`, a missing package or a disagreement raises instead.
    """
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        if required:
            raise MissingExtra("--engine openvino", "openvino", "openvino") from error
        return None
    folder = storage.cache_folder() / "openvino" / info.model_id
    with contextlib.suppress(RuntimeError, OSError, ValueError):  # absent or damaged: converted again below
        if json.loads((folder / _AGREEMENT).read_text())["max_difference"] <= TOLERANCE:
            return OpenVinoEngine(folder / _IR, batch_size)
    try:
        return _convert(info, build, folder, batch_size)
    except ModelError:
        raise
    except Exception as error:  # whatever the converter stumbles on, the reference still runs
        if required:
            raise ModelError(
                f"{info.name}: OpenVINO cannot run it ({_first_line(error)}); use --engine torch"
            ) from error
        print(f"tagger: OpenVINO cannot run {info.name} ({_first_line(error)}); running eager torch", file=sys.stderr)
        return None


def _convert(info: ModelInfo, build: Build, folder: Path, batch_size: int) -> OpenVinoEngine:
    """Convert, compare with the reference on probe images, and only then move into the cache."""
    import openvino as ov
    import torch

    from tagger.engines.eager import scorer

    reference = scorer(info, build(info))
    probe = probe_images(info.preprocessing.size)
    with torch.inference_mode():
        expected = reference(torch.from_numpy(probe))[0].numpy()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="_", dir=folder.parent))
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's advice is not for our users
            converted = ov.convert_model(reference, example_input=torch.from_numpy(probe[:2]))
        height, width = info.preprocessing.size
        converted.reshape([-1, height, width, 3])
        ov.save_model(converted, aside / _IR, compress_to_fp16=False)
        scores, _ = OpenVinoEngine(aside / _IR, len(probe))(probe)
        difference = float(np.abs(scores - expected).max())
        if not difference <= TOLERANCE:
            raise RuntimeError(f"its scores differ from eager torch by {difference:.2g}, over {TOLERANCE:g}")
        shutil.rmtree(aside / "compiled", ignore_errors=True)
        (aside / _AGREEMENT).write_text(json.dumps({"max_difference": difference, "images": len(probe)}))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return OpenVinoEngine(folder / _IR, batch_size)


def probe_images(size: tuple[int, int], count: int = 8) -> UInt8Array:
    """Return (count, H, W, 3) smooth random pictures: noise as a photograph has it, mostly low frequencies."""
    rng = np.random.default_rng(0)
    height, width = size
    pictures = np.zeros((count, height, width, 3))
    for step in (height // 2, height // 4, height // 8, height // 16, 1):
        step = max(step, 1)
        coarse = rng.normal(size=(count, -(-height // step), -(-width // step), 3)) * step**0.5
        pictures += np.repeat(np.repeat(coarse, step, axis=1), step, axis=2)[:, :height, :width]
    pictures = (pictures - pictures.mean()) / pictures.std()
    clipped: UInt8Array = np.clip(128 + 55 * pictures, 0, 255).astype(np.uint8)
    return clipped


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
