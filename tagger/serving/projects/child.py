"""Child processes of a server: each ends with it."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from tagger.checkpoint.info import Json
from tagger.errors import WriteError
from tagger.serving.projects.project import Project

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""Between two looks at a process."""
END_SECONDS = 20.0
"""Limit on the time that a killed process takes to end."""
RETRY_SECONDS = 2.0


def run(command: Sequence[str], log: Path, closing: threading.Event) -> int:
    """Run a command whose stderr is added to a file; return its exit code. It is killed when `closing` is set.

    Its stdin is a pipe that closes when the server ends, however that ends.
    """
    with open(log, "ab") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for the server, which ends it so that it can go on
        )
    while process.poll() is None and not closing.wait(POLL_SECONDS):
        pass
    process.kill()
    if process.stdin:
        process.stdin.close()
    return process.wait(END_SECONDS)


def record(project: Project, kind: str, id: str, outcome: Json, closing: threading.Event) -> None:
    """Add the outcome of a process to its record; tried again while the disk takes nothing, until `closing` is set."""
    while project.folder.exists() and not closing.is_set():
        try:
            with project.lock:
                if found := project.journal.get(kind, id):
                    project.write((kind, id, found | outcome))
            return
        except WriteError as error:
            log.warning("%s", error)
            closing.wait(RETRY_SECONDS)


def last_line(log: Path) -> str:
    """Return the last line of a file, "" if there is none."""
    lines = log.read_text("utf-8", "replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else ""
