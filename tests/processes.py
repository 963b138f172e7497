"""Real processes that end with the test, and waits that end in time."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tagger.cli import main

TIMEOUT = 120
"""Seconds for a process to finish or to show what a test waits for."""
PRELOADED = ["tagger.cli", "tagger.tagging.run", "tagger.training.methods", "tagger.evaluation.evaluate", "openvino"]
"""Modules that a process forked by `forked` does not import again, nor all that they import: 4 s each time."""
WIDE = {"COLUMNS": "120"}
"""Environment in which tables are printed 120 columns wide."""


class Process(Protocol):
    """The part of subprocess.Popen that waits need."""

    @property
    def args(self) -> Any: ...

    def poll(self) -> int | None: ...


class Forked:
    """`tagger ARGUMENTS` in a process forked from one that has imported the library; used as a subprocess.Popen."""

    def __init__(self, arguments: list[str], folder: Path, cwd: object) -> None:
        multiprocessing.set_forkserver_preload(PRELOADED)
        self.args, self.outputs = arguments, (folder / "stdout", folder / "stderr")
        context = multiprocessing.get_context("forkserver")
        self.process = context.Process(target=_command, args=(arguments, self.outputs, cwd, {**os.environ, **WIDE}))
        self.process.start()
        self.kill = self.process.kill

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    poll = returncode.fget

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    @property
    def stderr(self) -> str:
        """Output so far."""
        return self.outputs[1].read_text() if self.outputs[1].exists() else ""

    def communicate(self, timeout: float = TIMEOUT) -> tuple[str, str]:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        stdout, stderr = (path.read_text() if path.exists() else "" for path in self.outputs)
        return stdout, stderr


def _command(arguments: list[str], outputs: Sequence[Path], cwd: object, env: dict[str, str]) -> None:
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(str(cwd))
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["tagger", *arguments]
    main()


@contextmanager
def forked(*arguments: object, cwd: object = ".") -> Iterator[Forked]:
    """Start `tagger ARGUMENTS` without the time of its imports, and kill it when the block is left."""
    with tempfile.TemporaryDirectory() as folder:
        process = Forked([*map(str, arguments)], Path(folder), cwd)
        try:
            yield process
        finally:
            process.kill()
            process.process.join(TIMEOUT)


def free_port() -> int:
    """Return a port that no server uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


def finish(process: subprocess.Popen[str] | Forked) -> str:
    """Wait until a process ends without an error; return its stdout."""
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    return stdout


def wait_until(condition: Callable[[], object], process: Process) -> None:
    """Wait for something that a process brings about."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, f"{process.args} ended too early"
        assert time.monotonic() < deadline, f"{process.args} took over {TIMEOUT} s"
        time.sleep(0.005)


def wait_for_parts(out: Path, count: int, process: Process) -> None:
    """Wait until a results table has so many parts."""
    wait_until(lambda: len(list(out.glob("*.parquet"))) >= count, process)
