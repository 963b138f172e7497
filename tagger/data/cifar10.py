"""CIFAR-10 (Krizhevsky 2009): 60,000 photographs of 32x32 pixels in ten classes, from wherever the user has them.

Archives are read in place: no path inside one ever touches the disk, so none can leave a folder.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from tagger import hardware, images, storage
from tagger.data import pickles
from tagger.data.arrays import LabelledImages
from tagger.data.download import Download, fetch
from tagger.errors import ImageError, SourceError, SourceNotFound

LABEL_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
TAKES = (
    "cifar-10-python.tar.gz, its unpacked folder, or a folder or tar archive with train/<class>/ and test/<class>/ "
    "images of 32x32 pixels"
)
ARCHIVE = Download(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    size=170_498_071,
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    instead=f"pass --data: {TAKES}",
)

_TRAIN_BATCHES, _TEST_BATCH = tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch"
_META, _UNPACKED = "batches.meta", "cifar-10-batches-py"
_BATCH_FILES = (*_TRAIN_BATCHES, _TEST_BATCH, _META)
_SPLITS = ("train", "test")
_CHUNK = 500
"""Pictures that a thread reads or decodes at a time."""
_MAX_MEMBER = 1 << 26
"""Bytes; the largest file of the official archive has half as many."""


class _Picture(NamedTuple):
    """An encoded image; sorted as the files of a folder are."""

    label: str
    name: str
    content: bytes


_Pictures = dict[str, list[_Picture]]


def read(
    data: str | None = None, say: Callable[[str], None] = lambda line: None
) -> tuple[LabelledImages, LabelledImages]:
    """Return train (50,000) and test (10,000): uint8 (N, 32, 32, 3), labels in the order of LABEL_NAMES.

    `data` is an archive (the official one, or class folders in a tar), the unpacked official folder or its parent, or
    a folder of class folders; None downloads the official archive once into the cache folder. `say` gets lines of
    progress. Raises SourceError for what is not CIFAR-10, WriteError where the download has no room.
    """
    if data is None:
        data = str(fetch(ARCHIVE, storage.cache_folder() / "cifar10", say))
    place = storage.absolute(data)
    if not storage.exists(place):
        raise SourceNotFound(f"{data}: not found; --data takes {TAKES}")
    if _is_archive(place):
        say(f"reading {data}")
        return _read_archive(place, say)
    for folder in (place, storage.join(place, _UNPACKED)):
        if _TEST_BATCH in (storage.names_in(folder) or []):
            return _read_batches(folder, {name: _read_if_there(storage.join(folder, name)) for name in _BATCH_FILES})
    if set(_SPLITS) <= set(storage.names_in(place) or []):
        return _decode_splits(place, {split: _in_folder(storage.join(place, split)) for split in _SPLITS}, say)
    raise SourceError(f"{data}: holds neither {_TEST_BATCH} nor train/ and test/; --data takes {TAKES}")


def has_class_folders(data: str | None) -> bool:
    """Tell whether `read` finds the images as files in train/<class>/ and test/<class>/."""
    if data is None or _is_archive(place := storage.absolute(data)):
        return False
    names = set(storage.names_in(place) or [])
    return set(_SPLITS) <= names and not {_TEST_BATCH, _UNPACKED} & names


def _is_archive(place: str) -> bool:
    if storage.is_remote(place):
        return place.endswith((".tar", ".tar.gz", ".tgz"))
    return os.path.isfile(storage.local_path(place))


def _read_archive(place: str, say: Callable[[str], None]) -> tuple[LabelledImages, LabelledImages]:
    batches: dict[str, bytes | None] = dict.fromkeys(_BATCH_FILES)
    pictures: _Pictures = {split: [] for split in _SPLITS}
    for name, content in _members(place):
        *folders, last = name.split("/")
        if last in batches:
            batches[last] = content
        elif len(folders) >= 2 and folders[-2] in _SPLITS and storage.is_image_name(last):
            pictures[folders[-2]].append(_Picture(folders[-1], last, content))
    if batches[_TEST_BATCH]:
        return _read_batches(place, batches)
    if not any(pictures.values()):
        raise SourceError(f"{place}: holds neither {_TEST_BATCH} nor train/ and test/; --data takes {TAKES}")
    return _decode_splits(place, pictures, say)


def _members(place: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the files in a tar archive; raises SourceError for a damaged one."""
    try:
        with storage.open_input(place) as file, tarfile.open(fileobj=file) as tar:
            for member in tar:
                if member.isfile() and member.size > _MAX_MEMBER:
                    raise SourceError(f"{place}: {member.name} has {member.size:,} bytes, so it is not CIFAR-10")
                if member.isfile() and (opened := tar.extractfile(member)):
                    yield member.name, opened.read()
            while tar.fileobj and tar.fileobj.read(1 << 20):
                pass  # gzip's checksum is at the very end, and compared only there
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{place}: the archive is truncated or damaged ({str(error).partition(': - ')[0]}); fetch it again"
        ) from error


def _read_if_there(uri: str) -> bytes | None:
    return storage.read_bytes(uri) if storage.exists(uri) else None


def _read_batches(place: str, files: dict[str, bytes | None]) -> tuple[LabelledImages, LabelledImages]:
    """Read the official pickles: rows of 1,024 red, 1,024 green and 1,024 blue bytes."""
    if missing := [name for name in (*_TRAIN_BATCHES, _TEST_BATCH) if not files[name]]:
        raise SourceError(f"{place}: {', '.join(missing)} missing; unpack cifar-10-python.tar.gz again")
    if meta := files[_META]:
        names = tuple(map(pickles.text, pickles.read_dict(meta, f"{place}/{_META}").get("label_names", ())))
        if names != LABEL_NAMES:
            raise SourceError(f"{place}/{_META}: its classes are {list(names)}, not CIFAR-10's {list(LABEL_NAMES)}")
    parts = {name: _batch(f"{place}/{name}", files[name] or b"") for name in (*_TRAIN_BATCHES, _TEST_BATCH)}
    train = [parts[name] for name in _TRAIN_BATCHES]
    pixels, labels = (np.concatenate(columns) for columns in zip(*train, strict=True))
    return LabelledImages(pixels, labels, LABEL_NAMES), LabelledImages(*parts[_TEST_BATCH], LABEL_NAMES)


def _batch(name: str, content: bytes) -> tuple[images.UInt8Array, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    found = pickles.read_dict(content, name)
    pixels, labels = found.get("data"), found.get("labels")
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        raise SourceError(f"{name}: has no data and labels, so it is not a CIFAR-10 batch")
    if pixels.shape != (len(labels), 3 * SIDE * SIDE):
        raise SourceError(f"{name}: data {pixels.shape} and {len(labels)} labels; expected rows of {3 * SIDE * SIDE}")
    if strange := [label for label in labels if label not in range(len(LABEL_NAMES))]:
        raise SourceError(f"{name}: label {strange[0]!r} is not one of 0 to {len(LABEL_NAMES) - 1}")
    upright = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(upright), np.array(labels, dtype=np.int64)


def _in_folder(folder: str) -> list[_Picture]:
    def load(uri: str) -> _Picture:
        _, label, name = uri.rsplit("/", 2)
        return _Picture(label, name, storage.read_bytes(uri))

    with ThreadPoolExecutor() as pool:
        return list(pool.map(load, [found.uri for found in storage.find_images(folder)]))


def _decode_splits(
    place: str, pictures: _Pictures, say: Callable[[str], None]
) -> tuple[LabelledImages, LabelledImages]:
    for split in _SPLITS:  # before anything is decoded
        _check_classes(f"{place}/{split}", {picture.label for picture in pictures[split]})
    train, test = (_decode(f"{place}/{split}", sorted(pictures[split]), say) for split in _SPLITS)
    return train, test


def _check_classes(split: str, found: Iterable[str]) -> None:
    unknown, missing = sorted(set(found) - set(LABEL_NAMES)), sorted(set(LABEL_NAMES) - set(found))
    if unknown or missing:
        said = [f"{word} {names}" for word, names in (("unknown", unknown), ("missing", missing)) if names]
        raise SourceError(
            f"{split}: not CIFAR-10's classes: {', '.join(said)}; folders of your own classes are a dataset "
            "of their own, not --data of CIFAR-10"
        )


def _decode(split: str, pictures: Sequence[_Picture], say: Callable[[str], None]) -> LabelledImages:
    pixels = np.empty((len(pictures), SIDE, SIDE, 3), dtype=np.uint8)

    def decode(start: int) -> None:
        for row, picture in enumerate(pictures[start : start + _CHUNK], start):
            pixels[row] = _pixels(f"{split}/{picture.label}/{picture.name}", picture.content)

    with ThreadPoolExecutor(hardware.cores()) as pool:
        for done, _ in enumerate(pool.map(decode, range(0, len(pictures), _CHUNK)), 1):
            if done % 20 == 0:
                say(f"{split}: {done * _CHUNK:,} of {len(pictures):,} images decoded")
    labels = np.array([LABEL_NAMES.index(picture.label) for picture in pictures], dtype=np.int64)
    lossy = any(picture.name.lower().endswith((".jpg", ".jpeg")) for picture in pictures)
    return LabelledImages(pixels, labels, LABEL_NAMES, lossy)


def _pixels(name: str, content: bytes) -> images.UInt8Array:
    try:
        picture, _ = images.decode(content)
    except ImageError as error:
        raise SourceError(f"{name}: {error}; replace it by the one of the original archive") from error
    if picture.size != (SIDE, SIDE):
        raise SourceError(
            f"{name}: is {picture.width}x{picture.height} pixels, CIFAR-10's are {SIDE}x{SIDE}; larger pictures of "
            "your own are a dataset of their own, not --data of CIFAR-10"
        )
    return np.asarray(picture)
