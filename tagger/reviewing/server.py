"""The review server: a local web page for a results table and a labels file."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

import pyarrow as pa

from tagger.data import decisions
from tagger.data.decisions import LabelsFile
from tagger.errors import UsageError
from tagger.reviewing.app import Session, create
from tagger.reviewing.config import ReviewConfig
from tagger.reviewing.images import Images, open_images
from tagger.serving import listening
from tagger.storage import StrPath
from tagger.tagging.suggest import suggestions

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_PORTS = 20
"""Number of ports that are tried, starting with the given one."""


def review(
    results: StrPath, config: ReviewConfig | None = None, on_start: Callable[[str], None] = lambda url: None
) -> None:
    """Serve the review page of a results table until SIGTERM or SIGINT; `on_start` gets its URL.

    Raises SourceNotFound, UsageError, TableError for a damaged table or a foreign labels file, or WriteError.
    """
    config = config or ReviewConfig()
    labels = LabelsFile(config.labels)
    labels.merge()  # recover the decisions of a killed review
    decided = decisions.read(labels.uri) if os.path.exists(labels.path) else None
    queue = suggestions.read(config.queue) if config.queue else None
    with (
        open_images(os.fspath(results), config.model, config.against, queue, decided) as images,
        _listen(config.port) as listener,
    ):
        if queue is not None:
            _check_queue(images, queue, str(config.queue))
        session = Session(images, labels, config)
        app = create(session, listener.getsockname()[1])
        try:
            url = f"{listening.url_of(listener)}/?token={session.token}"
            listening.run(app, listener, lambda: on_start(url))
        finally:
            session.readers.shutdown(cancel_futures=True)
            labels.merge()


def _check_queue(images: Images, queue: pa.Table, name: str) -> None:
    """Warn about images of the queue that are not in the table; raise UsageError if none is."""
    total, found = len(decisions.image_of(queue).unique()), images.in_queue()
    if not found:
        raise UsageError(f"--queue {name}: none of its {total:,} images is in {images.table}; tag them first")
    if found < total:
        log.warning("--queue %s: %d of its %d images are not in %s", name, total - found, total, images.table)


def _listen(port: int) -> socket.socket:
    """Return a listening socket on the first free port."""
    ports = [port] if port == 0 else range(port, min(port + _PORTS, 65_536))
    for each in ports:
        try:
            return listening.listen(HOST, each)
        except UsageError as error:
            reason = error
    raise UsageError(f"--port {port}: none of the ports {port} to {ports[-1]} is free; choose another") from reason
