"""Log the progress of a task in its run."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from prefect.logging import get_run_logger

from tagger.redaction import redact, visible

SECONDS = 10.0
"""Seconds between two log lines."""

Log: TypeAlias = logging.Logger | logging.LoggerAdapter[logging.Logger]


class _ToRun(logging.Handler):
    """Forward the library's warnings to the log of a run."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, visible(redact(record.getMessage())))


@contextmanager
def progress(step: str, seconds: float = SECONDS) -> Iterator[Callable[[str], None]]:
    """Log a step's text now and every few seconds while the `with` block runs; yield a function that sets the text."""
    log, text, ended = get_run_logger(), step, threading.Event()

    def show(new: str) -> None:
        nonlocal text
        text = new

    def watch() -> None:
        while not ended.wait(seconds):
            log.info(visible(redact(text)))

    log.info(visible(redact(text)))
    handler, watcher = _ToRun(log), threading.Thread(target=watch, daemon=True)
    library = logging.getLogger("tagger")
    library.addHandler(handler)
    watcher.start()
    try:
        yield show
    finally:
        ended.set()
        library.removeHandler(handler)
