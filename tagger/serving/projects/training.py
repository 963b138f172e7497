"""Trainings of projects, one at a time, each in a process that resumes a killed training."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from tagger import checkpoint, schema, storage
from tagger.checkpoint.info import Json
from tagger.serving.errors import Refused
from tagger.serving.projects.child import Worker, ended
from tagger.serving.projects.project import (
    COMPLETED,
    FAILED,
    ITERATIONS,
    NEGATIVE,
    TAGS,
    TRAINING,
    Project,
    Projects,
    new_id,
    now,
)
from tagger.training.config import TrainConfig

MIN_IMAGES, MIN_LABELS = 5, 2


class Trainings:
    """The trainings of all projects."""

    def __init__(self, projects: Projects, config: TrainConfig) -> None:
        """Resume the trainings that the previous server did not finish."""
        self._config, self._lock = config, threading.Lock()
        self.worker = Worker(projects, ITERATIONS, TRAINING, self._run)
        self.worker.resume()

    def start(self, project: Project, kind: str, hours: float, selected: Sequence[str], force: bool) -> Json:
        """Start a training; return its iteration. Raises Refused if another one runs, or without enough images."""
        with self._lock, project.lock:
            if self.worker.unfinished():
                raise Refused(
                    409,
                    "BadRequestTrainingAlreadyInProgress",
                    "a training is in progress; start the next one when it ends",
                )
            chosen = set(selected) or None
            iteration = self._iteration(project, kind, hours, chosen)
            _check_images(project, chosen)
            if not force and iteration["data"] in _trained(project):
                raise Refused(400, "BadRequestTrainingNotNeeded", "Nothing changed since last training")
            content = schema.serialise(project.manifest(chosen), "manifest")
            storage.write_atomic(storage.local_uri(str(project.training_file(iteration["id"], "parquet"))), content)
            project.write((ITERATIONS, iteration["id"], iteration))
        self.worker.submit(project, iteration["id"])
        return iteration

    def is_training(self, project: Project) -> bool:
        """Return whether a training of this project is running."""
        return any(each is project for each, _ in self.worker.unfinished())

    def _iteration(self, project: Project, kind: str, hours: float, selected: set[str] | None) -> Json:
        facts, created = project.facts, now()
        tags = {id: tag["name"] for id, tag in project.journal.of(TAGS).items() if not selected or id in selected}
        return {
            "id": new_id(),
            "name": f"Iteration {1 + len(project.journal.of(ITERATIONS))}",
            "status": TRAINING,
            "created": created,
            "lastModified": created,
            "domainId": facts["domainId"],
            "classificationType": facts["classificationType"],
            "trainingType": kind,
            "reservedBudgetInHours": hours,
            "tags": tags,
            "data": project.data_fingerprint(selected),
        }

    def _run(self, project: Project, id: str) -> Json:
        """Train; return the outcome for the record."""
        started, log, out = time.monotonic(), project.training_file(id, "log"), project.checkpoint(id)
        out.parent.mkdir(exist_ok=True)
        options = json.dumps(asdict(_config_of(project.record(ITERATIONS, id), self._config)))
        dataset = str(project.training_file(id, "parquet"))
        command = [sys.executable, "-m", "tagger.serving.projects.process", dataset, str(out), options]
        code, at = self.worker.process(command, log), now()
        if code or not (out / checkpoint.BUNDLE).exists():
            return {"status": FAILED, "lastModified": at, "error": ended(code, log)}
        minutes = round((time.monotonic() - started) / 60)
        return {"status": COMPLETED, "lastModified": at, "trainedAt": at, "trainingTimeInMinutes": minutes}


def _config_of(iteration: Json, config: TrainConfig) -> TrainConfig:
    """Return the options of a training; an Advanced one may take its reserved hours for fine-tuning."""
    config = replace(config, multilabel=iteration["classificationType"] == "Multilabel")
    if iteration["trainingType"] == "Advanced" and config.method == "auto" and iteration["reservedBudgetInHours"]:
        return replace(config, budget_minutes=60.0 * iteration["reservedBudgetInHours"])
    return config


def _check_images(project: Project, selected: set[str] | None) -> None:
    counts = project.tag_counts()
    tags = [tag for id, tag in project.journal.of(TAGS).items() if not selected or id in selected]
    enough = [tag["name"] for tag in tags if tag["type"] != NEGATIVE and counts[tag["id"]] >= MIN_IMAGES]
    if len(enough) < MIN_LABELS:
        raise Refused(
            400, "BadRequestTrainingValidationFailed",
            f"a training needs {MIN_LABELS} tags with {MIN_IMAGES} images each; have {len(enough)}",
        )  # fmt: skip


def _trained(project: Project) -> set[str]:
    """Return the data fingerprint of the last completed training; empty without one."""
    done = [each["data"] for each in project.journal.of(ITERATIONS).values() if each["status"] == COMPLETED]
    return set(done[-1:])
