"""read -> decode -> infer: batches of files in, the same batches with the predictions of every model out, in order.

Every stage holds a bounded number of images, so memory does not grow with the number of files. A file is read and
decoded once, however many models score it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tagger.inference import batch as batches_of
from tagger.inference.batch import Batch, Decoding, Failure, Inspect, Limits, Predictions, Source
from tagger.inference.ceilings import Meter
from tagger.inference.decoders import Decoder, ThreadDecoder, readers_for
from tagger.inference.engines import Float32Array

if TYPE_CHECKING:
    from tagger.inference.model import Model

Row = dict[str, Any]
Selector = Callable[[Float32Array, Float32Array], Mapping[str, Any]]
"""Scores (N, classes) and embeddings (N, D) -> columns, each with N values."""
T = TypeVar("T")
R = TypeVar("R")

BYTES_AHEAD = 1 << 29
"""Limit on the encoded bytes in flight, so that only a few files of hundreds of megabytes are read at a time."""
IMAGES_AHEAD = 64
"""Minimum number of images queued for the models, so that no stage stops while a part file is written."""


def score_batches(
    batches: Iterable[Batch],
    models: Sequence[Model],
    limits: Limits,
    meter: Meter | None = None,
    inspect: Inspect | None = None,
    decoder: Decoder | None = None,
) -> Generator[Batch]:
    """Read, decode and score batches of files; yield them in the same order, split into smaller ones.

    `inspect` adds columns computed from each decoded image; `decoder` replaces the threads that read and decode. A
    file that cannot be scored has a status and an error, and does not affect the others. Raises AccessDenied if the
    store refuses the credentials, since every file would fail.
    """
    decoder, meter = decoder or ThreadDecoder(), meter or Meter()
    size = max((model.engine.batch_size for model in models), default=1)
    callers = max((model.engine.concurrency for model in models), default=1)
    how = Decoding.of([model.info.preprocessing for model in models], limits, inspect)
    files, parts = _cut(size, how.files)
    decoding = decoder.ahead + -(-max(size, IMAGES_AHEAD) // files)
    scoring = callers + max(1, IMAGES_AHEAD // (files * parts))
    with contextlib.closing(decoder), _one_blas_thread(models), _pool(callers) as pool:
        decoder.open(how, decoding + (scoring + 1) * parts)
        decoded = bounded(decoder.submit, batches_of.batched(batches, files), decoding, lambda batch: batch.bytes)
        groups = iter(lambda: list(islice(decoded, parts)), [])
        for group in bounded(lambda group: pool.submit(infer, group, models, how), groups, scoring):
            for batch in group:
                meter.readers = decoder.processes * readers_for(batch.sources)
                meter.add(batch)
                yield batch


def score_rows(
    entries: Iterable[Row],
    models: Sequence[Model],
    limits: Limits | None = None,
    inspect: Inspect | None = None,
) -> Iterator[Row]:
    """Score files and yield a row for each: its entry, facts about the image, columns of `inspect` and the first model.

    An entry has a `source`, or a `location` or `uri` to read.
    """
    stream = iter(entries)
    groups = iter(lambda: list(islice(stream, batches_of.FILES)), [])
    for batch in score_batches(
        (_batch(group, len(models)) for group in groups), models, limits or Limits(), None, inspect
    ):
        yield from rows_of(batch)


def rows_of(batch: Batch) -> Iterator[Row]:
    """Yield the row of each file of a scored batch, whose key is a list of entries."""
    predictions = _by_file(batch.predictions[0]) if batch.predictions else {}
    facts = batch.facts
    names = ("image_id", "status", "error", "width", "height", "format")
    columns = zip(*(getattr(facts, name) for name in names), strict=True)
    for number, (entry, values) in enumerate(zip(batch.key, columns, strict=True)):
        yield {
            **entry,
            **dict(zip(names, values, strict=True)),
            **facts.extra.get(number, {}),
            **predictions.get(number, {}),
        }


def _batch(entries: list[Row], models: int) -> Batch:
    sources = [source_of(entry) for entry in entries]
    total = sum(entry.get("bytes") or 0 for entry in entries)
    return Batch(sources, [(1 << models) - 1] * len(entries), entries, total)


def source_of(entry: Mapping[str, Any]) -> Source:
    """Return the source of an entry: its `source`, `location` or `uri`, or a Failure if `bytes` is over the limit."""
    size = entry.get("bytes") or 0
    if size > batches_of.MAX_FILE_BYTES:
        return Failure("too_large", f"{size} bytes are over the limit of {batches_of.MAX_FILE_BYTES}")
    source: Source | None = entry.get("source")
    return source if source is not None else entry.get("location") or entry["uri"]


def _by_file(predicted: Predictions | None) -> dict[int, Row]:
    """Return the predicted columns as a row per file."""
    if predicted is None:
        return {}
    columns = {name: _values(column) for name, column in predicted.columns.items()}
    rows = {number: {name: values[i] for name, values in columns.items()} for i, number in enumerate(predicted.rows)}
    return rows | {number: {"status": "failed", "error": NOT_FINITE} for number in predicted.failed}


def _values(column: Any) -> Sequence[Any]:
    values: Sequence[Any] = column.to_pylist() if isinstance(column, pa.Array) else column
    return values


def _cut(size: int, files: int) -> tuple[int, int]:
    """Return the number of files per batch, at most `files`, and of batches per model call of `size` images."""
    parts = -(-size // files)
    return (-(-size // parts), parts) if parts > 1 else (size * (files // size), 1)


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Open a thread pool; on exit, work that has not started is cancelled."""
    pool = ThreadPoolExecutor(threads, "infer")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _one_blas_thread(models: Sequence[Model]) -> Iterator[None]:
    """Compute distances to the training images in one thread each; more would take the cores from the engine."""
    if all(model.info.statistics is None for model in models):
        yield
        return
    import threadpoolctl

    with threadpoolctl.threadpool_limits(1, "blas"):
        yield


def bounded(
    submit: Callable[[T], Future[R]], items: Iterable[T], ahead: int, weight: Callable[[T], int] = lambda item: 0
) -> Iterator[R]:
    """Yield results in order, with at most `ahead` items submitted and not yet consumed.

    Their total weight is at most BYTES_AHEAD, but one item is always submitted.
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
            waiting.append((submit(upcoming.pop()), weighs))
            heavy += weighs
        if not waiting:
            return
        future, weighs = waiting.popleft()
        result = future.result()
        heavy -= weighs
        yield result


NOT_FINITE = "the model's scores are not finite"


def infer(group: list[Batch], models: Sequence[Model], how: Decoding) -> list[Batch]:
    """Score decoded batches with every model, and release the memory of their pixels."""
    for batch in group:
        batch.predictions = [None] * len(models)
    for number, model in enumerate(models):
        _score(group, number, model, how.of_model[number])
    for batch in group:
        batch.pixels = []
        batch.release()
    return group


def _score(group: list[Batch], number: int, model: Model, which: int) -> None:
    """Score the images of several batches with one model, in one call."""
    chosen = [_inputs(batch, number, which) for batch in group]
    pixels = [pixels for _, pixels in chosen if len(pixels)]
    if not pixels:
        return
    scores, embeddings = model.engine(pixels[0] if len(pixels) == 1 else np.concatenate(pixels))
    finite = np.asarray(np.isfinite(scores).all(axis=1))
    if not finite.all():
        scores, embeddings = scores[finite], embeddings[finite]
    columns = model.selector(scores, embeddings) if len(scores) else {}
    start = place = 0
    for batch, (rows, _) in zip(group, chosen, strict=True):
        good = finite[start : start + len(rows)]
        scored = [row for row, fine in zip(rows, good, strict=True) if fine]
        failed = [row for row, fine in zip(rows, good, strict=True) if not fine]
        mine = {name: column[place : place + len(scored)] for name, column in columns.items()}
        batch.predictions[number] = Predictions(scored, mine, failed)
        start, place = start + len(rows), place + len(scored)


def _inputs(batch: Batch, number: int, which: int) -> tuple[list[int], npt.NDArray[np.uint8]]:
    """Return the files of a batch that a model is to score and that have pixels, and their pixels."""
    rows, pixels = batch.facts.rows[which], batch.pixels[which]
    mine = [place for place, row in enumerate(rows) if batch.models[row] >> number & 1]
    if len(mine) == len(rows):
        return rows, pixels
    return [rows[place] for place in mine], pixels[mine]
