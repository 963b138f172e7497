"""What a frozen backbone sees in each image, computed once by the tagging pipeline and kept by image_id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tagger import checkpoint
from tagger.checkpoint.info import ModelInfo, fingerprint
from tagger.data import cache
from tagger.images import MAX_PIXELS
from tagger.images.transforms import Preprocessing
from tagger.inference import engines
from tagger.inference.engines import Choice, Float32Array
from tagger.inference.model import Model
from tagger.inference.pipeline import Row, score_files

_CHUNK = 5000
"""Images per file of the cache: what a kill can lose."""


def for_size(info: ModelInfo, preprocessing: Preprocessing) -> ModelInfo:
    """Return the backbone as it is with other preprocessing, under an id of its own."""
    if preprocessing == info.preprocessing:
        return info
    model_id = fingerprint([info.model_id, repr(preprocessing)])
    return replace(info, preprocessing=preprocessing, model_id=model_id)


def embed(
    info: ModelInfo,
    uris: Sequence[str],
    ids: Sequence[str],
    device: str = "auto",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Float32Array, npt.NDArray[np.bool_], int]:
    """Return features (N, D), which images have them, and how many had to be decoded.

    Images whose features are kept from before are not decoded, whatever their path now.
    """
    name = f"features/{info.model_id}"
    known = cache.read(name)
    missing = {image_id: uri for image_id, uri in zip(ids, uris, strict=True) if image_id not in known}
    fresh: dict[str, bytes] = {}
    for image_id, embedding in _computed(info, missing, device, on_progress):
        known[image_id] = fresh[image_id] = embedding.astype(np.float32).tobytes()
        if len(fresh) == _CHUNK:
            cache.write(name, fresh)
            fresh = {}
    cache.write(name, fresh)
    have = np.array([image_id in known for image_id in ids], dtype=bool)
    width = len(next(iter(known.values()), b"")) // 4
    features = np.zeros((len(ids), width), dtype=np.float32)
    for row in np.flatnonzero(have).tolist():
        features[row] = np.frombuffer(known[ids[row]], dtype=np.float32)
    return features, have, len(missing)


def _computed(
    info: ModelInfo, missing: dict[str, str], device: str, on_progress: Callable[[int, int], None]
) -> Iterator[tuple[str, Float32Array]]:
    if not missing:
        return
    engine = engines.load(info, checkpoint.build_resized, Choice(device, precision="fp32"))
    model = Model(info, engine, lambda scores, embedding: {"embedding": embedding})
    entries: list[Row] = [{"uri": uri, "bytes": None} for uri in missing.values()]
    for done, rows in enumerate(score_files(entries, [model], MAX_PIXELS), 1):
        _, row = rows[0]
        if row["status"] == "ok":
            yield row["image_id"], row["embedding"]
        if done % 32 == 0 or done == len(missing):
            on_progress(done, len(missing))
