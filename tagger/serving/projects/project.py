"""Projects as folders: a journal of tags, images and iterations, images named by their content, and checkpoints.

    PROJECTS/<project id>/
      journal.jsonl               tags, images, predictions, iterations, exports
      images/<SHA-256>.<suffix>
      predictions/<prediction id>.<suffix>
      trainings/<iteration id>.parquet, .log
      checkpoints/<iteration id>/
      exports/<iteration id>.zip, .log

File names are made only of ids and hashes generated here; nothing in a request becomes part of a path.
"""

from __future__ import annotations

import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from tagger import schema, storage
from tagger.checkpoint.info import Json, fingerprint
from tagger.errors import TableError
from tagger.serving.errors import Refused
from tagger.serving.projects.journal import Change, Journal, encoded

PROJECT, TAGS, IMAGES, PREDICTIONS = "project", "tags", "images", "predictions"
ITERATIONS, EXPORTS = "iterations", "exports"
"""Kinds of records."""
JOURNAL = "journal.jsonl"
NEGATIVE = "Negative"
"""Type of the tag for images without any other tag."""
TRAINING, COMPLETED, FAILED = "Training", "Completed", "Failed"
"""Statuses of an iteration."""
EXPORTING, DONE = "Exporting", "Done"
"""Statuses of an export, in addition to FAILED."""
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "tagger image")
_DELETED = "_deleted-"


def now() -> str:
    """Return the current time in Custom Vision's format."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def new_id() -> str:
    """Return the id of a new record."""
    return str(uuid.uuid4())


def canonical(id: str) -> str:
    """Return an id in canonical form; raises Refused if it is not a UUID."""
    try:
        return str(uuid.UUID(id))
    except ValueError as error:
        raise Refused(400, "BadRequestInvalidIds", f"{id[:80]!r} is not an id") from error


class Project:
    """One project. Changes that depend on its current state are made under `lock`."""

    def __init__(self, folder: Path) -> None:
        self.id, self.folder, self.lock = folder.name, folder, threading.RLock()
        self.journal = Journal(folder / JOURNAL)
        if self.journal.get(PROJECT, self.id) is None:
            raise TableError(f"{folder / JOURNAL}: belongs to another project; rename its folder to that project's id")
        for left in folder.glob("*/_tmp-*"):  # of an upload that was killed
            left.unlink(missing_ok=True)

    @property
    def facts(self) -> Json:
        """Return the record of the project itself."""
        found = self.journal.get(PROJECT, self.id)
        assert found is not None
        return found

    @property
    def multilabel(self) -> bool:
        """Return whether an image may have several tags."""
        return bool(self.facts["classificationType"] == "Multilabel")

    def record(self, kind: str, id: str) -> Json:
        """Return a record by its id; raises Refused."""
        if (found := self.journal.get(kind, canonical(id))) is None:
            name = kind.capitalize().removesuffix("s")
            raise Refused(404, f"NotFound{name}", f"Invalid {name.lower()}")
        return found

    def write(self, *changes: Change) -> None:
        """Apply all changes or none."""
        self.journal.write(*changes)

    def image_path(self, kind: str, record: Json) -> Path:
        """Return the file of an image, or of the image of a stored prediction."""
        return self.folder / kind / str(record["file"])

    def checkpoint(self, iteration: str) -> Path:
        """Return the checkpoint folder of an iteration."""
        return self.folder / "checkpoints" / iteration

    def training_file(self, iteration: str, suffix: str) -> Path:
        """Return a file of an iteration's training: its data (parquet), or its log."""
        return self.folder / "trainings" / f"{iteration}.{suffix}"

    def export(self, iteration: str) -> Path:
        """Return the exported file of an iteration; its log is next to it."""
        return self.folder / "exports" / f"{iteration}.zip"

    def remove_iteration(self, iteration: str) -> None:
        """Delete the files of an iteration."""
        shutil.rmtree(self.checkpoint(iteration), ignore_errors=True)
        files = [self.training_file(iteration, "parquet"), self.training_file(iteration, "log"), self.export(iteration)]
        for path in (*files, self.export(iteration).with_suffix(".log")):
            path.unlink(missing_ok=True)

    def tag_counts(self) -> Counter[str]:
        """Return tag id -> images."""
        return Counter(tag for image in self.journal.of(IMAGES).values() for tag in image["tags"])

    def write_image(self, file: str, content: bytes) -> None:
        """Write the file of an image unless it exists; its name is the hash of its content."""
        path = self.folder / "images" / file
        if not path.exists():
            storage.write_atomic(storage.local_uri(str(path)), content)

    def labels_of(self, image: Json, selected: Collection[str] | None = None) -> list[str] | None:
        """Return the names of an image's tags: [] for the negative tag alone, None without tags."""
        tags, chosen = self.journal.of(TAGS), [tag for tag in image["tags"] if selected is None or tag in selected]
        named = [tags[tag]["name"] for tag in chosen if tags[tag]["type"] != NEGATIVE]
        return sorted(named) if chosen else None

    def labelled(self, selected: Collection[str] | None = None) -> Iterator[tuple[Json, list[str]]]:
        """Yield the images that have tags, of those selected, with their labels."""
        for image in self.journal.of(IMAGES).values():
            if (labels := self.labels_of(image, selected)) is not None:
                yield image, labels

    def manifest(self, selected: Collection[str] | None = None) -> pa.Table:
        """Return the tagged images as a manifest."""
        root = storage.absolute(str(self.folder / "images"))
        described = [
            {**storage.describe(storage.join(root, image["file"]))._asdict(), "labels": labels}
            for image, labels in self.labelled(selected)
        ]
        return schema.from_rows(described, "manifest")

    def data_fingerprint(self, selected: Collection[str] | None = None) -> str:
        """Return a hash of which images have which labels."""
        return fingerprint(sorted([image["sha256"], labels] for image, labels in self.labelled(selected)))


def image_id(digest: str) -> str:
    """Return the id of an image with this SHA-256, so that a repeated upload has the same id."""
    return str(uuid.uuid5(_NAMESPACE, digest))


class Projects:
    """All projects of a folder."""

    def __init__(self, folder: str) -> None:
        self.folder, self.lock = Path(storage.local_path(storage.absolute(folder))), threading.Lock()
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f"{_DELETED}*"):
            shutil.rmtree(left, ignore_errors=True)
        folders = sorted(path.parent for path in self.folder.glob(f"*/{JOURNAL}"))
        self._projects = {path.name: Project(path) for path in folders}

    def all(self) -> list[Project]:
        """Return every project."""
        return list(self._projects.values())

    def find(self, id: str) -> Project | None:
        """Return a project by its id, None if there is none."""
        return self._projects.get(id.lower())

    def get(self, id: str) -> Project:
        """Return a project by its id; raises Refused."""
        if (found := self.find(canonical(id))) is None:
            raise Refused(404, "NotFoundProject", "Invalid project id")
        return found

    def create(self, facts: Json) -> Project:
        """Create a project; raises Refused if its name is taken."""
        with self.lock:
            self.check_name(facts["name"])
            record = {"id": new_id(), **facts, "created": now(), "lastModified": now()}
            folder = self.folder / record["id"]
            first = encoded((PROJECT, record["id"], record))
            storage.write_atomic(storage.local_uri(str(folder / JOURNAL)), first)
            project = self._projects[folder.name] = Project(folder)
            return project

    def check_name(self, name: str, of: Project | None = None) -> None:
        """Raise Refused when another project has the name."""
        if any(each.facts["name"] == name for each in self.all() if each is not of):
            raise Refused(400, "BadRequestProjectNameNotUnique", f"a project named {name!r} already exists")

    def delete(self, project: Project) -> None:
        """Delete a project with all its files."""
        with self.lock:
            gone = project.folder.rename(self.folder / f"{_DELETED}{project.id}")
            del self._projects[project.id]
        shutil.rmtree(gone, ignore_errors=True)
