"""`--log-format json`: events of a run on stderr, one JSON object per line, for log collectors."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import typer

from tagger.cli.printing import Show
from tagger.errors import TaggerError

SECONDS = 10.0
"""Seconds between progress events of the same step."""
INTERRUPTED = 130


class JsonLines(logging.Handler):
    """Write events and log records to stderr, one JSON object per line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log record."""
        self.event("log", level=record.levelname.lower(), message=record.getMessage())

    def event(self, name: str, **facts: object) -> None:
        """Write an event, with its time."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": name, **facts}
        print(json.dumps(line, default=str, ensure_ascii=False), file=sys.stderr, flush=True)


@contextlib.contextmanager
def json_lines() -> Iterator[JsonLines]:
    """Send the records of tagger's loggers, and the error that ends the block, to stderr as JSON."""
    lines = JsonLines()
    logger = logging.getLogger("tagger")
    logger.handlers = [lines]
    logger.propagate = False
    try:
        yield lines
    except TaggerError as error:
        lines.event("error", error=type(error).__name__, message=str(error), exit_code=error.exit_code)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        lines.event("error", error="interrupted", message="what is written stays", exit_code=INTERRUPTED)
        raise typer.Exit(INTERRUPTED) from error


@contextlib.contextmanager
def json_progress(lines: JsonLines, seconds: float = SECONDS) -> Iterator[Show]:
    """Yield a function that writes progress as events: a new step at once, the same one every few seconds."""
    now: dict[str, object] = {}
    ended = threading.Event()

    def show_step(step: str, done: int, total: int | None = None, remark: str = "") -> None:
        nonlocal now
        before, now = now.get("step"), {"step": step, "done": done, "total": total, "remark": remark}
        if step != before:
            lines.event("progress", **now)

    def watch() -> None:
        while not ended.wait(seconds):
            lines.event("progress", **now)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield show_step
    finally:
        ended.set()
