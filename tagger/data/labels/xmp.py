"""Keywords of photo programs: in XMP sidecars, `photo.jpg.xmp` or `photo.xmp`, else inside the image file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

from tagger import storage
from tagger.data import sidecars
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record
from tagger.errors import ImageError, SourceError
from tagger.images import embedded, xmp

_READERS, _CHUNK = 16, 1000
_FOLDERS, _SIDECARS = 20, 100
"""Maximum numbers of folders and sidecars that detection reads."""
_UNREADABLE = "files whose keywords cannot be read, their images left unlabelled"
_PREDICTED = "images with keywords that `tagger export` wrote, which are predictions, not labels"
_DIFFERENT = "images with two different sidecars; the one with the full file name is used"


class _Found(NamedTuple):
    labels: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


def matches(file: LabelFile) -> bool:
    """Return whether sidecars in the first folders have keywords that were not written by tagger."""
    if file.kind != "folder" or storage.is_remote(file.uri):  # listing a bucket again could be expensive
        return False
    pairs = (
        (image, paths)
        for names, images in islice(sidecars.by_folder(file.listing), _FOLDERS)
        for image in images
        if (paths := sidecars.xmp_beside(image, names))
    )
    looked_at = (_in_sidecars(image, paths) for image, paths in islice(pairs, _SIDECARS))
    return any(found.labels for found in looked_at if found)


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per image with keywords."""
    with ThreadPoolExecutor(_READERS) as pool:
        folders = sidecars.by_folder(file.listing)
        pairs = ((image, sidecars.xmp_beside(image, names)) for names, images in folders for image in images)
        while chunk := list(islice(pairs, _CHUNK)):
            for (image, _), found in zip(chunk, pool.map(_keywords, *zip(*chunk, strict=True)), strict=True):
                for kind, example in found.notes:
                    notes.add(kind, example)
                if found.labels:
                    yield Record(image, found.labels)


def _keywords(image: str, paths: Sequence[str]) -> _Found:
    """Return the keywords of the first sidecar with a keyword list, else of the image file."""
    if found := _in_sidecars(image, paths):
        return found
    try:
        return _Found(embedded.read(image).labels())
    except (SourceError, ImageError) as error:
        return _Found(notes=((_UNREADABLE, str(error)),))


def _in_sidecars(image: str, paths: Sequence[str]) -> _Found | None:
    """Return the keywords of the first sidecar with a keyword list; None if no sidecar has one."""
    try:
        packets = [xmp.read(path, storage.read_range(path, 0, xmp.LIMIT + 1, whole=False)) for path in paths]
    except SourceError as error:
        return _Found(notes=((_UNREADABLE, str(error)),))
    packets = [packet for packet in packets if packet.keywords]
    if not packets:
        return None
    notes = [(_PREDICTED, packets[0].uri)] if packets[0].predicted() else []
    if len({frozenset(packet.labels()) for packet in packets}) > 1:
        notes.append((_DIFFERENT, image))
    return _Found(packets[0].labels(), tuple(notes))


FORMAT = Format("xmp", "keywords in XMP sidecars, or in the image files", matches, read, "folder", beside=True)
