"""A real S3 server on this machine: sources, results, and credentials that are refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from pictures import MODEL, photo

from tagger import storage
from tagger.errors import SourceNotFound
from tagger.storage import objects, stores

Run = Callable[..., subprocess.CompletedProcess[str]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, "the S3 server died"
        time.sleep(0.1)
    yield url
    process.terminate()
    process.wait()


@pytest.fixture
def environment(server: str, tmp_path: Path) -> dict[str, str]:
    keep = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    return keep | {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }


@pytest.fixture
def bucket(server: str, environment: dict[str, str], request: pytest.FixtureRequest) -> str:
    client = boto3.client(
        "s3", endpoint_url=server, aws_access_key_id="testing", aws_secret_access_key="x", region_name="us-east-1"
    )
    name = request.node.name.replace("_", "-").replace("[", "").replace("]", "")[:60].strip("-")
    client.create_bucket(Bucket=name)
    import io

    for index in range(12):
        sink = io.BytesIO()
        photo(index).save(sink, "JPEG")
        key = f"photos/{'sub/' if index % 2 else ''}{index}.jpg"
        client.put_object(Bucket=name, Key=key, Body=sink.getvalue())
    client.put_object(Bucket=name, Key="photos/odd name%41+ü.jpg", Body=b"junk")
    client.put_object(Bucket=name, Key="photos/notes.txt", Body=b"x")
    client.put_object(Bucket=name, Key="photos/", Body=b"")
    return name


def test_a_bucket_is_tagged_into_a_bucket_and_again_only_what_is_new(
    run_tagger: Run, bucket: str, environment: dict[str, str]
) -> None:
    source, out = f"s3://{bucket}/photos", f"s3://{bucket}/results"

    def tag() -> dict[str, Any]:
        ran = run_tagger("tag", source, "--model", MODEL, "--out", out, "--shard-size", 5, "--json", env=environment)
        assert ran.returncode == 0, ran.stderr
        summary: dict[str, Any] = json.loads(ran.stdout)
        return summary

    first = tag()
    assert (first["found"], first["tagged"], first["failed"], first["parts"]) == (13, 12, {"unsupported": 1}, 3)
    assert first["skipped"] == {"not an image": 1}
    second = tag()
    assert (second["tagged"], second["done_before"]) == (0, 13)
    sql = "SELECT uri, etag IS NOT NULL AS has_etag, modified_at IS NOT NULL AS has_time FROM images ORDER BY uri"
    ran = run_tagger("query", out, sql, "--format", "json", env=environment)
    rows = json.loads(ran.stdout)
    assert rows[0]["uri"] == f"{source}/0.jpg"
    assert f"{source}/odd name%41+ü.jpg" in [row["uri"] for row in rows]
    assert all(row["has_etag"] and row["has_time"] for row in rows)


def test_a_manifest_a_glob_and_a_list_name_the_same_objects(
    run_tagger: Run, bucket: str, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(f"s3://{bucket}/photos/0.jpg\ns3://{bucket}/photos/missing.jpg\n")
    for source, found in (
        (f"s3://{bucket}/photos/*.jpg", 7),
        (tmp_path / "list.txt", 2),
        (f"s3://{bucket}/photos/0.jpg", 1),
    ):
        ran = run_tagger("ingest", source, "--out", f"s3://{bucket}/m.parquet", "--json", env=environment)
        assert json.loads(ran.stdout)["found"] == found, ran.stderr
    (tmp_path / "m").mkdir()
    ran = run_tagger("ingest", tmp_path / "list.txt", "--out", tmp_path / "m.parquet", env=environment)
    ran = run_tagger(
        "tag", tmp_path / "m.parquet", "--model", MODEL, "--out", tmp_path / "o", "--json", env=environment
    )
    assert json.loads(ran.stdout)["failed"] == {"unreadable": 1}


def test_labels_of_a_bucket_lie_beside_its_images(
    run_tagger: Run, bucket: str, server: str, environment: dict[str, str], tmp_path: Path
) -> None:
    client = boto3.client(
        "s3", endpoint_url=server, aws_access_key_id="testing", aws_secret_access_key="x", region_name="us-east-1"
    )
    source = f"s3://{bucket}/photos"
    metadata = f"file_name,label\n0.jpg,cat\nsub/1.jpg,dog\n{source}/2.jpg,cat\nodd name%41+ü.jpg,owl\n"
    client.put_object(Bucket=bucket, Key="photos/metadata.csv", Body=metadata.encode())
    for options in ([], ["--labels", f"{source}/metadata.csv"], ["--labels", source]):
        ran = run_tagger("ingest", source, *options, "--out", tmp_path / "m.parquet", "--json", env=environment)
        assert ran.returncode == 0, ran.stderr
        counts = json.loads(ran.stdout)
        assert counts["labels"]["classes"] == {"cat": 2, "dog": 1, "owl": 1}
        assert counts["warnings"] == []


def test_a_missing_bucket_or_prefix_is_an_error(run_tagger: Run, bucket: str, environment: dict[str, str]) -> None:
    for source in ("s3://no-such-bucket-here/x", f"s3://{bucket}/nothing/here"):
        ran = run_tagger("ingest", source, "--out", "/tmp/never.parquet", env=environment)
        assert ran.returncode == 1
        assert source in ran.stderr
        assert ran.stderr.count("\n") == 1


def test_missing_credentials_are_one_error_without_a_row(
    run_tagger: Run, bucket: str, environment: dict[str, str], tmp_path: Path
) -> None:
    manifest = tmp_path / "m.parquet"
    assert run_tagger("ingest", f"s3://{bucket}/photos", "--out", manifest, env=environment).returncode == 0
    bare = {key: value for key, value in environment.items() if "ACCESS_KEY" not in key} | {
        "AWS_EC2_METADATA_DISABLED": "true"
    }
    for source in (f"s3://{bucket}/photos", manifest):
        ran = run_tagger("tag", source, "--model", MODEL, "--out", tmp_path / "out", env=bare)
        assert ran.returncode == 1, ran.stdout
        assert "refused the credentials" in ran.stderr
        assert ran.stderr.count("\n") == 1, ran.stderr
    assert not list(tmp_path.glob("out/*.parquet"))


def test_wrong_credentials_are_one_error_that_does_not_show_them(
    run_tagger: Run, server: str, bucket: str, environment: dict[str, str], tmp_path: Path
) -> None:
    import urllib.request

    manifest = tmp_path / "m.parquet"
    assert run_tagger("ingest", f"s3://{bucket}/photos", "--out", manifest, env=environment).returncode == 0

    def check_credentials(after: int) -> None:
        url, kind = f"{server}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(url, data=str(after).encode(), method="POST", headers=kind)
        urllib.request.urlopen(request).read()

    check_credentials(0)
    try:
        wrong = environment | {"AWS_ACCESS_KEY_ID": "AKIAWRONG", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
        for source in (f"s3://{bucket}/photos", manifest):
            ran = run_tagger("tag", source, "--model", MODEL, "--out", tmp_path / "out", env=wrong)
            assert ran.returncode == 1, ran.stdout
            assert "refused the credentials" in ran.stderr or "permission denied" in ran.stderr, ran.stderr
            assert "hush-hush" not in ran.stderr + ran.stdout
            assert ran.stderr.count("\n") == 1, ran.stderr
        assert not list(tmp_path.glob("out/*.parquet"))
    finally:
        check_credentials(10**9)


def test_images_behind_http_are_tagged_and_signatures_stay_out_of_the_table(
    run_tagger: Run, server: str, bucket: str, environment: dict[str, str], tmp_path: Path
) -> None:
    client = boto3.client(
        "s3", endpoint_url=server, aws_access_key_id="testing", aws_secret_access_key="x", region_name="us-east-1"
    )
    params = {"Bucket": bucket, "Key": "photos/0.jpg"}
    signed = client.generate_presigned_url("get_object", Params=params)
    assert "Signature" in signed
    (tmp_path / "urls.txt").write_text(f"{signed}\n{server}/{bucket}/photos/none.jpg\n")
    ran = run_tagger(
        "tag", tmp_path / "urls.txt", "--model", MODEL, "--out", tmp_path / "out", "--json", env=environment
    )
    assert ran.returncode == 0, ran.stderr
    assert (json.loads(ran.stdout)["tagged"], json.loads(ran.stdout)["failed"]) == (1, {"unreadable": 1})
    written = b"".join(path.read_bytes() for path in tmp_path.glob("out/**/*") if path.is_file())
    assert b"Signature" not in written
    shown = run_tagger("query", tmp_path / "out", "SELECT uri FROM images ORDER BY uri", "--format", "csv").stdout
    assert f"{server}/{bucket}/photos/0.jpg" in shown
    assert "Signature" not in shown


AWKWARD = (
    "plain/a.jpg", "with space.jpg", "a+b=c&d.jpg", "50%25 off.jpg", "größe/ñ.jpg", "#1.jpg", "two//slashes.jpg",
)  # fmt: skip


def test_objects_are_read_alike_with_and_without_obstore(
    bucket: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{bucket}/"
    stores.filesystem(url)[0].clear_instance_cache()  # one that was made with other credentials
    fs, _ = stores.filesystem(url)
    for key in AWKWARD:
        fs.pipe_file(f"{bucket}/{key}", key.encode())
    reads: list[str] = []
    honest = fs.cat_file

    def counted(path: str) -> Any:
        reads.append(path)
        return honest(path)

    monkeypatch.setattr(fs, "cat_file", counted)
    assert [storage.read_bytes(url + key).decode() for key in AWKWARD] == list(AWKWARD)
    assert reads == [f"{bucket}/two//slashes.jpg"], "what obstore cannot name, s3fs reads"
    reads.clear()
    with pytest.raises(SourceNotFound, match=r"none\.jpg: not found"):
        storage.read_bytes(url + "none.jpg")
    assert reads == [f"{bucket}/none.jpg"], "s3fs says what is wrong"
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    objects._open.cache_clear()
    reads.clear()
    assert [storage.read_bytes(url + key).decode() for key in AWKWARD] == list(AWKWARD)
    assert len(reads) == len(AWKWARD)
    objects._open.cache_clear()
