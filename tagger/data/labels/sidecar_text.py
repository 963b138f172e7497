"""Texts beside images: `photo.txt` or `photo.jpg.txt`, with tags between commas or one a line (kohya, Danbooru)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from tagger import storage
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, split_of, unique
from tagger.errors import TableError

_SUFFIX = ".txt"
_READERS = 16
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
    with ThreadPoolExecutor(_READERS) as pool:
        for folder, uris in groupby(file.listing, storage.parent):
            names = {*(storage.names_in(folder) or ())}
            pairs = [(uri, text) for uri in uris for text in _texts(uri) if _name(text) in names]
            split = split_of(folder.rpartition("/")[2])
            for (uri, text), content in zip(pairs, pool.map(storage.read_bytes, (t for _, t in pairs)), strict=True):
                shown = _decoded(content)
                if _BOX.match(shown):
                    raise TableError(f"{text}: holds boxes as of YOLO ({shown[:40]!r}), not tags")
                labels = re.split(r"[,\r\n]", shown) if options.delimiter is None else shown.split(options.delimiter)
                yield Record(uri, unique(map(str.strip, labels)) or None, split)


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
