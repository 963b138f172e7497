"""CIFAR-10 (Krizhevsky 2009): 60,000 images of 32x32 pixels in ten classes."""

from __future__ import annotations

import hashlib
import sys
import tarfile
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pooch
from requests import RequestException
from torchvision.datasets import CIFAR10

from tagger import images, storage
from tagger.data.arrays import LabelledImages
from tagger.errors import ImageError, SourceError, SourceNotFound, WriteError

LABEL_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
TAKES = (
    "cifar-10-python.tar.gz, its unpacked folder cifar-10-batches-py, or a folder with train/<class>/ and "
    "test/<class>/ images of 32x32 pixels"
)

_SPLITS = ("train", "test")
_ONE_HOT = np.eye(len(LABEL_NAMES), dtype=np.float32)

Say = Callable[[str], None]
Data = tuple[LabelledImages, LabelledImages]


def read(data: str | None = None, say: Say = lambda line: None, official: type[CIFAR10] = CIFAR10) -> Data:
    """Return train (50,000) and test (10,000): uint8 (N, 32, 32, 3), labels in the order of LABEL_NAMES.

    `data` is the official archive, its unpacked folder or the parent of that, or a folder of class folders; None
    downloads the archive into the cache folder. `official` has its URL and checksums. `say` is called with progress.
    Raises SourceError for anything but CIFAR-10, WriteError if the disk is full.
    """
    place = storage.absolute(_download(official) if data is None else data)
    say(f"reading {place}")
    if has_class_folders(data):
        train, test = (_read_class_folder(storage.join(place, split), say) for split in _SPLITS)
        return train, test
    if not storage.exists(place):
        raise SourceNotFound(f"{place}: not found; --data takes {TAKES}")
    folder = Path(storage.local_path(place))
    if not folder.is_dir():
        return _read_archive(place, official)
    return _read_batches(folder.parent if folder.name == official.base_folder else folder, official)


def has_class_folders(data: str | None) -> bool:
    """Return whether `data` has image files in train/<class>/ and test/<class>/."""
    if data is None:
        return False
    place = storage.absolute(data)
    return all(storage.exists(storage.join(place, split)) for split in _SPLITS)


def _download(official: type[CIFAR10]) -> str:
    """Return the archive in the cache folder, downloading it if it is missing or damaged."""
    folder = storage.cache_folder() / "cifar10"
    checksum, bar = f"md5:{official.tgz_md5}", sys.stderr.isatty()
    try:
        return str(pooch.retrieve(official.url, checksum, official.filename, folder, progressbar=bar))
    except RequestException as error:
        raise SourceError(
            f"{official.url}: download failed ({error}); check the connection, or pass --data: {TAKES}"
        ) from error
    except ValueError as error:
        raise SourceError(f"{official.url}: wrong checksum ({error}); try again, or pass --data: {TAKES}") from error
    except OSError as error:
        raise WriteError(
            f"{folder}: cannot write {official.filename} ({error}); free some disk space, or set TAGGER_CACHE to "
            "another folder"
        ) from error


def _read_archive(place: str, official: type[CIFAR10]) -> Data:
    with storage.open_input(place) as file, tempfile.TemporaryDirectory() as folder:
        found = hashlib.file_digest(file, "md5").hexdigest()  # type: ignore[arg-type]  # IO lacks readinto in typeshed
        if found != official.tgz_md5:
            raise SourceError(f"{place}: MD5 is {found}, expected {official.tgz_md5}; --data takes {TAKES}")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file) as tar:
                tar.extractall(folder, filter="data")
        except OSError as error:
            raise WriteError(
                f"{folder}: cannot unpack {place} ({error}); free some disk space, or set TMPDIR"
            ) from error
        return _read_batches(Path(folder), official)


def _read_batches(root: Path, official: type[CIFAR10]) -> Data:
    """Read the unpacked folder inside `root`; torchvision verifies its checksums before it unpickles."""
    try:
        train, test = (official(root, train=train) for train in (True, False))
    except (RuntimeError, OSError) as error:
        raise SourceError(
            f"{root / official.base_folder}: missing, unreadable or damaged; --data takes {TAKES}"
        ) from error
    return _labelled(train), _labelled(test)


def _labelled(split: CIFAR10) -> LabelledImages:
    return LabelledImages(np.ascontiguousarray(split.data), _ONE_HOT[split.targets])


def _read_class_folder(folder: str, say: Say) -> LabelledImages:
    uris = sorted((found.uri for found in storage.find_images(folder)), key=lambda uri: uri.rsplit("/", 2)[1:])
    classes = [uri.rsplit("/", 2)[1] for uri in uris]
    unknown, missing = sorted(set(classes) - set(LABEL_NAMES)), sorted(set(LABEL_NAMES) - set(classes))
    if unknown or missing:
        parts = [f"{word} {names}" for word, names in (("unknown", unknown), ("missing", missing)) if names]
        raise SourceError(
            f"{folder}: classes are not CIFAR-10's: {', '.join(parts)}; pass images of other classes as the dataset, "
            "without --data"
        )
    pixels = np.empty((len(uris), SIDE, SIDE, 3), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:
        for row, image in enumerate(pool.map(_pixels, uris)):
            pixels[row] = image
            if (row + 1) % 10_000 == 0:
                say(f"{folder}: {row + 1:,} of {len(uris):,} images decoded")
    lossy = any(uri.lower().endswith((".jpg", ".jpeg")) for uri in uris)
    return LabelledImages(pixels, _ONE_HOT[[LABEL_NAMES.index(name) for name in classes]], lossy)


def _pixels(uri: str) -> images.UInt8Array:
    try:
        image, _ = images.decode(storage.read_bytes(uri))
    except ImageError as error:
        raise SourceError(f"{uri}: {error}; replace it with the original") from error
    if image.size != (SIDE, SIDE):
        raise SourceError(
            f"{uri}: is {image.width}x{image.height} pixels, CIFAR-10's images are {SIDE}x{SIDE}; pass larger images "
            "as the dataset, without --data"
        )
    return np.asarray(image)
