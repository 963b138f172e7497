"""The review server: a results table and a labels file behind a page on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from tagger.data.decisions import LabelsFile
from tagger.errors import UsageError
from tagger.review.app import Session, create
from tagger.review.config import ReviewConfig
from tagger.review.images import open_images
from tagger.serve import listening
from tagger.storage import StrPath

HOST = "127.0.0.1"
_PORTS = 20
"""Ports that are tried, from the given one on."""


def review(
    results: StrPath, config: ReviewConfig | None = None, on_start: Callable[[str], None] = lambda url: None
) -> None:
    """Serve the review page of a results table until SIGTERM or SIGINT; `on_start` gets its URL.

    Raises SourceNotFound, UsageError, TableError for a damaged table or a foreign labels file, or WriteError.
    """
    config = config or ReviewConfig()
    labels = LabelsFile(config.labels)
    labels.merge()  # decisions of a review that was killed
    with open_images(os.fspath(results), config.model, config.against) as images, _listen(config.port) as listener:
        session = Session(images, labels, config)
        app = create(session, listener.getsockname()[1])
        try:
            url = f"{listening.url_of(listener)}/?token={session.token}"
            listening.run(app, listener, lambda: on_start(url))
        finally:
            session.readers.shutdown(cancel_futures=True)
            labels.merge()


def _listen(port: int) -> socket.socket:
    """Return a socket on the first port that is free."""
    ports = [port] if port == 0 else range(port, min(port + _PORTS, 65_536))
    for each in ports:
        try:
            return listening.listen(HOST, each)
        except UsageError as error:
            reason = error
    raise UsageError(f"--port {port}: none of the ports {port} to {ports[-1]} is free; choose another") from reason
