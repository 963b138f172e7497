"""read -> decode -> stack -> infer: files in, one row per file and model out, in order.

Every stage holds a bounded number of images, so memory does not grow with the number of files. All of them run in
threads that release the GIL while they work; a file is read and decoded once, however many models score it.
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
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from tagger import hardware, images, storage
from tagger.errors import AccessDenied, ImageError, SourceError
from tagger.images.transforms import Preprocessing
from tagger.inference.ceilings import Meter
from tagger.inference.engines import Float32Array

if TYPE_CHECKING:
    from tagger.inference.model import Model

Row = dict[str, Any]
Fitted = Mapping[Preprocessing, images.UInt8Array]
Inspect = Callable[[Image.Image, tuple[int, int], Fitted], Row]
"""Columns computed from a decoded RGB image, its true (width, height), and its pixels as the models want them."""
Selector = Callable[[Float32Array, Float32Array], Row]
"""One image's scores (classes,) and embedding (D,) -> columns."""
Read = Callable[[Row, int], "Loaded"]
"""An entry and a bit for every model -> the file's content, or why there is none."""
T = TypeVar("T")
R = TypeVar("R")

MAX_FILE_BYTES = 1 << 30
"""Larger files are not read: one would take the memory of a thousand photographs."""

BYTES_AHEAD = 1 << 29
"""Limit on the encoded images that wait to be decoded: scans of hundreds of megabytes go a few at a time."""
_REMOTE_READS, _LOCAL_READS = 32, 4
_AHEAD = 64
"""Images that wait before each stage, at least, so that no stage stops while a part file is written."""


@dataclass
class Loaded:
    """One file on its way."""

    facts: Row
    """Columns that are the same for every model: key, image, status, error."""
    wanted: tuple[int, ...]
    """Models that score it."""
    content: bytes = b""
    image: Image.Image | None = None
    """An image that is in memory already, instead of its content."""
    pixels: dict[int, images.UInt8Array] = field(default_factory=dict)
    """Model -> its input; empty once the file has failed."""
    answers: dict[int, Row] = field(default_factory=dict)
    """Model -> columns of its own."""
    read_seconds: float = 0.0
    decode_seconds: float = 0.0

    def rows(self) -> list[tuple[int, Row]]:
        """Return (model, row) for every model that wanted the file; without any model, one row."""
        return [(model, {**self.facts, **self.answers.get(model, {})}) for model in self.wanted] or [(0, self.facts)]


def score_files(
    entries: Iterable[Row],
    models: Sequence[Model],
    max_pixels: int,
    meter: Meter | None = None,
    inspect: Inspect | None = None,
    read: Read | None = None,
) -> Generator[list[tuple[int, Row]]]:
    """Yield for each entry (key columns, and in `wanted` the bits of its models) its rows, in the same order.

    `inspect` adds columns computed from each decoded image; `read` replaces read_entry. A file that cannot be scored
    gives rows with its status and error and leaves the others alone. Raises AccessDenied when the store refuses our
    credentials, since then every file would fail.
    """
    stream = iter(entries)
    first = next(stream, None)
    if first is None:
        return
    meter, read = meter or Meter(), read or read_entry
    meter.readers = readers_for([first["uri"] or ""])
    everyone = (1 << len(models)) - 1
    preparations = [model.info.preprocessing for model in models]
    size = max((model.engine.batch_size for model in models), default=16)
    callers = max((model.engine.concurrency for model in models), default=1)
    decoders = hardware.cores()
    with _pools(read=meter.readers, decode=decoders, infer=callers) as (readers, decode_pool, infer_pool):
        listed, ahead = chain([first], stream), 2 * meter.readers
        loaded = bounded_map(
            lambda entry: read(entry, everyone), listed, readers, ahead, lambda entry: entry["bytes"] or 0
        )
        ahead = max(size + 2 * decoders, _AHEAD)
        decoded = bounded_map(
            lambda item: _decode(item, preparations, max_pixels, inspect), loaded, decode_pool, ahead,
            lambda item: len(item.content),
        )  # fmt: skip
        batches = iter(lambda: list(islice(decoded, size)), [])
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
    """Open thread pools by name; on exit, work that has not started is cancelled."""
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

    Together they weigh at most BYTES_AHEAD; one item is always let through.
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


def read_entry(entry: Row, everyone: int) -> Loaded:
    """Read the file of an entry; what is wrong with it becomes its status and error. Raises AccessDenied."""
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


def _decode(item: Loaded, preparations: Sequence[Preprocessing], max_pixels: int, inspect: Inspect | None) -> Loaded:
    """Decode once, and fit once for all models with the same preprocessing."""
    if item.facts["status"] != "ok":
        return item
    started = time.thread_time()
    try:
        wanted = {model: preparations[model] for model in item.wanted}
        pictures: list[Image.Image] = []
        if item.image is not None:
            fitted, facts = images.prepare_image(item.image, set(wanted.values()), max_pixels)
        else:
            fitted, facts = images.prepare(item.content, set(wanted.values()), max_pixels, pictures.append)
    except ImageError as error:
        return _fail(item, error.status, error)
    finally:
        item.content, item.image = b"", None
    item.pixels = {model: fitted[preparation] for model, preparation in wanted.items()}
    item.facts.update(width=facts.width, height=facts.height, format=facts.format)
    if inspect and pictures:
        item.facts.update(inspect(pictures[0], (facts.width, facts.height), fitted))
    item.decode_seconds = time.thread_time() - started
    return item


def _infer(batch: list[Loaded], models: Sequence[Model]) -> list[Loaded]:
    for number, model in enumerate(models):
        good = [item for item in batch if number in item.pixels]
        if not good:
            continue
        scores, embeddings = model.engine(np.stack([item.pixels[number] for item in good]))
        for item, row_scores, embedding in zip(good, scores, embeddings, strict=True):
            if np.isfinite(row_scores).all():
                item.answers[number] = model.selector(row_scores, embedding)
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
