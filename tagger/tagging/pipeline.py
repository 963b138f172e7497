"""read -> decode -> stack -> infer: files in, one row per file out, in order.

Every stage holds a bounded number of images, so memory does not grow with the number of files. Reading and decoding
run in threads (both release the GIL); the engine runs in the calling thread and finds its next batch ready.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from tagger import images, storage
from tagger.engines import Engine, Float32Array
from tagger.errors import AccessDenied, ImageError, SourceError
from tagger.model_info import ModelInfo
from tagger.tagging.config import TagConfig

Row = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R")

MAX_FILE_BYTES = 1 << 30
"""A larger file is not read: it would take the memory of a thousand photographs."""

_REMOTE_READS, _LOCAL_READS = 32, 4


@dataclass
class Loaded:
    """One file on its way: its row so far, and its pixels unless it failed."""

    row: Row
    content: bytes = b""
    pixels: images.UInt8Array | None = None


def tag_files(entries: Iterable[Row], info: ModelInfo, engine: Engine, config: TagConfig) -> Generator[Row]:
    """Yield one row per entry (a dictionary of key columns), in the same order.

    A file that cannot be tagged gives a row with its status and error and leaves the others alone. Raises AccessDenied
    when the store refuses our credentials, since then every file would fail.
    """
    stream = iter(entries)
    first = next(stream, None)
    if first is None:
        return
    reads = _REMOTE_READS if storage.is_remote(first["uri"]) else _LOCAL_READS
    decoders = os.cpu_count() or 1
    select = TagSelector(info, config)
    with ThreadPoolExecutor(reads, "read") as read_pool, ThreadPoolExecutor(decoders, "decode") as decode_pool:
        try:
            files = _chain(first, stream)
            read = bounded_map(_read, files, read_pool, 2 * reads)
            ahead = 2 * config.batch_size + decoders
            decoded = bounded_map(lambda item: _decode(item, info, config.max_pixels), read, decode_pool, ahead)
            while batch := list(islice(decoded, config.batch_size)):
                _infer(batch, engine, select)
                yield from (item.row for item in batch)
        finally:
            read_pool.shutdown(wait=False, cancel_futures=True)
            decode_pool.shutdown(wait=False, cancel_futures=True)


def bounded_map(function: Callable[[T], R], items: Iterable[T], pool: Executor, ahead: int) -> Iterator[R]:
    """Map in a pool, in order, with at most `ahead` items submitted and not yet consumed."""
    stream = iter(items)
    waiting: deque[Future[R]] = deque(pool.submit(function, item) for item in islice(stream, ahead))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(function, item) for item in islice(stream, 1))
        yield result


def _chain(first: T, rest: Iterator[T]) -> Iterator[T]:
    yield first
    yield from rest


def _read(entry: Row) -> Loaded:
    row: Row = {**entry, "status": "ok", "error": None}
    try:
        if (entry["bytes"] or 0) > MAX_FILE_BYTES:
            raise ImageError("too_large", f"{entry['bytes']} bytes are over the limit of {MAX_FILE_BYTES}")
        content = storage.read_bytes(entry["uri"])
    except ImageError as error:
        return _fail(Loaded(row), error.status, error)
    except AccessDenied as error:
        if storage.is_credential_error(error):
            raise
        return _fail(Loaded(row), "unreadable", error)
    except SourceError as error:
        return _fail(Loaded(row), "unreadable", error)
    row["image_id"] = hashlib.sha256(content).hexdigest()
    return Loaded(row, content)


def _decode(item: Loaded, info: ModelInfo, max_pixels: int) -> Loaded:
    if item.row["status"] != "ok":
        return item
    try:
        picture, facts = images.decode(item.content, max_pixels)
        item.pixels = images.fit(picture, info.preprocessing)
    except ImageError as error:
        return _fail(item, error.status, error)
    finally:
        item.content = b""
    item.row.update(width=facts.width, height=facts.height, format=facts.format)
    return item


def _infer(batch: list[Loaded], engine: Engine, select: TagSelector) -> None:
    good = [item for item in batch if item.pixels is not None]
    if not good:
        return
    scores, embeddings = engine(np.stack([item.pixels for item in good if item.pixels is not None]))
    for item, row_scores, embedding in zip(good, scores, embeddings, strict=True):
        if np.isfinite(row_scores).all():
            item.row.update(select(row_scores, embedding))
        else:
            _fail(item, "failed", ImageError("failed", "the model gave scores that are not numbers"))
        item.pixels = None


def _fail(item: Loaded, status: str, error: Exception) -> Loaded:
    message = str(error).removeprefix(f"{item.row['uri']}: ")
    item.row.update(status=status, error=message)
    return item


class TagSelector:
    """Turn one image's scores into the columns tags, candidates, top_tag, top_score and embedding."""

    def __init__(self, info: ModelInfo, config: TagConfig) -> None:
        thresholds = config.thresholds(info)
        self._names = info.label_names
        self._thresholds = None if thresholds is None else np.array(thresholds, dtype=np.float32)
        self._top_k = min(config.top_k, len(info.label_names))
        self._embeddings = config.embeddings

    def __call__(self, scores: Float32Array, embedding: Float32Array) -> Row:
        """Return the columns; scores are (classes,), embedding (D,)."""
        best = np.argsort(-scores, kind="stable")
        candidates = [self._scored(index, scores) for index in best[: self._top_k]]
        if self._thresholds is None:
            tags = candidates[:1]
        else:
            tags = [self._scored(index, scores) for index in best if scores[index] >= self._thresholds[index]]
        return {
            "tags": tags,
            "candidates": candidates,
            "top_tag": candidates[0]["tag"],
            "top_score": candidates[0]["score"],
            "embedding": embedding if self._embeddings else None,
        }

    def _scored(self, index: int, scores: Float32Array) -> dict[str, Any]:
        return {"tag": self._names[index], "score": float(scores[index])}
