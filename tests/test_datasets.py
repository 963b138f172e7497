"""CIFAR-10 is read from every place users have it, and what is broken is named."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from pictures import photo

from tagger.data import cifar10, download
from tagger.data.arrays import LabelledImages, read_class_folders
from tagger.data.download import Download, fetch
from tagger.errors import SourceError, SourceNotFound, WriteError

PER_BATCH = 20


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 did, in the official files."""

    def save_python2_string(self, value: str | bytes) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        self.memoize(value)

    dispatch: ClassVar[Any] = {**pickle._Pickler.dispatch, bytes: save_python2_string, str: save_python2_string}


def python2_pickle(value: Any) -> bytes:
    sink = io.BytesIO()
    Python2Pickler(sink, protocol=2).dump(value)
    return sink.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
    return {"batch_label": "x", "labels": [i % 10 for i in range(PER_BATCH)], "data": pixels, "filenames": ["a.png"]}


def official(folder: Path, write: Callable[[Any], bytes] = python2_pickle) -> Path:
    """The layout of the unpacked official archive, with fewer images."""
    folder.mkdir(parents=True)
    for number, name in enumerate(cifar10._BATCH_FILES[:6]):
        (folder / name).write_bytes(write(batch(number)))
    (folder / "batches.meta").write_bytes(write({"label_names": list(cifar10.LABEL_NAMES), "num_vis": 3072}))
    return folder


def packed(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
        tar.add(folder, folder.name)
    return archive


def class_folders(root: Path, per_class: int = 2) -> Path:
    for split in ("train", "test"):
        for label, name in enumerate(cifar10.LABEL_NAMES):
            (root / split / name).mkdir(parents=True)
            for index in range(per_class):
                seed = 100 * label + index + (5000 if split == "test" else 0)
                photo(seed, (32, 32)).save(root / split / name / f"{index:04}.png")
    return root


def same(one: LabelledImages, other: LabelledImages) -> bool:
    return bool(np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels))


@pytest.mark.parametrize("write", [python2_pickle, lambda value: pickle.dumps(value, protocol=3)])
def test_the_official_batches_are_read_as_they_are(tmp_path: Path, write: Callable[[Any], bytes]) -> None:
    folder = official(tmp_path / "cifar-10-batches-py", write)
    train, test = cifar10.read(str(folder))
    assert train.images.shape == (5 * PER_BATCH, 32, 32, 3)
    assert train.images.dtype == np.uint8
    assert train.label_names == cifar10.LABEL_NAMES
    rows = batch(5)["data"]  # the test batch: red plane, green plane, blue plane
    assert np.array_equal(test.images[3, :, :, 1].ravel(), rows[3, 1024:2048])
    assert np.array_equal(train.images[PER_BATCH + 1, :, :, 2].ravel(), batch(1)["data"][1, 2048:])
    assert test.labels.tolist() == batch(5)["labels"]


def test_parent_folder_archive_and_batches_are_the_same(tmp_path: Path) -> None:
    folder = official(tmp_path / "data" / "cifar-10-batches-py")
    train, test = cifar10.read(str(folder))
    for place in (folder.parent, packed(folder, tmp_path / "a.tar.gz"), packed(folder, tmp_path / "a.tar")):
        again = cifar10.read(str(place))
        assert same(train, again[0])
        assert same(test, again[1])


def test_class_folders_and_their_archive_are_the_same_in_the_order_of_names(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "copy")
    archive = packed(root, tmp_path / "copy.tar.gz")
    train, test = cifar10.read(str(root))
    again = cifar10.read(str(archive))
    assert same(train, again[0])
    assert same(test, again[1])
    assert train.labels.tolist() == sorted(train.labels.tolist())
    assert np.array_equal(train.images[2], np.asarray(photo(100, (32, 32))))
    assert same(train, read_class_folders(str(root / "train"), (32, 32)))
    assert not train.lossy
    picture = root / "train" / "frog" / "0000.png"
    photo(1, (32, 32)).save(picture.with_suffix(".jpg"))
    picture.unlink()
    assert cifar10.read(str(root))[0].lossy


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run!",)


def test_a_pickle_that_asks_for_anything_else_is_refused_unrun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = official(tmp_path / "batches")
    (folder / "data_batch_3").write_bytes(pickle.dumps(batch(2) | {"labels": Evil()}))
    with pytest.raises(SourceError, match=r"data_batch_3: asks for builtins\.print") as caught:
        cifar10.read(str(folder))
    assert "not run" in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "test_batch missing"),
        (b"junk", "test_batch: is not a CIFAR-10 batch"),
        (python2_pickle(batch(5))[:-900], "test_batch: is not a CIFAR-10 batch"),
        (pickle.dumps([1, 2]), "test_batch: is not a CIFAR-10 batch"),
        (python2_pickle({"fine_labels": [1]}), "has no data and labels"),
        (python2_pickle(batch(5) | {"labels": [1, 2]}), r"\(20, 3072\) and 2 labels"),
        (python2_pickle(batch(5) | {"labels": [10] * PER_BATCH}), "label 10 is not one of 0 to 9"),
        (python2_pickle(batch(5) | {"data": np.zeros((PER_BATCH, 3072))}), "an array of f8, not of bytes"),
    ],
)
def test_a_broken_batch_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    folder = official(tmp_path / "batches")
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        cifar10.read(str(folder))


def test_classes_of_another_dataset_are_refused(tmp_path: Path) -> None:
    folder = official(tmp_path / "batches")
    (folder / "batches.meta").write_bytes(python2_pickle({"label_names": ["apple", "bear"]}))
    with pytest.raises(SourceError, match=r"its classes are \['apple', 'bear'\]"):
        cifar10.read(str(folder))
    root = class_folders(tmp_path / "copy", 1)
    (root / "test" / "truck").rename(root / "test" / "lorry")
    with pytest.raises(SourceError, match=r"test: not CIFAR-10's classes: unknown \['lorry'\], missing \['truck'\]"):
        cifar10.read(str(root))


def test_other_sizes_and_corrupt_images_are_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "copy", 1)
    photo(1, (48, 40)).save(root / "train" / "frog" / "0000.png")
    with pytest.raises(SourceError, match=r"train/frog/0000\.png: is 48x40 pixels, CIFAR-10's are 32x32"):
        cifar10.read(str(root))
    (root / "train" / "frog" / "0000.png").write_bytes(b"\x89PNG junk")
    with pytest.raises(SourceError, match=r"train/frog/0000\.png: .*replace it"):
        cifar10.read(str(packed(root, tmp_path / "copy.tar.gz")))


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.999])
def test_a_truncated_archive_is_said_to_be_damaged(tmp_path: Path, kept: float) -> None:
    archive = packed(official(tmp_path / "batches"), tmp_path / "a.tar.gz")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(SourceError, match=r"a\.tar\.gz: the archive is truncated or damaged"):
        cifar10.read(str(archive))


def test_what_is_not_cifar10_says_what_data_takes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    packed(tmp_path / "empty", tmp_path / "empty.tar")
    for place, error in (("none", SourceNotFound), ("empty", SourceError), ("empty.tar", SourceError)):
        with pytest.raises(error, match="--data takes cifar-10-python"):
            cifar10.read(str(tmp_path / place))


def test_a_path_that_climbs_out_of_its_archive_writes_nothing(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "in" / "copy", 1)
    archive = tmp_path / "in" / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(root, "copy")
        tar.add(root / "train" / "cat" / "0000.png", "../../train/cat/escaped.png")
    before = sorted(tmp_path.rglob("*"))
    train, _ = cifar10.read(str(archive))
    assert len(train.images) == 11
    assert sorted(tmp_path.rglob("*")) == before


class Server(SimpleNamespace):
    """A web server with one file, and what it was asked for."""

    content: bytes
    ranges: bool
    stop_after: int | None
    asked: list[str | None]


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(content=bytes(range(256)) * 4000, ranges=True, stop_after=None, asked=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            start = int(asked[6:-1]) if asked and state.ranges else 0
            if start >= len(state.content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(state.content) - start))
            self.end_headers()
            self.wfile.write(state.content[start:][: state.stop_after])

        def log_message(self, *arguments: Any) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_address[1]}/data.bin"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def wanted(server: Server, **changes: Any) -> Download:
    content = server.content
    facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "instead": "pass --data FILE"}
    return Download(server.url, **(facts | changes))


def test_a_download_happens_once_and_says_how_far_it_is(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        assert fetch(wanted(server), tmp_path / "new", said.append).read_bytes() == server.content
    assert server.asked == [None]
    assert said[-1] == "data.bin: 1.0 of 1.0 MB"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_lost_connection_is_taken_up_by_the_next_call(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges, server.stop_after = ranges, 700_000
    with pytest.raises(SourceError, match=r"ended after 700,000 of 1,024,000 bytes; run the command again"):
        fetch(wanted(server), tmp_path)
    server.stop_after = None
    said: list[str] = []
    assert fetch(wanted(server), tmp_path, said.append).read_bytes() == server.content
    assert server.asked == [None, "bytes=700000-"]
    assert said[0] == f"data.bin: {'going on' if ranges else 'starting again'}, 700,000 bytes were here"


def test_a_part_that_the_server_does_not_know_is_started_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(bytes(len(server.content)))
    expected = wanted(server, size=len(server.content) + 1)
    with pytest.raises(SourceError, match="ended after 1,024,000 of 1,024,001"):
        fetch(expected, tmp_path)
    assert server.asked == ["bytes=1024000-", None]
    assert (tmp_path / "data.bin.part").read_bytes() == server.content


def test_a_wrong_checksum_puts_the_file_aside_and_names_both_sums(server: Server, tmp_path: Path) -> None:
    found, expected = hashlib.sha256(server.content).hexdigest(), "0" * 64
    with pytest.raises(SourceError, match=f"SHA-256 is {found}, not {expected}.*run|Run") as caught:
        fetch(wanted(server, sha256=expected), tmp_path)
    assert "--data" in str(caught.value)
    assert (tmp_path / "data.bin.wrong").read_bytes() == server.content
    assert fetch(wanted(server), tmp_path).exists()


def test_a_longer_file_than_expected_is_not_downloaded_to_its_end(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="SHA-256"):
        fetch(wanted(server, size=1000), tmp_path)
    assert (tmp_path / "data.bin.wrong").stat().st_size == 1001


def test_a_damaged_file_in_the_cache_is_noticed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(server.content[:-1])
    with pytest.raises(SourceError, match="put aside"):
        fetch(wanted(server), tmp_path)
    assert fetch(wanted(server), tmp_path).read_bytes() == server.content


def test_offline_and_missing_files_are_one_error_that_names_data(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Download("http://127.0.0.1:9/cifar.tar.gz", 10, "0" * 64, cifar10.ARCHIVE.instead)
    monkeypatch.setattr(cifar10, "ARCHIVE", nowhere)
    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path))
    with pytest.raises(SourceError, match=r"cannot be reached .*go online, or pass --data: cifar-10-python"):
        cifar10.read()
    server.content = b""
    with pytest.raises(SourceError, match=r"the server says 416 .*pass --data"):
        fetch(wanted(server, size=10), tmp_path)


def test_no_room_is_said_before_anything_is_downloaded(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"1,000,000,000,000,000,000 bytes are needed .*TAGGER_CACHE") as caught:
        fetch(wanted(server, size=10**18), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert server.asked == []


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match=r"file/cache/data\.bin\.part: cannot write"):
        fetch(wanted(server), tmp_path / "file" / "cache")


def test_without_data_the_archive_is_downloaded_into_the_cache(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = packed(official(tmp_path / "batches"), tmp_path / "a.tar.gz").read_bytes()
    monkeypatch.setattr(cifar10, "ARCHIVE", wanted(server))
    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path / "cache"))
    train, test = cifar10.read()
    assert (len(train.images), len(test.images)) == (5 * PER_BATCH, PER_BATCH)
    assert (tmp_path / "cache" / "cifar10" / "data.bin").exists()


def test_the_official_archive_is_known_by_size_and_sum() -> None:
    assert download.Download.name.fget(cifar10.ARCHIVE) == "cifar-10-python.tar.gz"  # type: ignore[attr-defined]
    assert cifar10.ARCHIVE.size == 170_498_071
