"""Dynamic batching of requests: each image is decoded on arrival, and images that are ready are scored together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tagger import hardware, schema
from tagger.inference.batch import Batch, Clock, Decoding, decode, read
from tagger.inference.engines import Float32Array
from tagger.inference.model import COLUMNS, Model
from tagger.inference.pipeline import Row, Selector, infer, rows_of

WAIT = 0.003
"""Seconds that a batch waits for images that are being decoded."""
SPARE_DECODERS = 4
"""Threads in addition to the cores, so that a few slow images do not delay the others."""
SCORES = "scores"
"""Column with the scores of all labels, (classes,) float32, in addition to those of a results row."""


def decoders() -> ThreadPoolExecutor:
    """Return the threads that decode for all models of a server."""
    return ThreadPoolExecutor(hardware.cores() + SPARE_DECODERS, "decode")


class Batcher:
    """A model that scores single images in batches. Its threads end when it is garbage-collected."""

    def __init__(
        self, model: Model, decoders: ThreadPoolExecutor, on_batch: Callable[[int], None] = lambda images: None
    ) -> None:
        config = model.config
        self.model = model
        self._scored = replace(model, selector=_with_scores(model.selector))
        self._how = Decoding.of([model.info.preprocessing], config.limits)
        self._decoders, self._on_batch = decoders, on_batch
        self._scorers = ThreadPoolExecutor(model.engine.concurrency, "score")
        self._changed = threading.Condition()
        self._decoding = 0
        self._ready: list[tuple[Batch, Future[Row]]] = []

    def submit(self, content: bytes) -> Future[Row]:
        """Queue the bytes of an image; the result is its row, with the scores of all labels unless it failed."""
        future: Future[Row] = Future()
        future.set_running_or_notify_cancel()
        self._decoders.submit(self._decode, content, future)
        return future

    def _decode(self, content: bytes, future: Future[Row]) -> None:
        entry: Row = {**dict.fromkeys(schema.KEY.names), "bytes": len(content)}
        batch, room = Batch([content], [1], [entry], len(content)), self._how.room(1)
        with self._in_progress():
            try:
                batch.facts = decode([read(content)], batch.models, self._how, room, Clock())
            except Exception as error:
                future.set_exception(error)
                return
            batch.pixels = [room[0][: len(batch.facts.rows[0])]]
            self._ready.append((batch, future))
        self._scorers.submit(self._score)

    @contextmanager
    def _in_progress(self) -> Iterator[None]:
        """Count an image as being decoded; a batch waits a little for it."""
        with self._changed:
            self._decoding += 1
        try:
            yield
        finally:
            with self._changed:
                self._decoding -= 1
                self._changed.notify_all()

    def _take(self) -> list[tuple[Batch, Future[Row]]]:
        size = self.model.engine.batch_size
        with self._changed:
            self._changed.wait_for(lambda: len(self._ready) >= size or not self._decoding, WAIT)
            group, self._ready[:size] = self._ready[:size], []
        return group

    def _score(self) -> None:
        """Score the images that are ready, unless another thread has taken them."""
        group = self._take()
        if not group:
            return
        try:
            infer([batch for batch, _ in group], [self._scored], self._how)
            rows = [next(rows_of(batch)) for batch, _ in group]
        except Exception as error:
            for _, future in group:
                future.set_exception(error)
            return
        self._on_batch(len(group))
        for (_, future), row in zip(group, rows, strict=True):
            future.set_result(row | self.model.columns())


def results_row(row: Row) -> Row:
    """Return the columns that `tagger.load(...).predict` returns."""
    return {name: row.get(name) for name in COLUMNS}


def _with_scores(selector: Selector) -> Selector:
    def select(scores: Float32Array, embeddings: Float32Array) -> Mapping[str, Any]:
        return {**selector(scores, embeddings), SCORES: scores}

    return select
