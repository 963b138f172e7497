"""A real S3 server on this machine: sources, results, and credentials that are refused."""

from __future__ import annotations

import http.client
import http.server
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import s3fs
from pictures import MODEL, photo
from processes import TIMEOUT, free_port, started, wait_until
from test_archives import KINDS, by_image, pack
from test_tagging import run

import tagger
from benchmarks import s3
from tagger import storage
from tagger.errors import SourceError, SourceNotFound
from tagger.storage import stores
from tagger.tagging import run as job
from tagger.tagging.config import TagConfig

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    with log, started("moto.server", "-H", "127.0.0.1", "-p", port, stdout=log, stderr=log) as process:
        wait_until(answers, process)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def client(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server, to which this process and those that it starts have credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    environment = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # of tests without credentials
    return boto3.client("s3")


@pytest.fixture
def bucket(client: Any, request: pytest.FixtureRequest) -> str:
    name = re.sub("[^a-z0-9]+", "-", request.node.name)[-60:].strip("-")
    client.create_bucket(Bucket=name)
    for index in range(12):
        sink = io.BytesIO()
        photo(index).save(sink, "JPEG")
        key = f"photos/{'sub/' if index % 2 else ''}{index}.jpg"
        client.put_object(Bucket=name, Key=key, Body=sink.getvalue())
    client.put_object(Bucket=name, Key="photos/odd name%41+ü.jpg", Body=b"junk")
    client.put_object(Bucket=name, Key="photos/notes.txt", Body=b"x")
    client.put_object(Bucket=name, Key="photos/", Body=b"")
    return name


def test_a_bucket_is_tagged_into_a_bucket_and_again_only_what_is_new(run_tagger: Run, bucket: str) -> None:
    source, out = f"s3://{bucket}/photos", f"s3://{bucket}/results"
    ran = run_tagger("tag", source, "--model", MODEL, "--out", out, "--shard-size", 5, "--json")
    assert ran.returncode == 0, ran.stderr
    first = json.loads(ran.stdout)
    assert (first["found"], first["tagged"], first["failed"], first["parts"]) == (13, 12, {"unsupported": 1}, 3)
    assert first["skipped"] == {"not an image": 1}
    second = tagger.tag(source, MODEL, out)
    assert (second.tagged, second.done_before) == (0, 13)
    sql = "SELECT uri, etag IS NOT NULL AS has_etag, modified_at IS NOT NULL AS has_time FROM images ORDER BY uri"
    rows = tagger.query(out, sql).to_pylist()
    assert rows[0]["uri"] == f"{source}/0.jpg"
    assert f"{source}/odd name%41+ü.jpg" in [row["uri"] for row in rows]
    assert all(row["has_etag"] and row["has_time"] for row in rows)


def test_every_key_gets_a_row_whatever_its_slashes_and_dots(bucket: str, client: Any, tmp_path: Path) -> None:
    keys = [f"deep/{middle}/{name}.jpg" for middle in ("", "a//b", ".", "..", "../x") for name in "xy"]
    for key in [*keys, "deep/.hidden/x.jpg"]:
        client.put_object(Bucket=bucket, Key=key, Body=b"junk")
    summary = run(f"s3://{bucket}/deep", tmp_path / "out", max_failed="100%")
    assert (summary.failed, summary.skipped) == ({"unsupported": len(keys)}, {"hidden": 1})
    assert set(tagger.read_results(tmp_path / "out")["uri"]) == {f"s3://{bucket}/{key}" for key in keys}


def test_a_prefix_of_more_than_one_page_is_listed_whole(bucket: str, client: Any) -> None:
    for number in range(1100):
        client.put_object(Bucket=bucket, Key=f"many/{number}/x.jpg", Body=b"junk")
    assert sum(1 for _ in storage.find_images(f"s3://{bucket}/many")) == 1100


@pytest.fixture
def stuck_server(server: str) -> Iterator[str]:
    """The server, but it never answers a request for the content of an object named stuck."""
    target, ended = server.removeprefix("http://"), threading.Event()

    class Proxy(http.server.BaseHTTPRequestHandler):
        def forward(self) -> None:
            if "stuck" in self.path and "list-type" not in self.path and self.command == "GET":
                ended.wait(60)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            upstream = http.client.HTTPConnection(target, timeout=30)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

        def log_message(self, *_: object) -> None:
            pass

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{proxy.server_port}"
    ended.set()
    proxy.shutdown()


@pytest.mark.parametrize("workers", [0, 2])
def test_reads_that_are_never_answered_cost_two_rows_and_not_the_run(
    bucket: str, client: Any, stuck_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    for key in ("photos/0-stuck.jpg", "photos/sub/5-stuck.jpg"):
        client.put_object(Bucket=bucket, Key=key, Body=b"never seen")
    monkeypatch.setenv("AWS_ENDPOINT_URL", stuck_server)
    s3fs.S3FileSystem.clear_instance_cache()
    started = time.monotonic()
    summary = run(f"s3://{bucket}/photos", tmp_path / "out", read_timeout=2, workers=workers)
    assert time.monotonic() - started < 50
    assert (summary.tagged, summary.failed["unreadable"]) == (12, 2)
    errors = [row["error"] for _, row in tagger.read_results(tmp_path / "out").iterrows() if "stuck" in row["uri"]]
    assert errors == ["no response within 2 s"] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_in_a_bucket_gives_the_rows_of_its_files(
    bucket: str, client: Any, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(12):
        photo(index).save(tmp_path / "photos" / f"{index:02d}.jpg")
    client.upload_file(str(pack(tmp_path / "photos", tmp_path / kind)), bucket, f"archives/{kind}")
    run(tmp_path / "photos", tmp_path / "local")
    assert run(f"s3://{bucket}/archives", tmp_path / "out").tagged == 12
    assert by_image(tmp_path / "out") == by_image(tmp_path / "local")


def test_a_manifest_a_glob_and_a_list_name_the_same_objects(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"s3://{bucket}/photos/0.jpg\ns3://{bucket}/photos/missing.jpg\n")
    for source, found in (
        (f"s3://{bucket}/photos/*.jpg", 7),
        (f"s3://{bucket}/photos/0.jpg", 1),
        (tmp_path / "list.txt", 2),
    ):
        assert len(tagger.ingest(source, f"s3://{bucket}/m.parquet")) == found
    assert tagger.tag(f"s3://{bucket}/m.parquet", MODEL, tmp_path / "out").failed == {"unreadable": 1}


def test_labels_of_a_bucket_lie_beside_its_images(bucket: str, client: Any, tmp_path: Path) -> None:
    source = f"s3://{bucket}/photos"
    metadata = f"file_name,label\n0.jpg,cat\nsub/1.jpg,dog\n{source}/2.jpg,cat\nodd name%41+ü.jpg,owl\n"
    client.put_object(Bucket=bucket, Key="photos/metadata.csv", Body=metadata.encode())
    for labels in (None, f"{source}/metadata.csv", source):
        counts = tagger.ingest(source, tmp_path / "m.parquet", labels=labels).counts()
        assert counts["labels"]["classes"] == {"cat": 2, "dog": 1, "owl": 1}
        assert counts["warnings"] == []


def test_a_missing_bucket_or_prefix_is_an_error(bucket: str, tmp_path: Path) -> None:
    for source in ("s3://no-such-bucket-here/x", f"s3://{bucket}/nothing/here"):
        with pytest.raises(SourceNotFound, match=source):
            tagger.ingest(source, tmp_path / "m.parquet")


def assert_refused(run_tagger: Run, bucket: str, tmp_path: Path) -> None:
    """Tag a bucket and a manifest of its objects: each time one error and no row."""
    for source in (f"s3://{bucket}/photos", tmp_path / "m.parquet"):
        ran = run_tagger("tag", source, "--model", MODEL, "--out", tmp_path / "out")
        assert ran.returncode == 1, ran.stdout
        assert "refused the credentials" in ran.stderr or "permission denied" in ran.stderr, ran.stderr
        assert "hush-hush" not in ran.stderr + ran.stdout
        assert ran.stderr.count("tagger: ") == 1, ran.stderr
    assert not list(tmp_path.glob("out/*.parquet"))


def test_missing_credentials_are_one_error_without_a_row(
    run_tagger: Run, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tagger.ingest(f"s3://{bucket}/photos", tmp_path / "m.parquet")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert_refused(run_tagger, bucket, tmp_path)


def test_a_store_that_cannot_be_reached_for_a_while_costs_no_row(
    server: str, bucket: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # it would wait for 10 s itself
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    source, port = f"s3://{bucket}/photos", int(server.rpartition(":")[2])
    with s3.proxy(port) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{front}")
        s3fs.S3FileSystem.clear_instance_cache()
        planned = job.prepare(source, MODEL, f"s3://{bucket}/out", TagConfig(shard_size=4))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: job.run_shards(planned, range(planned.shards)))
        deadline = time.monotonic() + TIMEOUT
        while "cannot be reached" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.1)
        with s3.proxy(port, port=front):
            counts = running.result(TIMEOUT)
    assert counts.statuses == [{"ok": 12, "unsupported": 1}]


def test_a_store_that_never_answered_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    s3fs.S3FileSystem.clear_instance_cache()
    started = time.monotonic()
    with pytest.raises(SourceError, match="s3://nowhere/photos"):
        tagger.ingest("s3://nowhere/photos", tmp_path / "m.parquet")
    assert time.monotonic() - started < 10


def test_wrong_credentials_are_one_error_that_does_not_show_them(
    run_tagger: Run, server: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_credentials(after: int) -> None:
        url, kind = f"{server}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, data=str(after).encode(), method="POST", headers=kind)
        urllib.request.urlopen(request, timeout=TIMEOUT).read()

    tagger.ingest(f"s3://{bucket}/photos", tmp_path / "m.parquet")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    check_credentials(0)
    try:
        assert_refused(run_tagger, bucket, tmp_path)
    finally:
        check_credentials(10**9)


def test_images_behind_http_are_tagged_and_signatures_stay_out_of_the_table(
    server: str, bucket: str, client: Any, tmp_path: Path
) -> None:
    params = {"Bucket": bucket, "Key": "photos/0.jpg"}
    signed = client.generate_presigned_url("get_object", Params=params)
    assert "Signature" in signed
    (tmp_path / "urls.txt").write_text(f"{signed}\n{server}/{bucket}/photos/none.jpg\n")
    summary = tagger.tag(tmp_path / "urls.txt", MODEL, tmp_path / "out")
    assert (summary.tagged, summary.failed) == (1, {"unreadable": 1})
    written = b"".join(path.read_bytes() for path in tmp_path.glob("out/**/*") if path.is_file())
    assert b"Signature" not in written
    shown = tagger.read_results(tmp_path / "out")["uri"]
    assert list(shown) == [f"{server}/{bucket}/photos/0.jpg", f"{server}/{bucket}/photos/none.jpg"]


AWKWARD = (
    "plain/a.jpg", "with space.jpg", "a+b=c&d.jpg", "50%25 off.jpg", "größe/ñ.jpg", "#1.jpg", "two//slashes.jpg",
)  # fmt: skip


@pytest.mark.parametrize("obstore", [True, False])
def test_objects_are_read_alike_with_and_without_obstore(
    bucket: str, monkeypatch: pytest.MonkeyPatch, obstore: bool
) -> None:
    if not obstore:
        monkeypatch.setitem(sys.modules, "obstore.store", None)
    url = f"s3://{bucket}/"
    fs, _ = stores.filesystem(url)
    for key in AWKWARD:
        fs.pipe_file(f"{bucket}/{key}", key.encode())
    reads: list[str] = []
    honest = fs._cat_file

    async def counted(path: str) -> Any:
        reads.append(path)
        return await honest(path)

    monkeypatch.setattr(fs, "_cat_file", counted)
    assert [storage.read_bytes(url + key).decode() for key in AWKWARD] == list(AWKWARD)
    by_s3fs = ["two//slashes.jpg"] if obstore else AWKWARD  # what obstore cannot name, s3fs reads
    assert reads == [f"{bucket}/{key}" for key in by_s3fs]
    with pytest.raises(SourceNotFound, match=r"none\.jpg: not found"):  # s3fs finds what is wrong
        storage.read_bytes(url + "none.jpg")


def test_a_review_shows_images_of_a_bucket_from_results_in_a_bucket(bucket: str) -> None:
    from tagger.reviewing.images import Query, open_images
    from tagger.reviewing.thumbnails import thumbnail

    tagger.tag(f"s3://{bucket}/photos", MODEL, f"s3://{bucket}/out")
    with open_images(f"s3://{bucket}/out") as images:
        shown = images.page(Query())
        assert len(shown) == 12
        assert thumbnail(shown[0]["uri"], shown[0]["image_id"]).startswith(b"\xff\xd8")
