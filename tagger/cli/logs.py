"""Log lines of a run as JSON, for machines that read them."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime

SECONDS = 10.0
"""Time between two lines of progress."""


class JsonLines(logging.Handler):
    """Write events and log records to stderr, one JSON object a line."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log record."""
        self.event("log", level=record.levelname.lower(), message=record.getMessage())

    def event(self, name: str, **facts: object) -> None:
        """Write an event, with its time."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": name, **facts}
        print(json.dumps(line, default=str, ensure_ascii=False), file=sys.stderr, flush=True)

    def now_and_then(self, name: str, **facts: object) -> None:
        """Write an event unless the last of its name was a few seconds ago."""
        now = time.monotonic()
        if now - self._last.get(name, -SECONDS) >= SECONDS:
            self._last[name] = now
            self.event(name, **facts)


def to_json() -> JsonLines:
    """Send the records of tagger's loggers to stderr as JSON."""
    lines = JsonLines()
    logger = logging.getLogger("tagger")
    logger.handlers = [lines]
    logger.propagate = False
    return lines
