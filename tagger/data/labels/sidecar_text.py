"""Text sidecars: `photo.txt` or `photo.jpg.txt`, with tags separated by commas or lines (kohya, Danbooru)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from tagger import storage
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record, unique
from tagger.data.sidecars import by_folder, called_after, name_in_folder
from tagger.errors import TableError

_SUFFIX = ".txt"
_READERS, _CHUNK = 16, 1000
_BOX = re.compile(r"\d+(\s+[\d.eE-]+){4,}")


def matches(file: LabelFile) -> bool:
    """Return whether all text files in the folder of the first image are named after an image."""
    if file.kind != "folder" or not file.listing:
        return False
    folder = storage.parent(file.listing[0])
    images = (uri for uri in file.listing if storage.parent(uri) == folder)
    own = {name_in_folder(text) for uri in images for text in called_after(uri, _SUFFIX)}
    texts = {name for name in storage.names_in(folder) or () if name.lower().endswith(_SUFFIX)}
    return bool(texts) and texts <= own


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image with a text sidecar; an empty one means unlabelled. Raises TableError for YOLO boxes."""
    pairs = (
        (uri, text)
        for names, images in by_folder(file.listing)
        for uri in images
        for text in called_after(uri, _SUFFIX)
        if name_in_folder(text) in names
    )
    with ThreadPoolExecutor(_READERS) as pool:
        while chunk := list(islice(pairs, _CHUNK)):
            for (uri, text), content in zip(chunk, pool.map(storage.read_bytes, (t for _, t in chunk)), strict=True):
                shown = _decoded(content)
                if _BOX.match(shown):
                    raise TableError(f"{text}: contains YOLO boxes ({shown[:40]!r}), not tags")
                labels = shown.split(options.delimiter) if options.delimiter else re.split(r"[,\r\n]", shown)
                yield Record(uri, unique(map(str.strip, labels)) or None)


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return content.decode("latin-1").strip()


FORMAT = Format(
    "sidecar-text", "a text file next to each image, with comma-separated tags", matches, read, "folder", beside=True
)
