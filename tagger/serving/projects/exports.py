"""Exports of iterations: zips in the layout of Custom Vision's, each made in a process of its own."""

from __future__ import annotations

import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from tagger.checkpoint.info import Json
from tagger.serving.errors import Refused
from tagger.serving.projects import child
from tagger.serving.projects.calls import Answer, Call, handles
from tagger.serving.projects.iteration_calls import EXPORTED_TO, trained
from tagger.serving.projects.project import DONE, EXPORTING, EXPORTS, FAILED, ITERATIONS, Project, Projects

log = logging.getLogger(__name__)


class Exports:
    """The exports of all projects, one after the other."""

    def __init__(self, projects: Projects) -> None:
        """Repeat the exports that the last server did not end."""
        self._closing, self._worker = threading.Event(), ThreadPoolExecutor(1, "export")
        for project in projects.all():
            for id, record in project.journal.of(EXPORTS).items():
                if record["status"] == EXPORTING:
                    self._worker.submit(self._run, project, id)

    def start(self, project: Project, iteration: Json, flavor: str | None) -> Json:
        """Start an export, unless there is one; return its record."""
        id = iteration["id"]
        with project.lock:
            found = project.journal.get(EXPORTS, id)
            if found and found["status"] == EXPORTING:
                raise Refused(400, "BadRequestExportAlreadyInProgress", "the iteration is being exported")
            if found and found["status"] == DONE:
                return found
            record: Json = {"platform": EXPORTED_TO[0], "flavor": flavor, "status": EXPORTING}
            project.write((EXPORTS, id, record))
        self._worker.submit(self._run, project, id)
        return record

    def close(self) -> None:
        """End the process; the next server repeats its export."""
        self._closing.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _run(self, project: Project, id: str) -> None:
        path = project.export(id)
        images, out = str(project.folder / "images"), str(path)
        options = ["--format", "customvision", "--out", out, "--check", images]
        try:
            path.parent.mkdir(exist_ok=True)
            command = [sys.executable, "-m", "tagger.cli", "export", str(project.checkpoint(id)), *options]
            done = child.run(command, path.with_suffix(".log"), self._closing) == 0
        except OSError as error:
            log.warning("an export cannot be made: %s", error)
            done = False
        child.record(project, EXPORTS, id, {"status": DONE if done else FAILED}, self._closing)


@handles("POST", "projects/{project}/iterations/{iteration}/export")
def export_iteration(call: Call) -> Answer:
    """Start to export an iteration."""
    iteration, platform = trained(call), call.text("platform")
    if platform.upper() not in EXPORTED_TO:
        raise Refused(
            400, "BadRequestExportValidationFailed",
            f"platform {platform[:80]!r}: iterations are exported to {', '.join(EXPORTED_TO)}",
        )  # fmt: skip
    record = call.state.exports.start(call.project, iteration, call.query.get("flavor"))
    return _view(call, iteration["id"], record)


@handles("GET", "projects/{project}/iterations/{iteration}/export")
def get_exports(call: Call) -> Answer:
    """List the exports of an iteration."""
    id = call.project.record(ITERATIONS, call.ids["iteration"])["id"]
    record = call.project.journal.get(EXPORTS, id)
    return [_view(call, id, record)] if record else []


def _view(call: Call, id: str, record: Json) -> Json:
    link = call.link("exports", id) if record["status"] == DONE else None
    return {**record, "downloadUri": link, "newerVersionAvailable": False}
