"""Child processes of a server: each ends with the server, and is restarted by the next one."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tagger.checkpoint.info import Json
from tagger.errors import TaggerError, WriteError, first_line
from tagger.serving.projects.project import FAILED, Project, Projects

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""Seconds between checks of a process."""
END_SECONDS = 20.0
"""Maximum time to wait for a killed process to end."""
RETRY_SECONDS = 2.0
_ERROR_LENGTH = 500


class Worker:
    """Runs the processes of one kind of record one at a time; `run` runs one and returns changes of its record."""

    def __init__(self, projects: Projects, kind: str, status: str, run: Callable[[Project, str], Json]) -> None:
        self._projects, self._kind, self._status, self._run = projects, kind, status, run
        self._closing, self._pool = threading.Event(), ThreadPoolExecutor(1, kind)

    def resume(self) -> None:
        """Restart the processes that the previous server did not finish."""
        for project, id in self.unfinished():
            self.submit(project, id)

    def unfinished(self) -> list[tuple[Project, str]]:
        """Return project and id of every record whose status is that of a running process."""
        return [
            (project, id)
            for project in self._projects.all()
            for id, record in project.journal.of(self._kind).items()
            if record["status"] == self._status
        ]

    def submit(self, project: Project, id: str) -> None:
        """Queue the process of a record."""
        self._pool.submit(self._work, project, id)

    def close(self) -> None:
        """End the process."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def process(self, command: Sequence[str], log: Path) -> int:
        """Run a command whose stderr is added to a file; return its exit code.

        Its stdin is a pipe that closes when the server ends for any reason.
        """
        log.parent.mkdir(exist_ok=True)
        with open(log, "ab") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the server, which then ends the process
            )
        while process.poll() is None and not self._closing.wait(POLL_SECONDS):
            pass
        process.kill()
        if process.stdin:
            process.stdin.close()
        return process.wait(END_SECONDS)

    def _work(self, project: Project, id: str) -> None:
        try:
            outcome = self._run(project, id)
        except (TaggerError, OSError) as error:
            log.warning("%s %s: cannot run (%s)", self._kind, id, error)
            outcome = {"status": FAILED, "error": first_line(error)[:_ERROR_LENGTH]}
        while project.folder.exists() and not self._closing.is_set():
            try:
                with project.lock:
                    if found := project.journal.get(self._kind, id):
                        project.write((self._kind, id, found | outcome))
                return
            except WriteError as error:  # retried, for example until the disk has space again
                log.warning("%s", error)
                self._closing.wait(RETRY_SECONDS)


def ended(code: int, log: Path) -> str:
    """Return how a process failed: its exit code and the last line of its log."""
    lines = log.read_text("utf-8", "replace").strip().splitlines() if log.exists() else []
    return f"the process ended with {code}: {lines[-1] if lines else ''}"[:_ERROR_LENGTH]
