"""A loaded model: `tagger.load(...).predict(images)`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from tagger import checkpoint, hardware, schema, storage
from tagger.checkpoint.info import ModelInfo
from tagger.errors import ImageError, TaggerError
from tagger.images import MAX_PIXELS
from tagger.inference import engines
from tagger.inference.batch import Failure
from tagger.inference.config import ModelConfig
from tagger.inference.decoders import REMOTE_READS
from tagger.inference.engines import Engine
from tagger.inference.engines.choice import EngineName, Precision
from tagger.inference.pipeline import Row, Selector, bounded, score_rows
from tagger.options import Device
from tagger.storage import StrPath

log = logging.getLogger(__name__)

Input: TypeAlias = StrPath | bytes | Image.Image | npt.NDArray[np.uint8]
"""A path or URL, the bytes of a file, an image, or RGB pixels (H, W, 3)."""

COLUMNS = [name for name in schema.RESULTS.names if name not in ("run_id", "tagged_at")]
"""Columns of a prediction: those of a results row, except those of its run."""


@dataclass(frozen=True)
class Model:
    """A model with its weights on a device; thread-safe."""

    info: ModelInfo
    engine: Engine
    selector: Selector
    config: ModelConfig = field(default_factory=ModelConfig)

    def predict(self, inputs: Input | Iterable[Input]) -> list[Row]:
        """Return one row per input, in order, with the columns of a results row.

        Inputs are any mix of paths, URLs, bytes of image files, PIL images and uint8 RGB arrays (H, W, 3). An input
        that cannot be scored gives a row with its `status` and `error`. `uri` is null for an input without a name,
        `image_id` for one without bytes.
        """
        with ThreadPoolExecutor(REMOTE_READS) as pool:
            entries = bounded(lambda value: pool.submit(_entry, value), _each(inputs), 2 * REMOTE_READS)
            return [self._row(row) for row in score_rows(entries, [self], self.config.limits)]

    def columns(self) -> Row:
        """Return the columns that are the same in all rows of this model."""
        return {
            "model": self.info.name,
            "model_id": self.info.model_id,
            "settings_id": self.config.settings_id(self.info),
            "engine": self.engine.name,
        }

    def _row(self, row: Row) -> Row:
        row = {**row, **self.columns()}
        return {name: row.get(name) for name in COLUMNS}


def load(
    model: StrPath,
    *,
    device: Device = "auto",
    engine: EngineName = "auto",
    precision: Precision = "auto",
    top_k: int = 5,
    threshold: float | None = None,
    batch_size: int | None = None,
    embeddings: bool = False,
    tag_unknown: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Model:
    """Load a model once for many predictions.

    `model` is a checkpoint folder or URL, imagenet, timm/NAME or local-dir:FOLDER; the options are as in `tagger tag`.
    Raises ModelError, SourceError or UsageError.
    """
    config = ModelConfig(
        top_k=top_k, threshold=threshold, batch_size=batch_size, device=device, engine=engine, precision=precision,
        embeddings=embeddings, tag_unknown=tag_unknown, max_pixels=max_pixels,
    )  # fmt: skip
    return build(checkpoint.describe(os.fspath(model)), config)


def build(info: ModelInfo, config: ModelConfig) -> Model:
    """Load the weights of a described model onto its device."""
    for doubt in engines.doubts(config.choice, info, hardware.has_cuda()):
        log.warning(doubt)
    engine = engines.load(info, checkpoint.build, config.choice, config.batch_size)
    return Model(info, engine, config.selector(info), config)


def predict(inputs: Input | Iterable[Input], model: StrPath, config: ModelConfig | None = None) -> list[Row]:
    """Load a model and predict once: `load(model).predict(inputs)`."""
    return build(checkpoint.describe(os.fspath(model)), config or ModelConfig()).predict(inputs)


def _each(inputs: Any) -> Iterable[Any]:
    """Return the inputs as an iterable; a single input becomes a list of one."""
    single = isinstance(inputs, str | os.PathLike | bytes | Image.Image)
    return [inputs] if single or (isinstance(inputs, np.ndarray) and inputs.ndim == 3) else inputs


def _entry(value: Any) -> Row:
    """Return an input as an entry of the pipeline; an error becomes its Failure."""
    nameless: Row = dict.fromkeys(schema.KEY.names)
    try:
        if isinstance(value, str | os.PathLike):
            nameless["uri"] = _url(value)
            return storage.describe(storage.absolute_file(os.fsdecode(value)))._asdict()
        if isinstance(value, bytes):
            return {**nameless, "bytes": len(value), "source": value}
        return {**nameless, "source": _image(value)}
    except ImageError as error:
        return {**nameless, "source": Failure(error.status, str(error))}
    except TaggerError as error:  # a store that refuses the credentials, a package that is not installed
        return {**nameless, "source": Failure("unreadable", storage.redact(str(error)))}


def _url(value: StrPath) -> str:
    url = storage.absolute_file(os.fsdecode(value))
    return storage.public_uri(url) if storage.is_remote(url) else url


def _image(value: Any) -> Image.Image:
    """Return an input in memory as an image; raises ImageError for any other type."""
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.shape[2:] == (3,) and value.size:
        return Image.fromarray(value)
    raise ImageError(
        "unsupported", f"expected a path, URL, bytes, PIL image or uint8 RGB array (H, W, 3), got {_named(value)}"
    )


def _named(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return type(value).__name__
