"""Projects out of Custom Vision: from our own server, and from one that answers as Azure was recorded to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pyarrow.parquet as pq
import pytest
from processes import TIMEOUT, forked, wait_until
from test_serve import jpeg, serving

import tagger

pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

PROJECT = str(uuid.UUID(int=1))
TAGS = [
    {"id": str(uuid.UUID(int=10)), "name": "Hemlock", "description": None, "type": "Regular", "imageCount": 3},
    {"id": str(uuid.UUID(int=11)), "name": "Cherry", "description": None, "type": "Regular", "imageCount": 3},
    {"id": str(uuid.UUID(int=12)), "name": "Other", "description": None, "type": "Negative", "imageCount": 1},
]
ITERATION = {"id": str(uuid.UUID(int=20)), "name": "Iteration 1", "status": "Completed", "publishName": "trees"}
PERFORMANCE = {
    "perTagPerformance": [{"id": TAGS[0]["id"], "name": "Hemlock", "precision": 1.0, "recall": 0.5}],
    "precision": 1.0, "recall": 0.5, "averagePrecision": 0.9,
}  # fmt: skip


@dataclass
class Azure:
    """A server that answers the training API's GETs, with the faults that a test asks for."""

    images: dict[str, list[int]]
    """Kind of listing -> numbers of images."""
    key: str = "secret"
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Statuses and headers of the next downloads, before those that work."""
    expired: set[str] = field(default_factory=set)
    """Links that answer 403."""
    requests: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    keys_of_links: list[str | None] = field(default_factory=list)
    url: str = ""
    listed: Counter[str] = field(default_factory=Counter)
    links: dict[int, str] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)
    content: dict[int, bytes] = field(default_factory=dict)
    wrong_sum: set[int] = field(default_factory=set)

    def image(self, number: int) -> dict[str, Any]:
        id = str(uuid.UUID(int=1000 + number))
        self.listed[id] += 1
        tag = TAGS[number % 3]
        tags = [{"tagId": tag["id"], "tagName": tag["name"], "created": "2019-03-06T02:15:00.1234567Z"}]
        link = self.links.get(number, f"{self.url}/blob/{number}?sig={self.listed[id]}")
        return {
            "id": id, "created": "2019-03-06T02:15:00.1234567Z", "width": 64, "height": 48, "resizedImageUri": link,
            "thumbnailUri": link, "originalImageUri": link, "regions": [], "metadata": None,
            "tags": tags if number in self.images["tagged"] else None,
        }  # fmt: skip

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, object]:
        name = path.removeprefix("/customvision/v3.3/training/projects")
        if name == "":
            return 200, [{"id": PROJECT, "name": "trees", "settings": {"classificationType": "Multiclass"}}]
        name = name.removeprefix(f"/{PROJECT}/")
        kind = name.split("/")[1] if name.startswith("images/") else ""
        if name in ("images/tagged", "images/untagged"):
            skip, take = int(query["skip"][0]), int(query["take"][0])
            return 200, [self.image(number) for number in self.images[kind][skip : skip + take]]
        if name in ("images/tagged/count", "images/untagged/count"):
            return 200, len(self.images[kind])
        if name == "images/id":
            numbers = [uuid.UUID(id).int - 1000 for id in query["imageIds"][0].split(",")]
            return 200, [self.image(number) for number in numbers if number not in self.deleted]
        known = {"tags": TAGS, "iterations": [ITERATION], f"iterations/{ITERATION['id']}/performance": PERFORMANCE}
        return (200, known[name]) if name in known else (404, {"code": "NotFound", "message": "?"})


@contextlib.contextmanager
def served(azure: Azure) -> Iterator[Azure]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            azure.requests.append(self.path)
            azure.times.append(time.monotonic())
            key = self.headers.get("Training-Key")
            if parts.path.startswith("/blob/"):
                azure.keys_of_links.append(key)
                self.blob(int(parts.path.removeprefix("/blob/")))
            elif key != azure.key:
                self.send(401, json.dumps({"error": {"code": "401", "message": "Access denied"}}).encode())
            else:
                status, found = azure.answer(parts.path, parse_qs(parts.query))
                self.send(status, json.dumps(found).encode())

        def blob(self, number: int) -> None:
            if azure.answers:
                status, headers = azure.answers.pop(0)
                self.send(status, b"", headers)
            elif self.path in azure.expired:
                self.send(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
            else:
                content = azure.content.get(number, jpeg(number))
                digest = hashlib.md5(content if number not in azure.wrong_sum else b"").digest()
                self.send(200, content, {"Content-MD5": base64.b64encode(digest).decode()})

        def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        azure.url = f"http://127.0.0.1:{web.server_port}"
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield azure
        web.shutdown()


@pytest.fixture
def azure() -> Iterator[Azure]:
    with served(Azure({"tagged": list(range(6)), "untagged": [6]})) as found:
        yield found


@pytest.fixture
def migrate(run_tagger: Any, tmp_path: Path) -> Any:
    (tmp_path / "key").write_text("secret\n")

    def run(url: str, *more: object, project: str = "trees") -> Any:
        arguments = ["--endpoint", url, "--key-file", tmp_path / "key", "--project", project, "--out", tmp_path / "out"]
        return run_tagger("migrate", "customvision", *arguments, *more)

    return run


def labels_in(out: Path) -> dict[str, list[str] | None]:
    """Return file -> labels of a migrated manifest."""
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    return {Path(row["uri"]).name: row["labels"] for row in rows}


def name_of(number: int) -> str:
    return f"{uuid.UUID(int=1000 + number)}.jpg"


def test_images_tags_negatives_and_figures_come_out_of_a_recorded_project(
    azure: Azure, migrate: Any, tmp_path: Path
) -> None:
    ran = migrate(f"{azure.url}/", "--json")
    assert ran.returncode == 0, ran.stderr
    counts = json.loads(ran.stdout)
    assert [counts[name] for name in ("images", "downloaded", "tagged", "negative", "untagged")] == [7, 7, 4, 2, 1]
    labels: list[list[str] | None] = [["Hemlock"], ["Cherry"], []] * 2
    assert labels_in(tmp_path / "out") == {name_of(number): found for number, found in enumerate([*labels, None])}
    for number in range(7):
        assert (tmp_path / "out" / "images" / name_of(number)).read_bytes() == jpeg(number)
    records = [json.loads(line) for line in (tmp_path / "out" / "images.jsonl").read_text().splitlines()]
    assert {each["sha256"] for each in records} == {hashlib.sha256(jpeg(number)).hexdigest() for number in range(7)}
    (iteration,) = json.loads((tmp_path / "out" / "iterations.json").read_text())
    assert (iteration["publishName"], iteration["performance"]) == ("trees", PERFORMANCE)
    assert json.loads((tmp_path / "out" / "project.json").read_text())["tags"] == TAGS
    assert set(azure.keys_of_links) == {None}, "the key went to the store of the images"


def test_the_folder_can_be_moved_and_is_read_as_it_is(azure: Azure, migrate: Any, tmp_path: Path) -> None:
    assert migrate(azure.url).returncode == 0
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "moved" / "manifest.parquet").unlink()
    found = tagger.ingest(tmp_path / "moved", tmp_path / "moved.parquet")
    assert sorted(map(str, found.table["labels"].to_pylist())) == sorted(
        ["['Hemlock']", "['Cherry']", "[]"] * 2 + ["None"]
    )


def test_pages_of_256_are_listed_to_the_end(migrate: Any, tmp_path: Path) -> None:
    with served(Azure({"tagged": list(range(300)), "untagged": list(range(300, 310))})) as azure:
        ran = migrate(azure.url, "--downloads", 8)
    assert ran.returncode == 0, ran.stderr
    assert len(labels_in(tmp_path / "out")) == 310
    assert sum("images/tagged?take=256&skip=256" in each for each in azure.requests) == 1


def test_a_second_run_downloads_only_what_is_missing_or_damaged(azure: Azure, migrate: Any, tmp_path: Path) -> None:
    assert migrate(azure.url).returncode == 0
    (tmp_path / "out" / "images" / name_of(1)).unlink()
    (tmp_path / "out" / "images" / name_of(2)).write_bytes(b"damaged")
    with open(tmp_path / "out" / "images.jsonl", "a") as file:
        file.write('{"id": "torn')
    azure.requests.clear()
    ran = migrate(azure.url, "--json")
    assert json.loads(ran.stdout)["downloaded"] == 2
    assert sorted(each.partition("?")[0] for each in azure.requests if "/blob/" in each) == ["/blob/1", "/blob/2"]
    assert (tmp_path / "out" / "images" / name_of(2)).read_bytes() == jpeg(2)


def test_the_service_is_left_alone_for_as_long_as_it_asks(azure: Azure, migrate: Any) -> None:
    azure.answers = [(429, {"Retry-After": "1"}), (503, {}), (500, {})]
    ran = migrate(azure.url, "--downloads", 4)
    assert ran.returncode == 0, ran.stderr
    assert azure.answers == []
    gaps = [after - before for before, after in itertools.pairwise(azure.times)]
    assert max(gaps) > 0.9


def test_a_link_that_has_expired_is_listed_again(azure: Azure, migrate: Any, tmp_path: Path) -> None:
    azure.expired = {"/blob/3?sig=1", "/blob/4?sig=1", "/blob/4?sig=2"}
    ran = migrate(azure.url)
    assert (ran.returncode, "1 images are missing" in ran.stderr, "run the command again" in ran.stderr) == (
        1,
        True,
        True,
    )
    assert len(labels_in(tmp_path / "out")) == 6
    assert migrate(azure.url).returncode == 0
    assert len(labels_in(tmp_path / "out")) == 7


def test_a_deleted_image_and_links_that_lead_nowhere_do_not_stop_the_others(azure: Azure, migrate: Any) -> None:
    azure.expired, azure.deleted = {"/blob/3?sig=1"}, {3}
    azure.links = {1: "https://host:port", 2: "https://xn--/", 4: "file:///etc/passwd"}
    ran = migrate(azure.url, "--json")
    found = json.loads(ran.stdout)
    reasons = sorted(error.rpartition(": ")[2] for error in found["failed"])
    assert reasons == [*["not a valid http(s) URL"] * 3, "the image has been deleted"]
    assert (ran.returncode, found["images"]) == (1, 3)


def test_what_is_not_the_image_that_was_uploaded_is_not_written(azure: Azure, migrate: Any, tmp_path: Path) -> None:
    azure.content, azure.wrong_sum = {1: b"<html>"}, {2}
    ran = migrate(azure.url, "--json")
    first, second = json.loads(ran.stdout)["failed"]
    assert ("not an image" in first, "does not match its checksum" in second, ran.returncode) == (True, True, 1)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 5


def test_a_migration_that_was_killed_goes_on(migrate: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with served(Azure({"tagged": list(range(120)), "untagged": []})) as azure:
        arguments = ["--endpoint", azure.url, "--key-file", tmp_path / "key", "--project", "trees", "--out", out]
        with forked("migrate", "customvision", *arguments) as process:
            wait_until(lambda: len(list((out / "images").glob("*.jpg"))) > 40, process)
            process.kill()
            process.process.join(TIMEOUT)
        azure.requests.clear()
        ran = migrate(azure.url, "--json")
    assert ran.returncode == 0, ran.stderr
    counts = json.loads(ran.stdout)
    assert (counts["images"], counts["downloaded"] <= 90) == (120, True)
    assert len(labels_in(out)) == 120


@pytest.mark.parametrize(
    ("url", "project", "message"),
    [
        (None, "forest", "no such project; there are trees"),
        ("http://example.com", "trees", "would send the key unencrypted"),
        ("ftp://example.com", "trees", "expected https://NAME.cognitiveservices.azure.com"),
    ],
)
def test_what_cannot_be_migrated_is_one_line(
    azure: Azure, migrate: Any, url: str | None, project: str, message: str
) -> None:
    ran = migrate(url or azure.url, project=project)
    assert (ran.returncode, message in ran.stderr, "Traceback" in ran.stderr) == (1, True, False), ran.stderr


def test_an_iteration_without_figures_is_no_reason_to_stop(azure: Azure, migrate: Any, tmp_path: Path) -> None:
    other = {**ITERATION, "id": str(uuid.UUID(int=21))}
    answer = azure.answer
    azure.answer = lambda path, query: (200, [other]) if path.endswith("/iterations") else answer(path, query)  # type: ignore[method-assign]
    assert migrate(azure.url).returncode == 0
    (iteration,) = json.loads((tmp_path / "out" / "iterations.json").read_text())
    assert ("performance" in iteration, "not found" in iteration["error"]) == (False, True)


def test_a_key_that_is_refused_is_one_line(azure: Azure, migrate: Any, tmp_path: Path) -> None:
    azure.key = "another"
    ran = migrate(azure.url)
    assert (ran.returncode, "the key was rejected" in ran.stderr, "secret" in ran.stderr) == (1, True, False)


def test_ids_that_would_leave_the_folder_are_refused(azure: Azure, migrate: Any, tmp_path: Path) -> None:
    azure.image = lambda number: {"id": "../../x", "tags": [], "originalImageUri": f"{azure.url}/blob/1"}  # type: ignore[method-assign]
    ran = migrate(azure.url)
    assert (ran.returncode, "returned an id that is not a UUID: '../../x'" in ran.stderr) == (1, True), ran.stderr
    assert not list(tmp_path.parent.glob("x*"))


def test_our_own_server_is_a_source(run_tagger: Any, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    with serving("--projects", tmp_path / "projects", "--key-file", tmp_path / "key") as server:
        call = httpx.Client(base_url=f"{server.url}/customvision/v3.3/Training/", headers={"Training-Key": "secret"})
        project = call.post("projects?name=mine&classificationType=Multilabel").json()["id"]
        kinds = {"a": "Regular", "b": "Regular", "none": "Negative"}
        tags = {
            name: call.post(f"projects/{project}/tags?name={name}&type={kind}").json()["id"]
            for name, kind in kinds.items()
        }
        given = [["a"], ["a", "b"], ["none"], []]
        for number, names in enumerate(given):
            ids = ",".join(tags[name] for name in names)
            call.post(f"projects/{project}/images?tagIds={ids}", content=jpeg(number)).raise_for_status()
        arguments = ["--endpoint", server.url, "--key-file", tmp_path / "key", "--project", project]
        ran = run_tagger("migrate", "customvision", *arguments, "--out", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert "4 images (4 downloaded now), 2 tagged, 1 negative, 1 untagged" in ran.stdout
    found = {hashlib.sha256((tmp_path / "out/images" / name).read_bytes()).hexdigest(): labels
             for name, labels in labels_in(tmp_path / "out").items()}  # fmt: skip
    expected = [["a"], ["a", "b"], [], None]
    assert found == {hashlib.sha256(jpeg(n)).hexdigest(): labels for n, labels in enumerate(expected)}
