"""Copy a project of Azure Custom Vision into a folder that `tagger train` can read.

OUT/
  images/<image id>.<suffix>
  metadata.jsonl        file_name, labels: [] for the negative tag, null for no tag
  manifest.parquet      the same as a manifest
  images.jsonl          SHA-256, size and tags of each image, appended as soon as it is downloaded
  project.json          project and tags, as the service describes them
  iterations.json       iterations with their performance
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from PIL import Image

from tagger import storage
from tagger.checkpoint.info import Json
from tagger.data import ingest
from tagger.data.config import LabelOptions
from tagger.errors import SourceError, SourceNotFound, TaggerError, UsageError
from tagger.images import known_formats
from tagger.images.suffixes import suffix_of
from tagger.migrate.client import Client, LinkExpired

TAKE = 256
"""Images per page, the maximum of the service."""
OnProgress = Callable[[int, int], None]
RECORDS = "images.jsonl"


@dataclass(frozen=True)
class Migrated:
    """Result of copying a project."""

    project: str
    multilabel: bool
    images: int
    downloaded: int
    """Images downloaded by this run."""
    tagged: int
    negative: int
    """Images labelled as having none of the tags."""
    untagged: int
    with_regions: int
    """Images with bounding boxes, which are stored in images.jsonl only."""
    iterations: int
    failed: tuple[str, ...]
    """Error messages of the images that could not be downloaded."""

    def text(self) -> str:
        """Return the counts as text."""
        lines = [
            f"{self.project}: {self.images:,} images ({self.downloaded:,} downloaded now), {self.tagged:,} tagged, "
            f"{self.negative:,} negative, {self.untagged:,} untagged; {self.iterations:,} iterations"
        ]
        if self.with_regions:
            lines.append(
                f"note: {self.with_regions:,} images have bounding boxes; these are in {RECORDS}, not in the labels"
            )
        return "\n".join(lines)


def migrate(
    endpoint: str,
    key: str,
    project: str,
    out: str,
    downloads: int = 4,
    on_progress: OnProgress = lambda done, total: None,
) -> Migrated:
    """Copy a project, given by name or id, or continue an interrupted copy. Raises TaggerError."""
    folder, client = Path(storage.local_path(storage.absolute(out))), Client(endpoint, key)
    if storage.is_remote(out):
        raise UsageError(f"--out {out}: must be a local folder")
    with storage.claimed(storage.absolute(out)):
        facts = _project(client, project)
        tags = {tag["id"]: tag for tag in client.get(f"projects/{facts['id']}/tags")}
        _write(folder / "project.json", {"project": facts, "tags": list(tags.values())})
        copy = _Copy(client, facts["id"], folder)
        with ThreadPoolExecutor(downloads) as pool:
            copy.run(pool, on_progress)
        iterations = _iterations(client, facts["id"])
        _write(folder / "iterations.json", iterations)
        labels = {id: _labels(image, tags) for id, image in copy.records.items()}
        lines = [{"file_name": f"images/{image['file']}", "labels": labels[id]} for id, image in copy.records.items()]
        _write_lines(folder / "metadata.jsonl", lines)
        if lines:
            ingest.write_manifest(str(folder), str(folder / "manifest.parquet"), LabelOptions())
    return Migrated(
        project=facts["name"],
        multilabel=facts.get("settings", {}).get("classificationType") == "Multilabel",
        images=len(lines),
        downloaded=copy.downloaded,
        tagged=sum(bool(found) for found in labels.values()),
        negative=sum(found == [] for found in labels.values()),
        untagged=sum(found is None for found in labels.values()),
        with_regions=sum(bool(image["regions"]) for image in copy.records.values()),
        iterations=len(iterations),
        failed=tuple(copy.failed),
    )


class _Copy:
    """Copies the images of a project to disk."""

    def __init__(self, client: Client, project: str, folder: Path) -> None:
        self._client, self._path, self._images = client, f"projects/{project}/images", folder / "images"
        self._images.mkdir(parents=True, exist_ok=True)
        self._on_disk = _downloaded(folder)
        self._log = folder / RECORDS
        self.records: dict[str, Json] = {}
        """Id -> file, sha256, bytes, tags, regions, created."""
        self.downloaded, self.failed = 0, list[str]()

    def run(self, pool: ThreadPoolExecutor, on_progress: OnProgress) -> None:
        """List the images page by page, and download the missing ones of a page before their links expire."""
        total = sum(int(self._client.get(f"{self._path}/{kind}/count")) for kind in ("tagged", "untagged"))
        with open(self._log, "a", encoding="utf-8") as log:
            for kind in ("tagged", "untagged"):
                for page in self._pages(kind):
                    for image, found in zip(page, pool.map(self._copied, page), strict=True):
                        if isinstance(found, str):
                            self.failed.append(found)
                        else:
                            self._record(image, found, log)
                    on_progress(len(self.records) + len(self.failed), total)
        _write_lines(self._log, [{"id": id, **record} for id, record in self.records.items()])
        if len(self.records) + len(self.failed) < total:
            self.failed.append(
                f"{total - len(self.records)} images were not listed: the project changed during the copy"
            )

    def _pages(self, kind: str) -> Iterator[list[Json]]:
        """Yield the images page by page; the oldest come first, so that new images do not shift the pages."""
        skip = 0
        while page := self._client.get(f"{self._path}/{kind}", take=TAKE, skip=skip, orderBy="Oldest"):
            yield [{**image, "id": _checked_id(image)} for image in page]
            skip += len(page)

    def _record(self, image: Json, found: Json, log: TextIO) -> None:
        """Record an image that is on disk; one that was just downloaded is also appended to the log at once."""
        lists = {name: image.get(name) or [] for name in ("tags", "regions")}
        self.records[image["id"]] = record = {**found, **lists, "created": image.get("created")}
        if image["id"] not in self._on_disk:
            self.downloaded += 1
            log.write(f"{json.dumps({'id': image['id'], **record})}\n")
            log.flush()

    def _copied(self, image: Json) -> Json | str:
        """Download an image unless it is on disk; return its file, sha256 and bytes, or an error message."""
        if image["id"] in self._on_disk:
            return self._on_disk[image["id"]]
        try:
            content = self._content(image)
        except TaggerError as error:
            return f"{image['id']}: {error}"
        if (format := _format(content)) is None:
            return f"{image['id']}: the downloaded file is not an image"
        file = f"{image['id']}.{suffix_of(format)}"
        storage.write_atomic(storage.local_uri(str(self._images / file)), content)
        return {"file": file, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    def _content(self, image: Json) -> bytes:
        try:
            return self._client.download(str(image.get("originalImageUri") or ""))
        except LinkExpired:
            if not (listed := self._client.get(f"{self._path}/id", imageIds=image["id"])):
                raise SourceError("the image has been deleted") from None
            return self._client.download(str(listed[0].get("originalImageUri") or ""))


def _project(client: Client, name: str) -> Json:
    projects: list[Json] = client.get("projects")
    found = [each for each in projects if name in (each["id"], each["name"])]
    if len(found) == 1:
        return {**found[0], "id": _checked_id(found[0])}
    if found:
        raise UsageError(f"--project {name}: {len(found)} projects have this name; use an id: {_listed(found, 'id')}")
    raise SourceNotFound(f"--project {name}: no such project; there are {_listed(projects, 'name') or 'none'}")


def _listed(projects: list[Json], key: str) -> str:
    return ", ".join(str(each[key]) for each in projects[:20])


def _iterations(client: Client, project: str) -> list[Json]:
    """Return the iterations; trained ones include their performance, or the error of requesting it."""
    path, found = f"projects/{project}/iterations", []
    for iteration in client.get(path):
        figures: Json = {}
        if iteration.get("status") == "Completed":
            try:
                figures["performance"] = client.get(f"{path}/{_checked_id(iteration)}/performance", threshold=0.5)
            except SourceError as error:
                figures["error"] = str(error)
        found.append({**iteration, **figures})
    return found


def _labels(image: Json, tags: Mapping[str, Json]) -> list[str] | None:
    """Return the names of an image's tags: [] for the negative one, None without tags."""
    known = [tags.get(each["tagId"], {"name": each.get("tagName"), "type": "Regular"}) for each in image["tags"]]
    names = [str(tag["name"]) for tag in known if tag.get("type") != "Negative"]
    return list(dict.fromkeys(names)) if known else None


def _downloaded(folder: Path) -> dict[str, Json]:
    """Return the images downloaded by earlier runs whose files are unchanged: id -> file, sha256, bytes."""
    path, found = folder / RECORDS, dict[str, Json]()
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:  # incomplete last line of a run that was killed
            continue
        file = folder / "images" / str(record["file"])
        if file.parent == folder / "images" and file.is_file() and _sha256(file) == record["sha256"]:
            found[record["id"]] = {name: record[name] for name in ("file", "sha256", "bytes")}
    return found


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _format(content: bytes) -> str | None:
    """Return the format of an image; None for other content."""
    try:
        with Image.open(io.BytesIO(content), formats=known_formats()) as image:
            return image.format
    except Exception:  # on damaged bytes Pillow raises exceptions of any type
        return None


def _checked_id(record: Json) -> str:
    """Return a record's id, checked to be safe as a file name; raises SourceError."""
    try:
        return str(uuid.UUID(str(record["id"])))
    except (ValueError, KeyError) as error:
        raise SourceError(f"the service returned an id that is not a UUID: {str(record.get('id'))[:80]!r}") from error


def _write(path: Path, value: object) -> None:
    storage.write_atomic(storage.local_uri(str(path)), json.dumps(value, indent=2, ensure_ascii=False).encode())


def _write_lines(path: Path, values: list[Json]) -> None:
    text = "".join(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values)
    storage.write_atomic(storage.local_uri(str(path)), text.encode())
