"""Counters and histograms of a server, for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("tagger_requests", "Number of requests.", ["status"], registry=self._registry)
        self.seconds = Histogram("tagger_request_seconds", "Duration of a request in seconds.", registry=self._registry)
        self.images = Counter("tagger_images", "Number of images.", ["model", "status"], registry=self._registry)
        self.batches = Histogram(
            "tagger_batch_images", "Images per batch.", ["model"], buckets=_SIZES, registry=self._registry
        )
        self.not_stored = Counter(
            "tagger_not_stored", "Number of predictions that could not be stored.", registry=self._registry
        )

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self._registry)


class Measured:
    """Middleware that counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.requests.labels(str(status)).inc()
            self._metrics.seconds.observe(time.perf_counter() - started)
