"""Iterations that are loaded, each at its first prediction or when it is published."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from tagger import checkpoint
from tagger.checkpoint.info import Json
from tagger.inference.config import ModelConfig
from tagger.inference.model import build
from tagger.serve.batching import Batcher
from tagger.serve.projects.project import Project

MOST = 16
"""Iterations in memory; the one that was used least recently is dropped."""


class Loaded:
    """Loaded iterations by id; a checkpoint of an iteration never changes."""

    def __init__(self, config: ModelConfig, decoders: ThreadPoolExecutor, on_batch: Callable[[str, int], None]) -> None:
        self._config, self._decoders, self._on_batch = config, decoders, on_batch
        self._loader, self._lock = ThreadPoolExecutor(1, "load"), threading.Lock()
        self._futures: dict[str, Future[Batcher]] = {}

    def get(self, project: Project, iteration: Json) -> Future[Batcher]:
        """Return the model of an iteration, or begin to load it; a load that failed is tried again."""
        with self._lock:
            future = self._futures.pop(iteration["id"], None)
            if future is None or (future.done() and future.exception()):
                name = f"{project.facts['name']}/{iteration['name']}"
                future = self._loader.submit(self._load, str(project.checkpoint(iteration["id"])), name)
            self._futures[iteration["id"]] = future
            for oldest in list(self._futures)[:-MOST]:
                del self._futures[oldest]
            return future

    def _load(self, folder: str, name: str) -> Batcher:
        model = build(replace(checkpoint.describe(folder), name=name), self._config)
        return Batcher(model, self._decoders, lambda images: self._on_batch(name, images))
