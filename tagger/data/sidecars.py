"""Sidecar files: files next to images and named after them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from tagger import storage


def by_folder(uris: Iterable[str]) -> Iterator[tuple[set[str], list[str]]]:
    """Yield the names in each folder of the images, and its images."""
    yield from ((names_in(folder), [*images]) for folder, images in groupby(uris, storage.parent))


def names_in(folder: str) -> set[str]:
    """Return the names in the folder of an image; none for an archive or an http(s) URL."""
    if "::" in folder or folder.startswith(("http://", "https://")):
        return set()
    return {*(storage.names_in(folder) or ())}


def name_in_folder(uri: str) -> str:
    """Return the name of a file as its folder lists it."""
    return (uri if storage.is_remote(uri) else storage.local_path(uri)).rpartition("/")[2]


def xmp_beside(image: str, names: set[str]) -> list[str]:
    """Return the XMP sidecars of an image among the names in its folder, `photo.jpg.xmp` before `photo.xmp`."""
    paths = (
        path
        for name in zip(*(called_after(image, suffix) for suffix in (".xmp", ".XMP")), strict=True)
        for path in name
    )
    return [path for path in paths if name_in_folder(path) in names]


def called_after(uri: str, suffix: str) -> tuple[str, str]:
    """Return the possible names of a sidecar: `photo.jpg.xmp` and `photo.xmp`."""
    return f"{uri}{suffix}", f"{uri.rpartition('.')[0]}{suffix}"
