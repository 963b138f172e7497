"""read -> decode -> stack -> infer: files in, one row per file and model out, in order.

Every stage holds a bounded number of images, so memory does not grow with the number of files. All of them run in
threads that release the GIL while they work; a file is read and decoded once, however many models want it.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from tagger import hardware, images, storage
from tagger.checkpoint.info import ModelInfo
from tagger.errors import AccessDenied, ImageError, SourceError
from tagger.images.transforms import Preprocessing
from tagger.inference.ceilings import Meter
from tagger.inference.engines import Engine, Float32Array

Row = dict[str, Any]
Fitted = Mapping[Preprocessing, images.UInt8Array]
Inspect = Callable[[Image.Image, tuple[int, int], Fitted], Row]
"""Columns computed from a decoded RGB image, its true (width, height), and its pixels as the models want them."""
T = TypeVar("T")
R = TypeVar("R")

MAX_FILE_BYTES = 1 << 30
"""A larger file is not read: it would take the memory of a thousand photographs."""

BYTES_AHEAD = 1 << 29
"""Encoded images that wait to be decoded together weigh no more: scans of hundreds of megabytes go a few at a time."""
_REMOTE_READS, _LOCAL_READS = 32, 4
_AHEAD = 64
"""Images that wait before each stage, at least: while a part file is written, the others go on."""


class Jpegs(Protocol):
    """What engines.jpegs.DeviceJpegs is."""

    def takes(self, content: bytes) -> tuple[int, int] | None:
        """Return the (width, height) of a file that it can decode; None for any other."""
        ...

    def __call__(self, contents: Sequence[bytes]) -> list[images.UInt8Array]:
        """Return (H, W, 3) uint8 per file; raises RuntimeError when one does not decode."""
        ...


@dataclass(frozen=True)
class LoadedModel:
    """A model of a run, ready to score."""

    info: ModelInfo
    engine: Engine
    answer: Callable[[Float32Array, Float32Array], Row]
    """One image's scores (classes,) and embedding (D,) -> the columns they become."""
    jpegs: Jpegs | None = None
    """Decodes plain JPEGs many at a time on the engine's device; used when the model runs alone."""


@dataclass
class Loaded:
    """One file on its way."""

    facts: Row
    """Columns that are the same for every model: key, image, status and error."""
    wanted: tuple[int, ...]
    """Which models are to score it."""
    content: bytes = b""
    pixels: dict[int, images.UInt8Array] = field(default_factory=dict)
    """Model -> picture as that model wants it; empty once the file has failed."""
    answers: dict[int, Row] = field(default_factory=dict)
    """Model -> columns of its own."""
    read_seconds: float = 0.0
    decode_seconds: float = 0.0

    def rows(self) -> list[tuple[int, Row]]:
        """Return (model, row) for every model that wanted the file; without any model, one row."""
        return [(model, {**self.facts, **self.answers.get(model, {})}) for model in self.wanted] or [(0, self.facts)]


def score_files(
    entries: Iterable[Row],
    models: Sequence[LoadedModel],
    max_pixels: int,
    meter: Meter | None = None,
    inspect: Inspect | None = None,
) -> Generator[list[tuple[int, Row]]]:
    """Yield for each entry (key columns, and in `wanted` the bits of its models) its rows, in the same order.

    `inspect` adds columns computed from each decoded picture. A file that cannot be scored gives rows with its status
    and error and leaves the others alone. Raises AccessDenied when the store refuses our credentials, since then every
    file would fail.
    """
    stream = iter(entries)
    first = next(stream, None)
    if first is None:
        return
    meter = meter or Meter()
    meter.readers = readers_for([first["uri"]])
    everyone = (1 << len(models)) - 1
    preparations = [model.info.preprocessing for model in models]
    jpegs = models[0].jpegs if len(models) == 1 else None
    size = max((model.engine.batch_size for model in models), default=16)
    callers = max((model.engine.concurrency for model in models), default=1)
    decoders = hardware.cores()
    with _pools(read=meter.readers, decode=decoders, infer=callers) as (readers, decode_pool, infer_pool):
        listed, ahead = chain([first], stream), 2 * meter.readers
        read = bounded_map(
            lambda entry: _read(entry, everyone), listed, readers, ahead, lambda entry: entry["bytes"] or 0
        )
        ahead = max(size + 2 * decoders, _AHEAD)
        decoded = bounded_map(
            lambda item: _decode(item, preparations, max_pixels, jpegs, inspect), read, decode_pool, ahead,
            lambda item: len(item.content),
        )  # fmt: skip
        batches = iter(lambda: list(islice(decoded, size)), [])
        if jpegs:
            batches = (_decode_together(batch, jpegs, preparations, max_pixels) for batch in batches)
        ahead = callers + max(1, _AHEAD // size)
        for batch in bounded_map(lambda batch: _infer(batch, models), batches, infer_pool, ahead):
            for item in batch:
                _measure(item, meter)
                yield item.rows()


def readers_for(uris: Sequence[str]) -> int:
    """Return how many files to read at the same time: many where every read waits for a network."""
    return _REMOTE_READS if any(map(storage.is_remote, uris)) else _LOCAL_READS


@contextlib.contextmanager
def _pools(**threads: int) -> Iterator[list[ThreadPoolExecutor]]:
    """Open thread pools by name; on the way out nothing that waits in them is still done."""
    pools = [ThreadPoolExecutor(count, name) for name, count in threads.items()]
    try:
        yield pools
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in pools:
            pool.shutdown(wait=True)


def bounded_map(
    function: Callable[[T], R],
    items: Iterable[T],
    pool: Executor,
    ahead: int,
    weight: Callable[[T], int] = lambda item: 0,
) -> Iterator[R]:
    """Map in a pool, in order, with at most `ahead` items submitted and not yet consumed.

    Together they weigh at most BYTES_AHEAD, but that one always goes on.
    """
    stream = iter(items)
    waiting: deque[tuple[Future[R], int]] = deque()
    upcoming: list[T] = []
    heavy = 0
    while True:
        while len(waiting) < ahead and (upcoming := upcoming or list(islice(stream, 1))):
            weighs = weight(upcoming[0])
            if waiting and heavy + weighs > BYTES_AHEAD:
                break
            waiting.append((pool.submit(function, upcoming.pop()), weighs))
            heavy += weighs
        if not waiting:
            return
        future, weighs = waiting.popleft()
        result = future.result()
        heavy -= weighs
        yield result


def _read(entry: Row, everyone: int) -> Loaded:
    started = time.perf_counter()
    bits = entry.get("wanted", everyone)
    wanted = tuple(model for model in range(everyone.bit_length()) if bits >> model & 1)
    facts: Row = {**entry, "status": "ok", "error": None}
    location = facts.pop("location", None) or entry["uri"]
    item = Loaded(facts, wanted)
    try:
        if (entry["bytes"] or 0) > MAX_FILE_BYTES:
            raise ImageError("too_large", f"{entry['bytes']} bytes are over the limit of {MAX_FILE_BYTES}")
        item.content = storage.read_bytes(location)
    except ImageError as error:
        return _fail(item, error.status, error)
    except AccessDenied as error:
        if storage.is_credential_error(error):
            raise
        return _fail(item, "unreadable", error)
    except SourceError as error:
        return _fail(item, "unreadable", error)
    facts["image_id"] = hashlib.sha256(item.content).hexdigest()
    item.read_seconds = time.perf_counter() - started
    return item


def _decode(
    item: Loaded,
    preparations: Sequence[Preprocessing],
    max_pixels: int,
    jpegs: Jpegs | None = None,
    inspect: Inspect | None = None,
) -> Loaded:
    """Decode once, and fit once for all models that want the same; leave to `jpegs` what it takes."""
    if item.facts["status"] != "ok":
        return item
    if jpegs and (size := jpegs.takes(item.content)) and size[0] * size[1] <= max_pixels:
        return item
    started = time.thread_time()
    try:
        wanted = {model: preparations[model] for model in item.wanted}
        pictures: list[Image.Image] = []
        fitted, facts = images.prepare(item.content, set(wanted.values()), max_pixels, pictures.append)
    except ImageError as error:
        return _fail(item, error.status, error)
    finally:
        item.content = b""
    item.pixels = {model: fitted[preparation] for model, preparation in wanted.items()}
    item.facts.update(width=facts.width, height=facts.height, format=facts.format)
    if inspect:
        item.facts.update(inspect(pictures[0], (facts.width, facts.height), fitted))
    item.decode_seconds = time.thread_time() - started
    return item


def _decode_together(
    batch: list[Loaded], jpegs: Jpegs, preparations: Sequence[Preprocessing], max_pixels: int
) -> list[Loaded]:
    """Decode what was left for the device; when one file stops it, all of them go the usual way."""
    left = [item for item in batch if item.content]
    if not left:
        return batch
    try:
        pictures = jpegs([item.content for item in left])
        sizes = [jpegs.takes(item.content) or (0, 0) for item in left]
    except RuntimeError:
        for item in left:
            _decode(item, preparations, max_pixels)
        return batch
    for item, picture, (width, height) in zip(left, pictures, sizes, strict=True):
        item.facts.update(width=width, height=height, format="JPEG")
        item.pixels, item.content = {0: picture}, b""
    return batch


def _infer(batch: list[Loaded], models: Sequence[LoadedModel]) -> list[Loaded]:
    for number, model in enumerate(models):
        good = [item for item in batch if number in item.pixels]
        if not good:
            continue
        scores, embeddings = model.engine(np.stack([item.pixels[number] for item in good]))
        for item, row_scores, embedding in zip(good, scores, embeddings, strict=True):
            if np.isfinite(row_scores).all():
                item.answers[number] = model.answer(row_scores, embedding)
            else:
                item.answers[number] = {"status": "failed", "error": "the model gave scores that are not numbers"}
    for item in batch:
        item.pixels = {}
    return batch


def _measure(item: Loaded, meter: Meter) -> None:
    if item.read_seconds:
        meter.reads += 1
        meter.read_seconds += item.read_seconds
    if item.decode_seconds:
        meter.decoded += 1
        meter.decode_seconds += item.decode_seconds


def _fail(item: Loaded, status: str, error: Exception) -> Loaded:
    message = str(error).removeprefix(f"{item.facts['uri']}: ")
    item.facts.update(status=status, error=message)
    return item
