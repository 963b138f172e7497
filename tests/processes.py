"""Real processes that end with the test, and waits that end in time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TIMEOUT = 120
"""Seconds for a process to finish or to show what a test waits for."""


@contextmanager
def started(module: str, *arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start `python -m module` and kill it when the block is left."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **{**pipes, **options}) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> str:
    """Wait until a process ends without an error; return its stdout."""
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    return stdout


def wait_until(condition: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    """Wait for something that a process brings about."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, f"{process.args} ended too early"
        assert time.monotonic() < deadline, f"{process.args} took over {TIMEOUT} s"
        time.sleep(0.005)


def wait_for_parts(out: Path, count: int, process: subprocess.Popen[Any]) -> None:
    """Wait until a results table has so many parts."""
    wait_until(lambda: len(list(out.glob("*.parquet"))) >= count, process)
