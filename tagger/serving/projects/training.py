"""Trainings of projects, one at a time, each in a process that starts again where a killed one was."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

from tagger import checkpoint, schema, storage
from tagger.checkpoint.info import Json
from tagger.errors import TaggerError
from tagger.serving.errors import Refused
from tagger.serving.projects import child
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

log = logging.getLogger(__name__)

MIN_IMAGES, MIN_LABELS = 5, 2
_ERROR_LENGTH = 500


class Trainings:
    """The trainings of all projects."""

    def __init__(self, projects: Projects, config: TrainConfig) -> None:
        """Go on with the trainings that the last server did not end."""
        self._projects, self._config = projects, config
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._worker = ThreadPoolExecutor(1, "train")
        for project, iteration in self._unfinished():
            self._worker.submit(self._run, project, iteration)

    def start(self, project: Project, kind: str, hours: float, selected: Sequence[str], force: bool) -> Json:
        """Start a training; return its iteration. Raises Refused while another one runs, and when it cannot work."""
        with self._lock, project.lock:
            if self._unfinished():
                raise Refused(
                    409, "BadRequestTrainingAlreadyInProgress", "a training is in progress; start the next when it ends"
                )
            chosen = set(selected) or None
            iteration = self._iteration(project, kind, hours, chosen)
            _check_images(project, chosen)
            if not force and iteration["data"] in _trained(project):
                raise Refused(400, "BadRequestTrainingNotNeeded", "Nothing changed since last training")
            content = schema.serialise(project.manifest(chosen), "manifest")
            storage.write_atomic(storage.local_uri(str(project.training_file(iteration["id"], "parquet"))), content)
            project.write((ITERATIONS, iteration["id"], iteration))
        self._worker.submit(self._run, project, iteration["id"])
        return iteration

    def is_training(self, project: Project) -> bool:
        """Return whether a training of this project runs."""
        return any(each is project for each, _ in self._unfinished())

    def close(self) -> None:
        """End the process; the next server goes on with its training."""
        self._closing.set()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _unfinished(self) -> list[tuple[Project, str]]:
        return [
            (project, id)
            for project in self._projects.all()
            for id, iteration in project.journal.of(ITERATIONS).items()
            if iteration["status"] == TRAINING
        ]

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

    def _run(self, project: Project, id: str) -> None:
        """Train, and record how it ended."""
        started = time.monotonic()
        try:
            code = self._train(project, project.record(ITERATIONS, id))
        except (TaggerError, OSError) as error:
            log.warning("a training cannot start: %s", error)
            code = 1
        done = code == 0 and (project.checkpoint(id) / checkpoint.BUNDLE).exists()
        ended: Json = {"status": COMPLETED if done else FAILED, "lastModified": now()}
        if done:
            ended["trainedAt"] = ended["lastModified"]
            ended["trainingTimeInMinutes"] = round((time.monotonic() - started) / 60)
        else:
            line = child.last_line(project.training_file(id, "log"))
            ended["trainingErrorDetails"] = f"the process ended with {code}: {line[:_ERROR_LENGTH]}"
        child.record(project, ITERATIONS, id, ended, self._closing)

    def _train(self, project: Project, iteration: Json) -> int:
        id = iteration["id"]
        dataset, out = project.training_file(id, "parquet"), project.checkpoint(id)
        out.parent.mkdir(exist_ok=True)
        options = json.dumps(asdict(_config_of(iteration, self._config)))
        command = [sys.executable, "-m", "tagger.serving.projects.process", str(dataset), str(out), options]
        return child.run(command, project.training_file(id, "log"), self._closing)


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
    """Return the data of the last training that was completed."""
    done = [each["data"] for each in project.journal.of(ITERATIONS).values() if each["status"] == COMPLETED]
    return set(done[-1:])
