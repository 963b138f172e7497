"""One pass over files: id, size, fingerprint, blur, brightness, thumbnail and embedding of every image.

Results are cached by file version: a second scan of unchanged files reads none of them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from tagger import checkpoint, images, schema, storage
from tagger.checkpoint.info import ModelInfo
from tagger.data import duplicates
from tagger.data.cache import ImageCache
from tagger.data.duplicates import Fingerprint
from tagger.images import MAX_PIXELS, Preprocessing, UInt8Array
from tagger.inference import engines
from tagger.inference.batch import Fitted
from tagger.inference.engines import Choice, Float32Array
from tagger.inference.model import Model
from tagger.inference.pipeline import Row, score_rows

THUMBNAIL = 160
"""Longest side of a thumbnail in pixels."""
_LOOKED_UP, _STORED = 2000, 500
"""Files per query of the cache, and per transaction."""
_FACTS = ("image_id", "width", "height", "format", "status", "error", "brightness", "blur", "fingerprint", "thumbnail")

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Arrays:
    """Pixels to return from the same decode; files whose other results are cached are not decoded for them."""

    pixels: bool = False
    """As the backbone wants them: (H, W, 3)."""
    training_side: int | None = None
    """The whole image, its short side at most this long."""
    square: Preprocessing | None = None
    """Fitted by this preprocessing; always returned, so that every file is decoded."""


@dataclass
class Scan:
    """Results of a scan, a row per file."""

    facts: list[Row]
    """image_id, width, height, format, status, error, brightness, blur, fingerprint, thumbnail."""
    features: Float32Array | None
    """(N, D) embeddings of the backbone; zeros where an image has none."""
    decoded: int = 0
    """Files that were read and decoded; the others were known."""
    arrays: dict[str, dict[int, UInt8Array]] = field(default_factory=dict)
    """pixels, training or square -> row -> (H, W, 3)."""

    @property
    def have(self) -> npt.NDArray[np.bool_]:
        """Return which files decode."""
        return np.array([row["status"] == "ok" for row in self.facts], dtype=bool)

    def fingerprints(self) -> list[Fingerprint]:
        """Return the fingerprints of the files that decode."""
        shape = (duplicates.SIDE, duplicates.SIDE, 3)
        return [
            Fingerprint(row["image_id"], np.frombuffer(row["fingerprint"], dtype=np.uint8).reshape(shape))
            for row in self.facts
            if row["status"] == "ok"
        ]


def scan(
    table: pa.Table,
    backbone: ModelInfo | None = None,
    device: str = "auto",
    arrays: Arrays | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Scan:
    """Scan the files of a manifest; with a backbone, compute its embeddings in the same pass.

    Raises AccessDenied when a store refuses the credentials.
    """
    cache, arrays = ImageCache(), arrays or Arrays()
    model_id = backbone.model_id if backbone else ""
    facts: list[Row] = [{} for _ in range(len(table))]
    vectors: dict[int, Float32Array] = {}
    taken: dict[str, dict[int, UInt8Array]] = {"pixels": {}, "training": {}, "square": {}}
    missing = _missing(table, cache, backbone, arrays, facts, vectors)
    look = _inspector(backbone, arrays)
    decoded, fresh = 0, dict[int, str | None]()
    try:
        for row in score_rows(missing, _models(backbone, device), MAX_PIXELS, look):
            index, decoded = row["row"], decoded + 1
            for name in taken:
                if (array := row.get(name)) is not None:
                    taken[name][index] = array
            facts[index] = {name: row.get(name) for name in _FACTS}
            if (vector := row.get("embedding")) is not None:
                vectors[index] = np.asarray(vector, dtype=np.float32)
            fresh[index] = row["key"]
            if len(fresh) == _STORED:
                _store(cache, fresh, facts, model_id, vectors)
            on_progress(index + 1, len(table))
    finally:
        _store(cache, fresh, facts, model_id, vectors)
        cache.close()
    return Scan(facts, _stacked(vectors, len(table)) if backbone else None, decoded, taken)


def _models(backbone: ModelInfo | None, device: str) -> list[Model]:
    if backbone is None:
        return []
    engine = engines.load(backbone, checkpoint.build_resized, Choice(device, precision="fp32"))
    return [Model(backbone, engine, lambda scores, embeddings: {"embedding": embeddings})]


def _missing(
    table: pa.Table,
    cache: ImageCache,
    backbone: ModelInfo | None,
    arrays: Arrays,
    facts: list[Row],
    vectors: dict[int, Float32Array],
) -> Iterator[Row]:
    """Yield the files that must be read, and fill in what the cache knows of the others."""
    names = [name for name in (*schema.KEY.names, "location") if name in table.column_names]
    for start in range(0, len(table), _LOOKED_UP):
        entries = table.select(names).slice(start, _LOOKED_UP).to_pylist()
        keys = [_key(entry) for entry in entries]
        known = cache.facts([key for key in keys if key])
        ids = [row["image_id"] for row in known.values() if row["status"] == "ok"]
        embedded = cache.embeddings(backbone.model_id, ids) if backbone else {}
        for index, (entry, key) in enumerate(zip(entries, keys, strict=True), start):
            row = known.get(key or "")
            whole = row and (not backbone or row["status"] != "ok" or row["image_id"] in embedded)
            if row is None or not whole or arrays.square:
                yield {**entry, "row": index, "key": key}
                continue
            facts[index] = row
            if row["image_id"] in embedded:
                vectors[index] = embedded[row["image_id"]]


def _key(entry: Mapping[str, Any]) -> str | None:
    """Return the version of a file: locally as it is now, remotely as listed; None where the store tells none."""
    uri, size, version = entry["uri"], entry["bytes"], entry["etag"] or entry["modified_at"]
    if not storage.is_remote(uri):
        now = storage.describe(uri)
        size, version = now.bytes, now.modified_at
    return f"{uri}\0{size}\0{version}" if version else None


def _store(
    cache: ImageCache,
    fresh: dict[int, str | None],
    facts: list[Row],
    model_id: str,
    vectors: dict[int, Float32Array],
) -> None:
    """Cache fresh results; a file that cannot be scored is tried again next time."""
    rows = {key: facts[i] for i, key in fresh.items() if key and facts[i]["status"] == "ok"}
    found = {facts[i]["image_id"]: vectors[i] for i in fresh if i in vectors}
    if rows or found:
        cache.add(rows, model_id, found)
    fresh.clear()


def _inspector(backbone: ModelInfo | None, arrays: Arrays) -> Callable[[Image.Image, tuple[int, int], Fitted], Row]:
    """Return what computes the columns of a decoded image."""

    def inspect(picture: Image.Image, size: tuple[int, int], fitted: Fitted) -> Row:
        row = describe(picture)
        if arrays.pixels and backbone:
            row["pixels"] = fitted[backbone.preprocessing]
        if arrays.training_side:
            row["training"] = at_most(picture, arrays.training_side)
        if arrays.square:
            row["square"] = images.fit(picture, arrays.square, size)
        return row

    return inspect


def describe(picture: Image.Image) -> Row:
    """Return fingerprint, thumbnail (JPEG), brightness (0 to 1) and blur of an RGB image.

    Blur is the variance of the thumbnail's Laplacian (Pech-Pacheco 2000): the lower, the blurrier.
    """
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=2.0)
    grey = np.asarray(small.convert("L"), dtype=np.float32)
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=80)
    return {
        "fingerprint": duplicates.thumbnail(picture).tobytes(),
        "thumbnail": encoded.getvalue(),
        "brightness": round(float(grey.mean()) / 255, 4),
        "blur": round(float(edges.var()), 2) if edges.size else 0.0,
    }


def at_most(picture: Image.Image, side: int) -> UInt8Array:
    """Return an image (H, W, 3) with its short side no longer than `side`."""
    ratio = side / min(picture.size)
    if ratio < 1:
        size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
        picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(picture)


def _stacked(vectors: Mapping[int, Float32Array], count: int) -> Float32Array:
    width = len(next(iter(vectors.values()), ()))
    features = np.zeros((count, width), dtype=np.float32)
    for index, vector in vectors.items():
        features[index] = vector
    return features


def embed(
    arrays: UInt8Array,
    backbone: ModelInfo,
    fitted: Callable[[UInt8Array, Preprocessing], UInt8Array],
    device: str = "auto",
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[Float32Array, int]:
    """Return embeddings (N, D) of images (N, H, W, 3) in memory, and how many had to be computed."""
    cache = ImageCache()
    ids = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
    known = cache.embeddings(backbone.model_id, ids)
    missing = [row for row, image_id in enumerate(ids) if image_id not in known]
    engine = engines.load(backbone, checkpoint.build_resized, Choice(device, precision="fp32")) if missing else None
    with ThreadPoolExecutor(engine.concurrency if engine else 1) as pool:
        for start in range(0, len(missing), _STORED):
            rows = missing[start : start + _STORED]
            pixels = fitted(arrays[rows], backbone.preprocessing)
            size = engine.batch_size if engine else 1
            parts = pool.map(engine, [pixels[i : i + size] for i in range(0, len(rows), size)])  # type: ignore[arg-type]
            found = np.concatenate([embedding for _, embedding in parts])
            fresh = {ids[row]: vector for row, vector in zip(rows, found, strict=True)}
            cache.add({}, backbone.model_id, fresh)
            known.update(fresh)
            on_progress(start + len(rows), len(missing))
    cache.close()
    vectors = {row: known[image_id] for row, image_id in enumerate(ids)}
    return _stacked(vectors, len(ids)), len(missing)
