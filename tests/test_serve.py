"""The prediction server as its clients meet it: real processes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import pytest
from pictures import MODEL, ROOT, bomb, photo, without_root_powers
from PIL import Image
from processes import TIMEOUT, started, wait_until
from test_predicting import NAMELESS, assert_same, plant

import tagger

pytest.importorskip("prometheus_client", reason="needs the extra `serve`")

from tagger.serving import batching, fetch
from tagger.serving.body import Memory
from tagger.serving.errors import Refused

NAME = "cifar10-speedrun"
KEY = "secret-1"
PROJECT = "1fb0f3d9-6a5e-4c28-8d2f-8d5a1d2b3c4d"
CALL = f"/customvision/v3.0/Prediction/{PROJECT}/classify/iterations/{NAME}"


@dataclass
class Server:
    url: str
    process: subprocess.Popen[str]

    def post(self, path: str, content: bytes = b"", **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, content=content, timeout=TIMEOUT, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=TIMEOUT, **options)


@contextlib.contextmanager
def serving(*arguments: object, **options: Any) -> Iterator[Server]:
    """Start `tagger serve` on a free port."""
    with started("tagger.cli", "serve", *arguments, "--port", 0, "--device", "cpu", **options) as process:
        assert process.stdout
        assert process.stderr
        line = process.stdout.readline()
        assert line.startswith("serving on "), process.stderr.read()
        yield Server(line.split()[-1], process)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(MODEL, "--max-body", 4) as found:
        yield found


@pytest.fixture(scope="module")
def keyed(timm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two models, keys, stored predictions, and URLs of this machine."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "keys").write_text(f"other\n\n{KEY}\n")
    with serving(
        MODEL, f"local-dir:{timm_folder}", "--key-file", folder / "keys", "--allow-private-urls",
        "--results", folder / "results", "--max-body", 4,
    ) as found:  # fmt: skip
        yield found


class Site(BaseHTTPRequestHandler):
    """A web server with an image, an endless one, a huge one, one that never comes, and a redirect."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200 if path != "/missing" else 404)
        if path == "/huge":
            self.send_header("Content-Length", str(5 << 30))
        self.end_headers()
        with contextlib.suppress(OSError):
            if path == "/cat.jpg":
                self.wfile.write(jpeg())
            while path in ("/endless", "/slow", "/huge"):
                self.wfile.write(bytes(1 if path == "/slow" else 1 << 16))
                time.sleep(0.1 if path == "/slow" else 0)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def web(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run the site on a free port; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as found:
        if context:
            found.socket = context.wrap_socket(found.socket, server_side=True)
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"{'https' if context else 'http'}://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with web() as url:
        yield url


@pytest.fixture(scope="module")
def tls_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The site over TLS as *.https.test, and the file of its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=https.test",
         "-addext", "subjectAltName=DNS:*.https.test", "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=TIMEOUT,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with web(context) as url:
        yield url, certificate


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def jpeg(seed: int = 0) -> bytes:
    return encoded(photo(seed), "JPEG", quality=92)


def slow_image() -> bytes:
    """A small file that takes seconds to decode."""
    return encoded(Image.new("RGBA", (9_000, 9_000)), "PNG", compress_level=1)


def multipart(content: bytes, name: str = "imageData", extra: str = "") -> dict[str, Any]:
    head = f'--b0\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    whole = head.encode() + content + b"\r\n--b0--\r\n"
    return {"content": whole, "headers": {"Content-Type": "multipart/form-data; boundary=b0"}}


def dotnet(content: bytes) -> dict[str, Any]:
    """A multipart body of .NET's HttpClient: the boundary has quotation marks, the name has none."""
    sent = multipart(content)
    whole = sent["content"].replace(b'name="imageData"', b"name=imageData; filename=a.jpg; filename*=utf-8''a.jpg")
    return {"content": whole, "headers": {"Content-Type": 'multipart/form-data; boundary="b0"'}}


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_prediction_is_the_row_of_a_tagging_run(server: Server, photos: Path, tmp_path: Path) -> None:
    paths = plant(photos)
    tagger.tag(photos, Path(MODEL), tmp_path / "out", tagger.TagConfig(device="cpu"))
    table = tagger.query(tmp_path / "out", "SELECT * EXCLUDE (run_id, tagged_at, present) FROM images").to_pylist()
    expected = {row["uri"]: row for row in table}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda path: server.post("/predict", path.read_bytes()), paths))
    for path, answer in zip(paths, answers, strict=True):
        if not path.stat().st_size:
            assert answer.json() == {"code": "BadRequestImageFormat", "message": "the image is empty"}
            continue
        assert_same(answer.json(), expected[str(path)], *NAMELESS)
        assert (answer.status_code == 200) == (answer.json()["status"] in ("ok", "truncated"))


@pytest.mark.parametrize(
    ("photographs", "count"), [("some_photos", 63), pytest.param("real_photos", 500, marks=pytest.mark.slow)]
)
def test_photographs_get_the_rows_of_a_tagging_run(
    server: Server, photographs: str, count: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = request.getfixturevalue(photographs)
    tagger.tag(source, Path(MODEL), tmp_path / "out", tagger.TagConfig(device="cpu"))
    table = tagger.query(tmp_path / "out", "SELECT * EXCLUDE (run_id, tagged_at, present) FROM images").to_pylist()
    assert len(table) == count
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda row: server.post("/predict", Path(row["uri"]).read_bytes()), table))
    for row, answer in zip(table, answers, strict=True):
        assert_same(answer.json(), row, *NAMELESS)


def test_images_that_come_together_are_scored_together() -> None:
    model = tagger.load(MODEL, device="cpu", engine="eager", batch_size=8)
    engine, sizes = model.engine, []

    class Counting:
        name, batch_size, concurrency, shares_cores = engine.name, 8, 1, True
        images_per_second = None

        def __call__(self, images: Any) -> Any:
            sizes.append(len(images))
            return engine(images)

    batcher = batching.Batcher(replace(model, engine=Counting()), batching.decoders())
    rows = [future.result() for future in [batcher.submit(jpeg(seed)) for seed in range(40)]]
    assert (sum(sizes), max(sizes) > 1, max(sizes) <= 8) == (40, True, True)
    for seed, row in enumerate(rows):
        assert_same(batching.results_row(row), model.predict(jpeg(seed))[0])


def test_an_onnx_file_is_served_and_loaded_again_when_it_changes(tmp_path: Path, photos: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
    from tagger.evaluation.onnx import export_onnx

    export_onnx(MODEL, tmp_path / "mine.onnx")
    changed = onnx.load(tmp_path / "mine.onnx")
    changed.doc_string = "another"
    onnx.save(changed, tmp_path / "new.onnx")
    with serving(tmp_path / "mine.onnx") as server:
        before = server.post("/predict", (photos / "0.jpg").read_bytes()).json()
        os.replace(tmp_path / "new.onnx", tmp_path / "mine.onnx")
        wait_until(lambda: server.get("/models").json()["models"][0]["model_id"] != before["model_id"], server.process)
        after = server.post("/predict?model=mine.onnx", (photos / "0.jpg").read_bytes()).json()
    (expected,) = tagger.load(MODEL, device="cpu").predict(photos / "0.jpg")
    for row in (before, after):
        assert_same(row, expected, *NAMELESS, "model", "model_id", "engine", "settings_id")


# --- Custom Vision's calls --------------------------------------------------------------------------------------------


def client(server: Server, key: str = KEY) -> Any:
    module = pytest.importorskip("azure.cognitiveservices.vision.customvision.prediction")
    credentials = pytest.importorskip("msrest.authentication").ApiKeyCredentials(in_headers={"Prediction-key": key})
    return module.CustomVisionPredictionClient(server.url, credentials)


def test_azures_own_client_gets_predictions(keyed: Server, site: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1000, 1000, 3), dtype=np.uint8))
    large = encoded(noise, "PNG")
    assert len(large) > 3_000_000
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    azure = client(keyed)
    with open(tmp_path / "cat.jpg", "rb") as file:
        answers = [
            azure.classify_image(PROJECT, NAME, large),
            azure.classify_image(PROJECT, NAME, file, application="test"),
            azure.classify_image_with_no_store(PROJECT, NAME, io.BytesIO(jpeg())),
            azure.classify_image_url(PROJECT, NAME, f"{site}/cat.jpg"),
            azure.classify_image_url_with_no_store(PROJECT, NAME, f"{site}/cat.jpg"),
        ]
    for answer in answers:
        scores = [each.probability for each in answer.predictions]
        assert (len(scores), scores) == (10, sorted(scores, reverse=True))
        assert sum(scores) == pytest.approx(1)
        assert {each.tag_type for each in answer.predictions} == {"Regular"}
        assert (answer.project, answer.created.tzname()) == (PROJECT, "UTC")
    tags = [[each.tag_name for each in answer.predictions] for answer in answers[1:]]
    assert tags[0] == tags[1] == tags[2] == tags[3]
    expected = tagger.load(MODEL, device="cpu").predict(jpeg())[0]
    assert answers[1].predictions[0].tag_name == expected["top_tag"]
    assert answers[1].predictions[0].probability == pytest.approx(expected["top_score"], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "key", "content", "status", "code", "message"),
    [
        (NAME, "wrong", jpeg(), 401, "401", "Access denied due to invalid subscription key"),
        ("nobody", KEY, jpeg(), 404, "NotFoundIteration", "Invalid iteration"),
        (NAME, KEY, b"no image", 400, "BadRequestImageFormat", "unsupported: "),
        (NAME, KEY, jpeg()[:40], 400, "BadRequestImageFormat", "corrupt: "),
        (NAME, KEY, b"", 400, "BadRequestImageFormat", "the image is empty"),
        (NAME, KEY, bomb(), 400, "BadRequestImageDimensions", "too_large: "),
        (NAME, KEY, bytes(5 << 20), 400, "BadRequestImageSizeBytes", "larger than the limit of 4194304 bytes"),
    ],
    ids=["key", "name", "text", "cut", "empty", "bomb", "5 MB"],
)
def test_azures_own_client_understands_the_errors(
    keyed: Server, name: str, key: str, content: bytes, status: int, code: str, message: str
) -> None:
    models = pytest.importorskip("azure.cognitiveservices.vision.customvision.prediction.models")
    with pytest.raises(models.CustomVisionErrorException) as raised:
        client(keyed, key).classify_image(PROJECT, name, content)
    assert raised.value.error.code == code
    assert message in str(raised.value)
    assert raised.value.response.status_code == status


def test_a_model_is_served_under_the_name_that_a_script_uses(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "a=b")
    with serving(f"Iteration 1={MODEL}", f"{tmp_path}/a=b") as server:
        assert [model["name"] for model in server.get("/models").json()["models"]] == ["Iteration 1", "a=b"]
        found = server.post(CALL.replace(NAME, "Iteration%201") + "/image", jpeg()).json()
        assert (found["tagger"]["model"], len(found["predictions"])) == ("Iteration 1", 10)
        assert 'tagger_batch_images_count{model="Iteration 1"} 1.0' in server.get("/metrics").text


def test_detection_is_not_what_a_classifier_does(keyed: Server) -> None:
    models = pytest.importorskip("azure.cognitiveservices.vision.customvision.prediction.models")
    with pytest.raises(models.CustomVisionErrorException, match="Invalid project type for operation"):
        client(keyed).detect_image(PROJECT, NAME, jpeg())


@pytest.mark.parametrize(
    "path",
    [
        f"{CALL}/image",
        f"{CALL}/image/nostore",
        f"{CALL}/image/".upper().replace(NAME.upper(), NAME),
        f"{CALL}/image?application=x".replace("v3.0", "v3.1").replace("Prediction", "prediction"),
        f"{CALL}/image".replace("-", "%2D"),
    ],
)
def test_paths_of_every_version_and_case_are_served(server: Server, path: str) -> None:
    for sent in (
        {"content": jpeg(), "headers": {"Content-Type": "application/octet-stream"}},
        {"content": jpeg(), "headers": {"Content-Type": "application/x-www-form-urlencoded"}},  # curl's own
        multipart(jpeg()),
        multipart(jpeg(), "IMAGEDATA", '; filename="a.jpg"'),
        dotnet(jpeg()),
    ):
        answer = server.post(path, **sent)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["predictions"]) == 10


def test_a_name_with_a_slash_is_one_part_of_the_path(timm_folder: Path, keyed: Server) -> None:
    path = f"{CALL}/image".replace(NAME, quote(timm_folder.name, safe=""))
    answer = keyed.post(path, jpeg(), headers={"Ocp-Apim-Subscription-Key": KEY})
    assert {each["tagName"] for each in answer.json()["predictions"]} == {"red", "green", "blue"}
    slashed = keyed.post(path.replace(timm_folder.name, "a%2Fb"), jpeg(), headers={"Training-Key": KEY})
    assert slashed.json() == {"code": "NotFoundIteration", "message": "Invalid iteration"}


@pytest.mark.parametrize(
    "text", ['{"url": "URL"}', '{"Url": "URL"}', "{'url' : 'URL'}", '\ufeff{"URL":"URL"}', "{ url: 'URL' }"]
)
def test_sloppy_json_is_read(keyed: Server, site: str, text: str) -> None:
    content = text.replace("URL", f"{site}/cat.jpg").replace(f'"{site}/cat.jpg":', '"URL":').encode()
    headers = {"Prediction-KEY": KEY, "Content-Type": "application/json"}
    answer = keyed.post(f"{CALL}/url", content, headers=headers)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"", "application/json", 400, "BadRequestImageUrl"),
        (b"[1]", "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": 5}', "application/json", 400, "BadRequestImageUrl"),
        (b"[" * 60_000, "application/json", 400, "BadRequestImageUrl"),
        (b"url: '" * 100_000, "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": "file:///etc/passwd"}', "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": "http://127.0.0.1:1/a.jpg"}', "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": "http://[::ffff:127.0.0.1]/a.jpg"}', "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": "http://localhost/a.jpg"}', "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": "http://169.254.169.254/latest"}', "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": "http://%s/"}' % (b"a" * 5000), "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": "http://[bad"}', "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": "http://xn--a/"}', "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": "http://93.184.216.34:99999/"}', "application/json", 400, "BadRequestImageUrl"),
        (b'{"url": "http://host.invalid/"}', "application/json", 400, "BadRequestImageUrl"),
        (jpeg(), "application/octet-stream", 415, "UnsupportedMediaType"),
    ],
)
def test_bad_urls_are_refused(server: Server, content: bytes, kind: str, status: int, code: str) -> None:
    answer = server.post(f"{CALL}/url", content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_multipart_body_without_the_image_is_refused(server: Server) -> None:
    answer = server.post(f"{CALL}/image", **multipart(jpeg(), "photo"))
    assert (answer.status_code, answer.json()["message"]) == (400, "the multipart body has no part named imagedata")
    unbound = server.post(f"{CALL}/image", jpeg(), headers={"Content-Type": "multipart/form-data"})
    assert "has no boundary" in unbound.json()["message"]
    many = server.post(f"{CALL}/image", **multipart(b"\r\n--b0" * 500_000, "other"))
    assert (many.status_code, many.elapsed.total_seconds() < 5) == (400, True)


def test_the_calls_of_an_exported_container_are_answered_its_way(server: Server) -> None:
    for path in ("/image", "/p/image/nostore", "/p/classify/iterations/any/image", "/p/detect/iterations/any/image"):
        found = server.post(path, **multipart(jpeg())).json()
        assert (found["id"], found["project"], found["iteration"]) == ("", "", "")
        assert [each["tagName"] for each in found["predictions"]][:3] == ["airplane", "automobile", "bird"]
        assert set(found["predictions"][0]) == {"tagName", "probability", "tagId", "boundingBox"}
    broken = server.post("/image", b"no image")
    assert (broken.status_code, broken.text) == (500, "Error processing image")
    broken = server.post("/url", b'{"url": "http://127.0.0.1/"}')
    assert (broken.status_code, broken.text) == (200, "Error processing image")


# --- URLs -------------------------------------------------------------------------------------------------------------


def fetched(url: str, permits: Any = fetch.anywhere, seconds: float = 5, memory: int = 1 << 30) -> bytes:
    with Memory(memory).held() as held:
        return asyncio.run(fetch.Fetcher(1 << 20, permits, seconds).fetch(url, held))


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
     "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "::7f00:1",
     "64:ff9b:1::7f00:1", "fec0::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not fetch.is_public(address)
    assert fetch.is_public("93.184.216.34")
    assert fetch.is_public("2606:2800:220:1::1")


def test_a_redirect_to_a_private_address_is_refused(site: str) -> None:
    elsewhere = site.replace("127.0.0.1", "127.0.0.2")
    assert fetched(f"{site}/to/{site}/cat.jpg", "127.0.0.1".__eq__) == jpeg()
    with pytest.raises(Refused, match="private or local"):
        fetched(f"{site}/to/{elsewhere}/cat.jpg", "127.0.0.1".__eq__)
    with pytest.raises(Refused, match="http:// or https://"):
        fetched(f"{site}/to/file:///etc/passwd")
    with pytest.raises(Refused, match="redirects more than 3 times"):
        fetched(f"{site}/to/{site}/to/{site}/to/{site}/to/{site}/cat.jpg")


RESOLVER = """
import os, socket

PUBLIC, HERE = "93.184.216.34", "127.0.0.1"
resolve, connect, seen = socket.getaddrinfo, socket.socket.connect, set()


def resolved(host, port, *args, **options):
    if not host.endswith(".test"):
        return resolve(host, port, *args, **options)
    found = [PUBLIC, HERE] if host.startswith("both") else [HERE if host in seen else PUBLIC]
    seen.add(host)
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


def connected(self, address):
    if self.family == socket.AF_INET:
        print("connecting to", address[0], file=open(os.environ["CONNECTED"], "a"), flush=True)
    return connect(self, (HERE, *address[1:]) if address[0] == PUBLIC else address)


socket.getaddrinfo, socket.socket.connect = resolved, connected
"""
"""sitecustomize of a server: names of .test are public the first time and private then; a public address is here."""


@pytest.fixture(scope="module")
def rebound(
    tls_site: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Callable[[], set[str]]]]:
    """A server whose names change their addresses, and the addresses that it has connected to."""
    folder = tmp_path_factory.mktemp("rebound")
    (folder / "sitecustomize.py").write_text(RESOLVER)
    log = folder / "connected"
    env = {"PYTHONPATH": f"{folder}:{ROOT}", "CONNECTED": str(log), "SSL_CERT_FILE": str(tls_site[1])}
    with serving(MODEL, env={**os.environ, **env}) as server:
        yield server, lambda: {line.split()[-1] for line in log.read_text().splitlines()}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("redirected", [False, True])
def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    rebound: tuple[Server, Callable[[], set[str]]], site: str, tls_site: tuple[str, Path], scheme: str, redirected: bool
) -> None:
    server, connected = rebound

    def answer(name: str) -> httpx.Response:
        url = {"http": site, "https": tls_site[0]}[scheme].replace("127.0.0.1", f"{name}{redirected:d}.{scheme}.test")
        if redirected:
            url = f"{site.replace('127.0.0.1', '93.184.216.34')}/to/{url}"
        return server.post(f"{CALL}/url", json.dumps({"url": f"{url}/cat.jpg"}).encode())

    assert [answer("first").status_code for _ in range(2)] == [200, 400]
    for refused in (answer("first"), answer("both")):
        assert "private or local" in refused.json()["message"]
    assert connected() == {"93.184.216.34"}


def test_a_certificate_is_checked_against_the_name_in_the_url(
    rebound: tuple[Server, Callable[[], set[str]]], tls_site: tuple[str, Path]
) -> None:
    url = tls_site[0].replace("127.0.0.1", "another.test") + "/cat.jpg"
    answer = rebound[0].post(f"{CALL}/url", json.dumps({"url": url}).encode())
    assert (answer.status_code, answer.json()["message"]) == (400, "the URL cannot be fetched (ConnectError)")


def test_urls_without_an_end_or_an_image_are_given_up(site: str) -> None:
    with pytest.raises(Refused, match="larger than the limit of 1048576 bytes"):
        fetched(f"{site}/endless")
    with pytest.raises(Refused, match="larger than the limit of 1048576 bytes"):
        fetched(f"{site}/huge")
    with pytest.raises(Refused, match=r"no image within 0\.5 seconds"):
        fetched(f"{site}/slow", seconds=0.5)
    with pytest.raises(Refused, match="the status 404"):
        fetched(f"{site}/missing")
    with pytest.raises(Refused, match="cannot be fetched"):
        fetched("http://127.0.0.1:1/a.jpg")


def test_images_behind_urls_count_in_the_memory_of_all_requests(site: str) -> None:
    with pytest.raises(Refused, match="the server is busy"):
        fetched(f"{site}/endless", memory=100_000)


def test_hosts_and_name_servers_that_are_slow_hold_up_nothing_else(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def slow(host: str, *arguments: Any, **options: Any) -> Any:
        time.sleep(3 if host == "slow.test" else 0)
        return resolve("127.0.0.1", *arguments, **options)

    async def seconds() -> float:
        fetcher = fetch.Fetcher(1 << 20, fetch.anywhere, seconds=3)
        with Memory().held() as held:
            urls = ["http://slow.test/"] * 20 + [f"{site}/slow"] * 20
            slow = [asyncio.create_task(fetcher.fetch(url, held)) for url in urls]
            await asyncio.sleep(0.2)
            started = time.monotonic()
            assert await fetcher.fetch(f"{site.replace('127.0.0.1', 'quick.test')}/cat.jpg", held) == jpeg()
            await asyncio.to_thread(time.sleep, 0)
            took = time.monotonic() - started
            await asyncio.gather(*slow, return_exceptions=True)
        return took

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    assert asyncio.run(seconds()) < 1.5


# --- plain calls ------------------------------------------------------------------------------------------------------


def test_models_health_metrics_and_openapi(server: Server) -> None:
    (model,) = server.get("/models").json()["models"]
    assert (model["name"], model["task"], len(model["label_names"])) == (NAME, "multiclass", 10)
    assert server.get("/healthz").text == "ok"
    server.post("/predict", jpeg())
    assert f'tagger_images_total{{model="{NAME}",status="ok"}}' in server.get("/metrics").text
    assert "/predict" in server.get("/openapi.json").json()["paths"]
    assert server.get("/nothing").json()["code"] in ("NotFound", "BadRequest")
    assert server.post("/no/such/call").json() == {"code": "NotFound", "message": "no such endpoint; see /docs"}
    training = server.get("/customvision/v3.3/Training/projects", headers={"Training-Key": "any"})
    assert (training.status_code, "--projects FOLDER" in training.json()["message"]) == (404, True)


def test_every_call_but_health_and_the_page_needs_a_key(keyed: Server) -> None:
    assert [keyed.get(path).status_code for path in ("/healthz", "/", "/models", "/metrics")] == [200, 200, 401, 401]
    assert keyed.post("/predict", jpeg()).status_code == 401
    assert keyed.get("/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert keyed.get("/models", headers={"Prediction-Key": "other"}).status_code == 200
    assert keyed.get("/models", headers={"Prediction-Key": "é".encode()}).status_code == 401


def test_a_plain_prediction_takes_bytes_a_part_or_a_url(keyed: Server, site: str) -> None:
    headers = {"Prediction-Key": KEY}
    sent = multipart(jpeg(), "image")
    answers = [
        keyed.post("/predict", jpeg(), headers=headers),
        keyed.post("/predict", sent["content"], headers=sent["headers"] | headers),
        httpx.post(f"{keyed.url}/predict", json={"url": f"{site}/cat.jpg?sig=1"}, headers=headers),
    ]
    assert len({answer.json()["image_id"] for answer in answers}) == 1
    assert answers[2].json()["uri"].startswith(f"{site}/cat.jpg")
    red = keyed.post("/predict?model=tiny", jpeg(), headers=headers).json()
    assert red["top_tag"] in ("red", "green", "blue")


def test_stored_predictions_are_rows_of_the_results(keyed: Server, tmp_path: Path) -> None:
    with serving(MODEL, "--results", tmp_path / "out") as server:
        stored = server.post(f"{CALL}/image", jpeg(5)).json()
        not_stored = server.post(f"{CALL}/image/nostore", jpeg(6)).json()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(TIMEOUT) == 0
    assert (stored["tagger"]["stored"], not_stored["tagger"]["stored"]) == (True, False)
    (row,) = tagger.query(tmp_path / "out", "SELECT * FROM images").to_pylist()
    assert row["image_id"] == stored["tagger"]["image_id"]
    assert Path(row["uri"]).read_bytes() == jpeg(5)
    assert row["top_tag"] == stored["predictions"][0]["tagName"]


def test_an_answer_says_that_it_could_not_be_stored(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with serving(MODEL, "--results", out, preexec_fn=without_root_powers) as server:
        assert server.post(f"{CALL}/image", jpeg()).json()["tagger"]["stored"]
        (out / "_images").chmod(0o500)
        answer = server.post(f"{CALL}/image", jpeg(1))
        (out / "_images").chmod(0o700)
        assert (answer.status_code, answer.json()["tagger"]["stored"]) == (200, False)
        assert "tagger_not_stored_total 1.0" in server.get("/metrics").text


# --- many and bad clients ---------------------------------------------------------------------------------------------


def test_a_large_body_is_refused_before_it_has_come(server: Server) -> None:
    host = urlsplit(server.url).netloc
    connection = http.client.HTTPConnection(host, timeout=TIMEOUT)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(200 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (400, "BadRequestImageSizeBytes")
    chunked = httpx.post(f"{server.url}/predict", content=iter([bytes(1 << 20)] * 10), timeout=TIMEOUT)
    assert chunked.json()["code"] == "BadRequestImageSizeBytes"


def test_a_thousand_connections_stay_open(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2500:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2500), hard))
    with contextlib.ExitStack() as stack:
        connections = [http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=TIMEOUT) for _ in range(1000)]
        for connection in [*connections, *connections]:  # twice over the same socket
            stack.callback(connection.close)
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b"ok"
        assert server.post("/predict", jpeg()).status_code == 200


@pytest.mark.slow
def test_requests_that_never_end_are_given_up_and_hold_up_nobody(server: Server) -> None:
    address = ("127.0.0.1", urlsplit(server.url).port)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
    slow = [socket.create_connection(address) for _ in range(200)]
    refused = socket.create_connection(address)
    opened = time.monotonic()
    for each in slow:
        each.sendall(head)
    refused.sendall(head + b"Content-Length: 1000000000\r\n\r\n")
    assert refused.recv(100).startswith(b"HTTP/1.1 400")
    while time.monotonic() < opened + 15:
        assert server.post("/predict", jpeg()).elapsed.total_seconds() < 5
        slow[0].sendall(b"X-A: b\r\n")
        refused.sendall(b"more")
        time.sleep(1)
    for each in slow:
        each.settimeout(TIMEOUT)
        assert each.recv(100) == b""
    assert 15 < time.monotonic() - opened < 40
    assert wait_until_closed(refused, opened + 40)


def wait_until_closed(connection: socket.socket, deadline: float) -> bool:
    """Send more until the other end has closed the connection; return whether it has."""
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < deadline:
            connection.sendall(b"more")
            time.sleep(0.1)
        return False
    return True


def test_azures_own_client_learns_that_a_body_of_200_mb_is_too_large(keyed: Server) -> None:
    models = pytest.importorskip("azure.cognitiveservices.vision.customvision.prediction.models")
    with pytest.raises(models.CustomVisionErrorException, match="larger than the limit of 4194304 bytes"):
        client(keyed).classify_image(PROJECT, NAME, bytes(200 << 20))


def memory_of(server: Server) -> int:
    """Return the memory of a server in MB."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) >> 10


def test_images_that_decode_slowly_hold_up_nobody_and_leave_no_memory(server: Server) -> None:
    content, before = slow_image(), memory_of(server)
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(server.post, "/predict", content) for _ in range(3)]
        time.sleep(0.3)
        quick = server.post("/predict", jpeg())
        assert quick.status_code == 200
        assert not any(future.done() for future in slow)
        assert all(future.result().status_code == 200 for future in slow)
    assert memory_of(server) < before + 300


def test_sigterm_answers_what_is_at_work_and_then_ends(tmp_path: Path) -> None:
    with serving(MODEL) as server, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.post, "/predict", slow_image())
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert slow.result().status_code == 200
        assert server.process.wait(TIMEOUT) == 0
        with pytest.raises(httpx.ConnectError):
            server.get("/healthz")


@pytest.mark.slow
def test_a_checkpoint_that_changes_is_loaded_again_and_no_request_fails(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(MODEL, folder)
    bundle = json.loads((folder / "tagger.json").read_text())

    def replace_bundle(text: str) -> None:
        (tmp_path / "new").write_text(text)
        os.replace(tmp_path / "new", folder / "tagger.json")

    with serving(folder) as server, ThreadPoolExecutor(1) as pool:
        before = server.get("/models").json()["models"][0]["model_id"]
        stop = threading.Event()

        def hammer() -> list[httpx.Response]:
            found = []
            while not stop.is_set():
                found.append(server.post("/predict", jpeg()))
            return found

        answers = pool.submit(hammer)
        try:
            replace_bundle(json.dumps(bundle | {"calibration": {"temperature": 2.0}}))
            wait_until(lambda: server.get("/models").json()["models"][0]["model_id"] != before, server.process)
            replace_bundle("junk")
            time.sleep(2)
            shutil.rmtree(folder)
            time.sleep(2)
        finally:
            stop.set()
        assert {answer.status_code for answer in answers.result()} == {200}
        assert len({answer.json()["model_id"] for answer in answers.result()}) == 2
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(TIMEOUT)
        assert server.process.stderr
        said = server.process.stderr.read()
    assert "not valid JSON" in said
    assert "no longer exists; still serving the loaded model" in said


# --- the page ---------------------------------------------------------------------------------------------------------


def test_an_image_dropped_on_the_page_shows_its_tags(browser: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    (tmp_path / "text.jpg").write_text("no image")
    tab = browser.new_page()
    messages: list[str] = []
    fetched: list[str] = []
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: fetched.append(request.url))
    tab.goto(server.url)
    tab.locator("option").first.wait_for(state="attached")
    tab.locator("#drop input").set_input_files(tmp_path / "cat.jpg")
    tab.locator("#tags tr").nth(4).wait_for()
    top = tab.locator("#tags tr").first.inner_text()
    tab.locator("#drop input").set_input_files(tmp_path / "text.jpg")
    tab.get_by_text("unsupported: ").wait_for()
    tab.close()
    assert top.split()[0] == server.post("/predict", jpeg()).json()["top_tag"]
    assert messages == []
    assert all(url.startswith((server.url, "blob:", "data:")) for url in fetched)


def test_the_page_takes_a_key_where_one_is_needed(browser: Any, keyed: Server) -> None:
    tab = browser.new_page()
    tab.goto(keyed.url)
    tab.get_by_label("Key").fill(KEY)
    tab.get_by_label("Key").press("Enter")
    tab.locator("option").nth(1).wait_for(state="attached")
    assert tab.locator("option").all_inner_texts() == [NAME, "tiny"]
    tab.close()


# --- starting ---------------------------------------------------------------------------------------------------------


def test_a_server_that_the_network_reaches_without_a_key_says_so() -> None:
    with serving(MODEL, "--host", "0.0.0.0") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(TIMEOUT) == 0
        assert server.process.stderr
        assert "anyone who can reach 0.0.0.0 can use this server" in server.process.stderr.read()


def test_what_cannot_be_served_is_one_line(run_tagger: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, message in (
            (["nowhere"], "nowhere: no such checkpoint"),
            ([], "give a model to serve, or a folder of projects with --projects"),
            ([MODEL, "--port", port], f"--host 127.0.0.1 --port {port}: cannot listen there"),
            ([MODEL, "--port", 0, "--key-file", tmp_path / "keys"], "is empty; write one key per line"),
            ([MODEL, "--port", 0, "--key-file", tmp_path / "none"], "none: cannot be read"),
            (
                [MODEL, MODEL, "--port", 0],
                "two models are named cifar10-speedrun; rename one with NAME=MODEL",
            ),
            (["other=nowhere"], "nowhere: no such checkpoint"),
            ([MODEL, "--port", 0, "--max-body", 0], "--max-body"),
        ):
            ran = run_tagger("serve", *arguments)
            assert ran.returncode in (1, 2), arguments
            assert message in ran.stderr
            assert "Traceback" not in ran.stderr


def test_a_missing_package_names_the_extra() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None; from tagger.cli import main; main()"
    ran = subprocess.run([sys.executable, "-c", code, "serve", MODEL], capture_output=True, text=True, timeout=TIMEOUT)
    assert ran.returncode == 1
    assert ran.stderr == "tagger: tagger serve needs the package prometheus_client: pip install 'tagger[serve]'\n"
