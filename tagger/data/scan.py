"""One pass over files: id, fingerprint, thumbnail and embedding of every image.

Results are cached by file version, so a second scan of unchanged files reads none of them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from tagger import checkpoint, hardware, images, schema, storage
from tagger.checkpoint.info import ModelInfo
from tagger.data import cache as cache_file
from tagger.data import duplicates
from tagger.data.cache import ImageCache
from tagger.data.duplicates import Fingerprint
from tagger.images import Preprocessing, UInt8Array
from tagger.inference import engines
from tagger.inference.batch import Fitted
from tagger.inference.engines import Choice, Float32Array
from tagger.inference.model import Model
from tagger.inference.pipeline import Row, score_rows

THUMBNAIL = 160
"""Longest side of a thumbnail in pixels."""
IN_MEMORY = 3_000_000_000
"""Maximum bytes of decoded images in memory; a larger dataset is decoded again in every epoch."""
ROOM = 1.15
"""Ratio of training images to the network's input in size, so that random crops are hardly upscaled."""
_LOOKED_UP, _STORED = 2000, 500
"""Files per query of the cache, and per transaction."""

OnProgress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Arrays:
    """Pixels to return as well; a file whose other results are cached is not decoded for them."""

    training: bool = False
    """Pixels for fine-tuning, if they fit into memory: preprocessed for the backbone, and whole for augmentation."""
    square: Preprocessing | None = None
    """Preprocessing of pixels that are always returned, for which every file is decoded."""


@dataclass
class Scan:
    """Results of a scan, one row per file."""

    image_ids: list[str]
    """SHA-256 of each file; empty for one that cannot be decoded."""
    fingerprint: UInt8Array
    """Thumbnails (N, 16, 16, 3) for finding copies."""
    features: Float32Array | None = None
    """Embeddings (N, D) of the backbone; zeros for an image without one."""
    decoded: int = 0
    """Files that were read and decoded; the others were cached."""
    arrays: dict[str, dict[int, UInt8Array]] = field(
        default_factory=lambda: {"pixels": {}, "training": {}, "square": {}}
    )
    """Row -> (H, W, 3)."""

    @property
    def have(self) -> npt.NDArray[np.bool_]:
        """Return which files could be decoded."""
        return np.array([image_id != "" for image_id in self.image_ids], dtype=bool)

    def of_decoded(self) -> Scan:
        """Return the rows of the files that could be decoded."""
        rows = np.flatnonzero(self.have).tolist()
        return replace(
            self,
            image_ids=[self.image_ids[row] for row in rows],
            fingerprint=self.fingerprint[rows],
            features=None if self.features is None else self.features[rows],
            arrays={
                name: {place: arrays[row] for place, row in enumerate(rows) if row in arrays}
                for name, arrays in self.arrays.items()
            },
        )

    def fingerprints(self) -> list[Fingerprint]:
        """Return the fingerprints of the files that could be decoded."""
        pairs = zip(self.image_ids, self.fingerprint, strict=True)
        return [Fingerprint(image_id, thumbnail) for image_id, thumbnail in pairs if image_id]

    def add(self, row: int, image_id: str, fingerprint: bytes) -> None:
        """Set the results of a row."""
        self.image_ids[row] = image_id
        self.fingerprint[row] = np.frombuffer(fingerprint, dtype=np.uint8).reshape(self.fingerprint[row].shape)


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
    count, cache, arrays = len(table), ImageCache(), arrays or Arrays()
    found = Scan([""] * count, np.zeros((count, duplicates.SIDE, duplicates.SIDE, 3), np.uint8))
    vectors: dict[int, Float32Array] = {}
    fresh: dict[int, cache_file.Image] = {}
    if backbone and not _fits(count, backbone.preprocessing):
        arrays = replace(arrays, training=False)
    missing = _missing(table, cache, backbone, arrays, found, vectors)
    try:
        look = _inspector(backbone, arrays)
        for row in score_rows(missing, _models(backbone, device), None, look):
            index, found.decoded = row["row"], found.decoded + 1
            for name, taken in found.arrays.items():
                if name in row:
                    taken[index] = row[name]
            if row["status"] == "ok":
                found.add(index, row["image_id"], row["fingerprint"])
                fresh[index] = cache_file.Image(row["key"], row["image_id"], row["fingerprint"], row["thumbnail"])
                if backbone:
                    vectors[index] = np.asarray(row["embedding"], dtype=np.float32)
            if len(fresh) == _STORED:
                _store(cache, fresh, backbone, vectors)
            on_progress(index + 1, count)
    finally:
        _store(cache, fresh, backbone, vectors)
        cache.close()
    found.features = _stacked(vectors, count) if backbone else None
    return found


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
    found: Scan,
    vectors: dict[int, Float32Array],
) -> Iterator[Row]:
    """Yield the files that must be read, and set the cached results of the others."""
    names = [name for name in (*schema.KEY.names, "location") if name in table.column_names]
    for start in range(0, len(table), _LOOKED_UP):
        entries = table.select(names).slice(start, _LOOKED_UP).to_pylist()
        keys = [_key(entry) for entry in entries]
        known = cache.images(keys)
        ids = [image_id for image_id, _ in known.values()]
        embedded = cache.embeddings(backbone.model_id, ids) if backbone else {}
        for index, (entry, key) in enumerate(zip(entries, keys, strict=True), start):
            image_id, fingerprint = known.get(key, ("", b""))
            if not image_id or arrays.square or (backbone and image_id not in embedded):
                yield {**entry, "row": index, "key": key}
                continue
            found.add(index, image_id, fingerprint)
            if backbone:
                vectors[index] = embedded[image_id]


def _key(entry: Row) -> str:
    """Return the version of a file: a local one as it is now, a remote one as listed; empty without a version."""
    uri, size, version = entry["uri"], entry["bytes"], entry["etag"] or entry["modified_at"]
    if not storage.is_remote(uri):
        now = storage.describe(uri)
        size, version = now.bytes, now.modified_at
    return f"{uri}\0{size}\0{version}" if version else ""


def _store(
    cache: ImageCache,
    fresh: dict[int, cache_file.Image],
    backbone: ModelInfo | None,
    vectors: dict[int, Float32Array],
) -> None:
    """Cache new results; a file that cannot be decoded is tried again next time."""
    embeddings = {image.image_id: vectors[row] for row, image in fresh.items()} if backbone else {}
    cache.add([image for image in fresh.values() if image.key], backbone.model_id if backbone else "", embeddings)
    fresh.clear()


def _inspector(backbone: ModelInfo | None, arrays: Arrays) -> Callable[[Image.Image, tuple[int, int], Fitted], Row]:
    """Return the function that computes the columns of a decoded image."""

    def inspect(image: Image.Image, size: tuple[int, int], fitted: Fitted) -> Row:
        row = describe(image)
        if arrays.training and backbone:
            row["pixels"] = fitted[backbone.preprocessing]
            row["training"] = for_training(image, backbone.preprocessing)
        if arrays.square:
            row["square"] = images.fit(image, arrays.square, size)
        return row

    return inspect


def describe(image: Image.Image) -> Row:
    """Return the fingerprint and the thumbnail (JPEG) of an RGB image."""
    small, encoded = image.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=2.0)
    small.save(encoded, "JPEG", quality=80)
    return {"fingerprint": duplicates.thumbnail(image).tobytes(), "thumbnail": encoded.getvalue()}


def _fits(count: int, preprocessing: Preprocessing) -> bool:
    """Return whether `count` images, preprocessed and whole, fit into memory."""
    side, (height, width) = _training_side(preprocessing), preprocessing.size
    return count * 3 * (height * width + 1.4 * side * side) < IN_MEMORY


def _training_side(preprocessing: Preprocessing) -> int:
    return round(ROOM * max(preprocessing.size))


def for_training(image: Image.Image, preprocessing: Preprocessing) -> UInt8Array:
    """Return a whole image (H, W, 3), reduced to the size that random crops need."""
    ratio = _training_side(preprocessing) / min(image.size)
    if ratio < 1:
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(image)


def _stacked(vectors: Mapping[int, Float32Array], count: int) -> Float32Array:
    width = len(next(iter(vectors.values()), ()))
    features = np.zeros((count, width), dtype=np.float32)
    for index, vector in vectors.items():
        features[index] = vector
    return features


def fitted_arrays(arrays: UInt8Array, preprocessing: Preprocessing) -> UInt8Array:
    """Return images (N, H, W, 3), resized and cropped."""
    return fit_all(lambda array: images.fit(Image.fromarray(array), preprocessing), arrays, preprocessing)


def fit_all(fit: Callable[[T], UInt8Array], items: Iterable[T], preprocessing: Preprocessing) -> UInt8Array:
    """Apply a preprocessing function to images in threads; return (N, H, W, 3)."""
    with ThreadPoolExecutor(hardware.cores()) as pool:
        found = list(pool.map(fit, items))
    return np.stack(found) if found else np.zeros((0, *preprocessing.size, 3), dtype=np.uint8)


def embed(arrays: UInt8Array, backbone: ModelInfo, device: str, on_progress: OnProgress) -> tuple[Float32Array, int]:
    """Return embeddings (N, D) of images (N, H, W, 3) in memory, and how many were not cached."""
    cache, engine = ImageCache(), None
    ids = [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
    known = cache.embeddings(backbone.model_id, ids)
    missing = [row for row, image_id in enumerate(ids) if image_id not in known]
    for start in range(0, len(missing), _STORED):
        engine = engine or _models(backbone, device)[0].engine
        rows = missing[start : start + _STORED]
        pixels = fitted_arrays(arrays[rows], backbone.preprocessing)
        _, found = engines.run(engine, pixels)
        fresh = {ids[row]: vector for row, vector in zip(rows, found, strict=True)}
        cache.add((), backbone.model_id, fresh)
        known.update(fresh)
        on_progress(start + len(rows), len(missing))
    cache.close()
    return np.stack([known[image_id] for image_id in ids]), len(missing)
