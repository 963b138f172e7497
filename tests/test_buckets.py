"""Azure Blob Storage and Google Cloud Storage, by their emulators on this machine: the same rows as from a folder."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec.config
import pytest
from pictures import photo
from processes import free_port, started, wait_until
from test_archives import by_image, pack
from test_tagging import run

import tagger
from tagger.errors import SourceNotFound

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # the emulator speaks no gRPC
AZURITE = Path(__file__).parents[1] / ".venv" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # of every Azurite
NAMES = ["a.jpg", "deep/er/ü ß.jpg", "deep/100%.jpg", "deep/no image.jpg", "notes.txt", ".hidden.jpg"]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Options of adlfs for an emulator."""
    pytest.importorskip("adlfs")
    if not AZURITE.exists() or not shutil.which("node"):
        pytest.skip("no Azurite: make .venv/.azurite installs it where npm is there")
    port, folder = free_port(), tmp_path_factory.mktemp("azurite")
    command = [AZURITE, "--blobPort", str(port), "--location", folder, "--silent", "--skipApiVersionCheck"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: answers(port), process)
            endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
            string = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"
            yield {"AZURE_STORAGE_CONNECTION_STRING": string}
        finally:
            process.kill()


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Environment of gcsfs for an emulator."""
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    port, folder = free_port(), tmp_path_factory.mktemp("gcs")
    options = ("start", "--host", "127.0.0.1", "--port", port, "--in-memory", "--no-store-on-disk")
    with (
        (folder / "log").open("w") as log,
        started("gcp_storage_emulator", *options, stdout=log, stderr=log) as process,
    ):
        wait_until(lambda: answers(port), process)
        yield {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}


@pytest.fixture(params=["az", "gs"])
def container(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty container, to which this process has credentials."""
    scheme = request.param
    for name, value in request.getfixturevalue({"az": "azure", "gs": "google"}[scheme]).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    fs = fsspec.filesystem(scheme)
    name = f"test{os.urandom(4).hex()}"
    fs.mkdir(name)
    yield f"{scheme}://{name}"
    type(fs).clear_instance_cache()


def put(container: str, names: list[str], content: Callable[[int], bytes]) -> None:
    scheme, _, root = container.partition("://")
    fs = fsspec.filesystem(scheme)
    for number, name in enumerate(names):
        fs.pipe_file(f"{root}/{name}", content(number))


def jpeg(number: int) -> bytes:
    sink = io.BytesIO()
    photo(number, (100 + number, 80)).save(sink, "JPEG")
    return b"no image" if number == 3 else sink.getvalue()


def test_a_container_is_tagged_into_a_container_and_again_only_what_is_new(container: str) -> None:
    put(container, [f"photos/{name}" for name in NAMES], jpeg)
    summary = run(f"{container}/photos", f"{container}/results", shard_size=2)
    assert (summary.tagged, summary.failed) == (3, {"unsupported": 1})
    assert set(tagger.read_results(f"{container}/results")["uri"]) == {f"{container}/photos/{n}" for n in NAMES[:4]}
    put(container, ["photos/new.jpg"], lambda number: jpeg(9))
    again = run(f"{container}/photos", f"{container}/results")
    assert (again.tagged, again.done_before) == (1, 4)


@pytest.mark.parametrize("kind", ["x.tar", "x.zip", "x.parquet"])
def test_an_archive_in_a_container_gives_the_rows_of_its_files(container: str, tmp_path: Path, kind: str) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(6):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(jpeg(number))
    content = pack(tmp_path / "photos", tmp_path / kind).read_bytes()
    put(container, [f"archives/{kind}"], lambda number: content)
    run(f"{container}/archives", tmp_path / "out")
    run(tmp_path / "photos", tmp_path / "local")
    assert by_image(tmp_path / "out") == by_image(tmp_path / "local")


def test_a_missing_container_or_prefix_is_one_error(container: str, tmp_path: Path) -> None:
    for source in (f"{container}-none/photos", f"{container}/none"):
        with pytest.raises(SourceNotFound, match="not found"):
            run(source, tmp_path / "out")
