"""CIFAR-10 is downloaded or read from where users have it, and anything else is refused with one clear error."""

from __future__ import annotations

import hashlib
import http.server
import pickle
import resource
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import photo
from torchvision.datasets import CIFAR10

from tagger.data import cifar10
from tagger.data.arrays import LabelledImages
from tagger.errors import SourceError, SourceNotFound, WriteError

PER_BATCH = 20
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def batch(seed: int) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8)
    return {"data": pixels, "labels": [i % 10 for i in range(PER_BATCH)]}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The official archive with fewer images; the unpacked folder stands beside it."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        (folder / name).write_bytes(pickle.dumps(batch(seed)))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(cifar10.LABEL_NAMES)}))
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(folder, folder.name)
    return tmp_path / "cifar-10-python.tar.gz"


def checksums(archive: Path, url: str = "http://127.0.0.1:9/cifar-10-python.tar.gz") -> type[CIFAR10]:
    folder = archive.parent / "cifar-10-batches-py"
    files = [[name, md5(folder / name)] for name in NAMES]
    return type(
        "Tiny",
        (CIFAR10,),
        {
            "url": url,
            "tgz_md5": md5(archive),
            "train_list": files[:5],
            "test_list": files[5:],
            "meta": CIFAR10.meta | {"md5": md5(folder / "batches.meta")},
        },
    )


@contextmanager
def serving(content: bytes, missing: int = 0) -> Iterator[str]:
    """Yield a URL of the content, whose last bytes go missing on the way."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) - missing])

        def log_message(self, *arguments: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/cifar-10-python.tar.gz"
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cifar10"


def class_folders(root: Path, per_class: int = 2) -> Path:
    for split in ("train", "test"):
        for label, name in enumerate(cifar10.LABEL_NAMES):
            (root / split / name).mkdir(parents=True)
            for index in range(per_class):
                seed = 100 * label + index + (5000 if split == "test" else 0)
                photo(seed, (32, 32)).save(root / split / name / f"{index:04}.png")
    return root


def same(one: LabelledImages, other: LabelledImages) -> bool:
    return np.array_equal(one.images, other.images) and np.array_equal(one.labels, other.labels)


def test_archive_folder_and_parent_give_the_official_images(archive: Path) -> None:
    official = checksums(archive)
    train, test = cifar10.read(str(archive), official=official)
    assert train.images.shape == (5 * PER_BATCH, 32, 32, 3)
    assert train.images.dtype == np.uint8
    assert train.truth.shape == (len(train), len(cifar10.LABEL_NAMES))
    assert np.array_equal(test.images[3, :, :, 1].ravel(), batch(5)["data"][3, 1024:2048])  # the green plane
    assert np.array_equal(train.images[PER_BATCH + 1, :, :, 2].ravel(), batch(1)["data"][1, 2048:])
    assert test.labels.tolist() == batch(5)["labels"]
    for place in (archive.parent / "cifar-10-batches-py", archive.parent):
        again = cifar10.read(str(place), official=official)
        assert same(train, again[0])
        assert same(test, again[1])


def test_the_archive_is_downloaded_once(archive: Path, cache: Path) -> None:
    with serving(archive.read_bytes()) as url:
        train, _ = cifar10.read(official=checksums(archive, url))
    assert same(train, cifar10.read(official=checksums(archive, url))[0])  # the server is gone
    assert [path.name for path in cache.iterdir()] == [archive.name]


def test_a_damaged_archive_in_the_cache_is_downloaded_again(archive: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / archive.name).write_bytes(archive.read_bytes()[:-100])
    with serving(archive.read_bytes()) as url:
        cifar10.read(official=checksums(archive, url))
    assert (cache / archive.name).read_bytes() == archive.read_bytes()


def test_offline_the_error_names_data(archive: Path, cache: Path) -> None:
    with pytest.raises(SourceError, match=r"http://127.*: download failed .*pass --data: cifar-10-python\.tar\.gz"):
        cifar10.read(official=checksums(archive))


@pytest.mark.parametrize(("missing", "message"), [(100, "download failed"), (0, "wrong checksum")])
def test_a_cut_or_wrong_download_is_refused_and_leaves_nothing(
    archive: Path, cache: Path, missing: int, message: str
) -> None:
    content = archive.read_bytes() if missing else b"<html>Please log in</html>"
    with (
        serving(content, missing) as url,
        pytest.raises(SourceError, match=f"{url}: {message} .*pass --data: cifar-10-python"),
    ):
        cifar10.read(official=checksums(archive, url))
    assert list(cache.iterdir()) == []


def test_a_cache_without_room_is_named(archive: Path, cache: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(archive.read_bytes()) as url:
        official = checksums(archive, url)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(WriteError, match=f"{cache}: cannot write .*TAGGER_CACHE"):
                cifar10.read(official=official)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_archive_that_cannot_be_unpacked_for_lack_of_room_is_named(archive: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    official = checksums(archive)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"cannot unpack .*cifar-10-python\.tar\.gz .*TMPDIR"):
            cifar10.read(str(archive), official=official)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_changed_archive_or_batch_is_refused_before_it_is_unpickled(archive: Path) -> None:
    official, folder = checksums(archive), archive.parent / "cifar-10-batches-py"
    (folder / "data_batch_3").write_bytes(pickle.dumps(batch(2) | {"labels": Evil(archive.parent / "ran")}))
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    with pytest.raises(SourceError, match=r"cifar-10-python\.tar\.gz: MD5 is .*, expected .*; --data takes"):
        cifar10.read(str(archive), official=official)
    with pytest.raises(SourceError, match="cifar-10-batches-py: missing, unreadable or damaged; --data takes"):
        cifar10.read(str(folder), official=official)
    assert not (archive.parent / "ran").exists()


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "error"), [("none", SourceNotFound), ("empty", SourceError), ("notes.txt", SourceError)]
)
def test_anything_else_is_refused_with_what_data_takes(tmp_path: Path, name: str, error: type[Exception]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(error, match=f"{name}.*; --data takes cifar-10-python"):
        cifar10.read(str(tmp_path / name))


def test_class_folders_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "copy")
    assert cifar10.has_class_folders(str(root))
    train, _ = cifar10.read(str(root))
    assert train.labels.tolist() == sorted(train.labels.tolist())
    assert np.array_equal(train.images[2], np.asarray(photo(100, (32, 32))))
    assert not train.lossy
    image = root / "train" / "frog" / "0000.png"
    photo(1, (32, 32)).save(image.with_suffix(".jpg"))
    image.unlink()
    assert cifar10.read(str(root))[0].lossy


def test_classes_of_another_dataset_are_refused(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "copy", 1)
    (root / "test" / "truck").rename(root / "test" / "lorry")
    with pytest.raises(SourceError, match=r"test: .*not CIFAR-10's: unknown \['lorry'\], missing \['truck'\]"):
        cifar10.read(str(root))


def test_other_sizes_and_corrupt_images_are_named(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "copy", 1)
    photo(1, (48, 40)).save(root / "train" / "frog" / "0000.png")
    with pytest.raises(SourceError, match=r"train/frog/0000\.png: is 48x40 pixels, CIFAR-10's images are 32x32"):
        cifar10.read(str(root))
    (root / "train" / "frog" / "0000.png").write_bytes(b"\x89PNG junk")
    with pytest.raises(SourceError, match=r"train/frog/0000\.png: .*replace it"):
        cifar10.read(str(root))
