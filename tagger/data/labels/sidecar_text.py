"""Texts beside images: `photo.txt` or `photo.jpg.txt`, with tags between commas or one a line (kohya, Danbooru)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice

from tagger import storage
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, unique
from tagger.errors import TableError

_SUFFIX = ".txt"
_READERS, _CHUNK = 16, 1000
_BOX = re.compile(r"\d+(\s+[\d.eE-]+){4,}")


def matches(file: LabelFile) -> bool:
    """Return whether all texts in the folder of the first image are called after an image."""
    if file.kind != "folder" or not file.listing:
        return False
    folder = storage.parent(file.listing[0])
    own = {_name(text) for uri in file.listing if storage.parent(uri) == folder for text in _texts(uri)}
    texts = {name for name in storage.names_in(folder) or () if name.lower().endswith(_SUFFIX)}
    return bool(texts) and texts <= own


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image with a text beside it; an empty text is no label. Raises TableError for YOLO's boxes."""
    pairs = _pairs(file.listing)
    with ThreadPoolExecutor(_READERS) as pool:
        while chunk := list(islice(pairs, _CHUNK)):
            for (uri, text), content in zip(chunk, pool.map(storage.read_bytes, (t for _, t in chunk)), strict=True):
                shown = _decoded(content)
                if _BOX.match(shown):
                    raise TableError(f"{text}: holds boxes as of YOLO ({shown[:40]!r}), not tags")
                labels = shown.split(options.delimiter) if options.delimiter else re.split(r"[,\r\n]", shown)
                yield Record(uri, unique(map(str.strip, labels)) or None)


def _pairs(uris: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (image, text) for every image with a text beside it."""
    for folder, images in groupby(uris, storage.parent):
        names = {*(storage.names_in(folder) or ())}
        yield from ((uri, text) for uri in images for text in _texts(uri) if _name(text) in names)


def _texts(uri: str) -> tuple[str, str]:
    """Return the names that the text of an image may have."""
    return f"{uri.rpartition('.')[0]}{_SUFFIX}", f"{uri}{_SUFFIX}"


def _name(uri: str) -> str:
    """Return the name of a file as its folder lists it."""
    return (uri if storage.is_remote(uri) else storage.local_path(uri)).rpartition("/")[2]


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return content.decode("latin-1").strip()


FORMAT = Format("sidecar-text", "a text beside each image, tags between commas", matches, read, "folder")
