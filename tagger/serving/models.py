"""The models of a server: those of the command line, reloaded when they change, and iterations of projects."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tagger import checkpoint, storage
from tagger.errors import TaggerError, UsageError
from tagger.inference.config import ModelConfig
from tagger.inference.model import build
from tagger.serving.batching import Batcher
from tagger.serving.errors import Refused

log = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
"""Interval between checks of the checkpoints on disk."""
MOST = 16
"""Maximum number of iterations of projects in memory."""

OnBatch = Callable[[str, int], None]
"""Called with the model's name and the number of images of each scored batch."""


class Served:
    """One model under a name, by default that of its checkpoint.

    `batcher` is replaced atomically, so a request never sees a half-loaded model.
    """

    def __init__(self, source: str, config: ModelConfig, decoders: ThreadPoolExecutor, on_batch: OnBatch) -> None:
        self._name, self._source = _named(source)
        self._config, self._decoders, self._on_batch = config, decoders, on_batch
        self._version = _version(self._source)
        self.batcher = self._load()
        self.name = self.batcher.model.info.name

    def _load(self) -> Batcher:
        info = checkpoint.describe(self._source)
        model = build(replace(info, name=self._name or info.name), self._config)
        return Batcher(model, self._decoders, lambda images: self._on_batch(self.name, images))

    def refresh(self) -> None:
        """Reload the checkpoint if it has changed; if that fails, keep the loaded model."""
        version = _version(self._source)
        if version == self._version:
            return
        self._version = version
        if version is None:
            log.warning("%s: no longer exists; still serving the loaded model", self._source)
            return
        try:
            self.batcher = self._load()
        except (TaggerError, OSError) as error:
            log.warning("%s; still serving the model loaded before", error)
        else:
            log.info("%s: reloaded, model_id %s", self._source, self.batcher.model.info.model_id)


class Models:
    """The models of a server by name; the first is the default."""

    def __init__(
        self, sources: Sequence[str], config: ModelConfig, decoders: ThreadPoolExecutor, on_batch: OnBatch
    ) -> None:
        self._served: dict[str, Served] = {}
        for source in sources:
            served = Served(source, config, decoders, on_batch)
            if served.name in self._served:
                raise UsageError(f"{source}: two models are named {served.name}; rename one with NAME=MODEL")
            self._served[served.name] = served

    def all(self) -> list[Batcher]:
        """Return every model."""
        return [served.batcher for served in self._served.values()]

    def names(self) -> list[str]:
        """Return the name of every model."""
        return list(self._served)

    def find(self, name: str | None) -> Batcher:
        """Return a model by its name, the first for None; raises Refused."""
        served = next(iter(self._served.values()), None) if name is None else self._served.get(name)
        if served is None:
            raise Refused(404, "NotFoundIteration", "Invalid iteration")
        return served.batcher

    async def watch(self) -> None:
        """Check the checkpoints regularly, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            for served in self._served.values():
                await asyncio.to_thread(served.refresh)


class Checkpoints:
    """Immutable checkpoints, each loaded on first use; the `MOST` most recently used stay in memory."""

    def __init__(self, config: ModelConfig, decoders: ThreadPoolExecutor, on_batch: OnBatch) -> None:
        self._config, self._decoders, self._on_batch = config, decoders, on_batch
        self._loader, self._lock = ThreadPoolExecutor(1, "load"), threading.Lock()
        self._futures: dict[str, Future[Batcher]] = {}

    def get(self, folder: str, name: str) -> Future[Batcher]:
        """Return the future of a model, which raises Refused if loading fails; the next call then tries again."""
        with self._lock:
            future = self._futures.pop(folder, None)
            if future is None or (future.done() and future.exception()):
                future = self._loader.submit(self._load, folder, name)
            self._futures[folder] = future
            for oldest in list(self._futures)[:-MOST]:
                del self._futures[oldest]
            return future

    def _load(self, folder: str, name: str) -> Batcher:
        try:
            model = build(replace(checkpoint.describe(folder), name=name), self._config)
        except (TaggerError, OSError) as error:
            raise Refused(500, "ErrorPredictionModelNotFound", f"the iteration cannot be loaded: {error}") from error
        return Batcher(model, self._decoders, lambda images: self._on_batch(name, images))


def _named(source: str) -> tuple[str, str]:
    """Split NAME=MODEL; the name is "" if there is none, or if the whole text is an existing path."""
    name, _, model = source.partition("=")
    if not model or "/" in name or storage.exists(storage.absolute(source)):
        return "", source
    return name, model


def _version(source: str) -> tuple[int, int, int] | None:
    """Return the file facts that reveal a changed checkpoint: of tagger.json, written last, or of the ONNX file."""
    path = Path(storage.local_path(storage.absolute(source)))
    try:
        facts = (path / checkpoint.BUNDLE if path.is_dir() else path).stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino
