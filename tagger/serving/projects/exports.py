"""Exports of iterations: zip files in Custom Vision's layout, each made in a separate process."""

from __future__ import annotations

import sys

from tagger.checkpoint.info import Json
from tagger.serving.errors import Refused
from tagger.serving.projects.child import Worker, ended
from tagger.serving.projects.project import DONE, EXPORTING, EXPORTS, FAILED, Project, Projects

PLATFORMS = ("ONNX",)


class Exports:
    """The exports of all projects, run one at a time."""

    def __init__(self, projects: Projects) -> None:
        """Restart the exports that the previous server did not finish."""
        self.worker = Worker(projects, EXPORTS, EXPORTING, self._run)
        self.worker.resume()

    def start(self, project: Project, iteration: str, flavor: str | None) -> Json:
        """Start an export, unless one exists; return its record."""
        with project.lock:
            found = project.journal.get(EXPORTS, iteration)
            if found and found["status"] == EXPORTING:
                raise Refused(400, "BadRequestExportAlreadyInProgress", "the iteration is being exported")
            if found and found["status"] == DONE:
                return found
            record: Json = {"platform": PLATFORMS[0], "flavor": flavor, "status": EXPORTING}
            project.write((EXPORTS, iteration, record))
        self.worker.submit(project, iteration)
        return record

    def _run(self, project: Project, id: str) -> Json:
        out = project.export(id)
        options = ["--format", "customvision", "--out", str(out), "--check", str(project.folder / "images")]
        command = [sys.executable, "-m", "tagger.cli", "export", str(project.checkpoint(id)), *options]
        log = out.with_suffix(".log")
        code = self.worker.process(command, log)
        return {"status": FAILED, "error": ended(code, log)} if code else {"status": DONE}
