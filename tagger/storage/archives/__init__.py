"""Archives and tables of images, treated as folders: members are listed, and read as ranges of bytes or rows.

A member's uri is `ARCHIVE::NAME`, or `TABLE::ROW`. Its location has its position, so that any process can read it
without listing the archive: `ARCHIVE::@PLACE@VERSION`, and `ARCHIVE::!REASON` for the rest of a damaged archive. Open
files and cached content belong to one version of the archive.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from tagger.errors import SourceError, SourceNotFound, first_line
from tagger.storage import files
from tagger.storage.archives import rows, tar, zipped
from tagger.storage.archives.member import Member
from tagger.storage.archives.rows import NoImages, has_images
from tagger.storage.names import FoundFile, is_image_name
from tagger.storage.stores import filesystem, named_errors
from tagger.storage.uris import is_remote, local_path

__all__ = [
    "Inside", "NoImages", "find", "has_images", "is_archive", "members", "read", "split",
]  # fmt: skip

TARS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2")
TABLES = (".parquet", ".arrow", ".feather")
ARCHIVES = (*TARS, ".zip")
_SEPARATOR = "::"
_NESTED = re.compile(r"\.(tar|tgz|tzst|zip|tar\.\w+)$", re.IGNORECASE)
_LOCATION = re.compile(rf"(?s)(.+?(?:{'|'.join(map(re.escape, (*ARCHIVES, *TABLES)))}))::(.+)", re.IGNORECASE)
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, pa.ArrowException, EOFError, OSError, ValueError)
_INDEXES = 4


class Inside(NamedTuple):
    """A uri or location inside an archive."""

    archive: str
    member: str


def is_archive(name: str) -> bool:
    """Return whether a file name has the suffix of an archive or of a table that may hold images."""
    return name.lower().endswith((*ARCHIVES, *TABLES))


def split(url: str) -> Inside | None:
    """Return archive and member of a uri or location inside an archive; None for any other, or an existing file."""
    if _SEPARATOR not in url or not (match := _LOCATION.fullmatch(url)):
        return None
    return None if os.path.lexists(url) else Inside(match[1], match[2])


def members(archive: FoundFile, skipped: Counter[str]) -> Iterator[FoundFile]:
    """Yield the images of an archive or table in order.

    The rest of a damaged archive is one file, whose location has the reason. Raises NoImages for a table without any.
    """
    url, seen, found = archive.location or archive.uri, set[int](), 0
    version = _hash(archive.bytes, archive.modified_at, archive.etag)
    try:
        for member in _listed(url):
            if reason := _reason_to_skip(member, seen):
                skipped[reason] += 1
                continue
            found += 1
            yield archive._replace(
                uri=f"{archive.uri}{_SEPARATOR}{member.name}",
                bytes=member.size,
                location=f"{url}{_SEPARATOR}@{member.place}@{version}",
            )
    except NoImages:
        raise
    except _DAMAGE as error:
        reason = f"damaged or truncated after {found} images ({first_line(error)})"
        yield archive._replace(location=f"{url}{_SEPARATOR}!{reason}")


def _listed(url: str) -> Iterator[Member]:
    name = url.lower()
    if name.endswith(TABLES):
        yield from rows.members(url)
        return
    with files.open_input(url) as file:
        yield from zipped.members(file) if name.endswith(".zip") else tar.members(url, file)


def _reason_to_skip(member: Member, seen: set[int]) -> str:
    """Return why a member is skipped, or ""; `seen` holds hashes of the names so far."""
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts or "\\" in member.name:
        return f"path outside its archive ({member.name!r})"
    if any(part.startswith(".") for part in parts) or parts[0] == "__MACOSX":
        return "hidden"
    if _NESTED.search(member.name):
        return f"archive in an archive ({member.name!r})"
    if not member.is_row and not is_image_name(member.name):
        return "not an image"
    if member.is_link:
        return "link in an archive"
    if hash(member.name) in seen:
        return f"duplicate name in an archive ({member.name!r})"
    seen.add(hash(member.name))
    return ""


def read(inside: Inside, timeout: float) -> bytes:
    """Return the content of a member, by its place or its name; raises SourceError."""
    url, place = inside
    if place.startswith("!"):
        raise SourceError(f"{url}: {place[1:]}")
    if not place.startswith("@"):
        place = f"@{find(inside).place}@{_version(url)}"
    kind, where = place[1], place[2:]
    try:
        reader = {"t": tar.read, "s": tar.read_stream, "z": zipped.read, "r": rows.read}[kind]
        return reader(url, where, timeout)
    except SourceError:
        raise
    except (*_DAMAGE, KeyError) as error:
        raise SourceError(f"{url}: cannot read a member ({first_line(error)})") from error


def find(inside: Inside) -> Member:
    """Return a member by its name; raises SourceNotFound."""
    try:
        return _index(inside.archive, _version(inside.archive))[inside.member]
    except KeyError as error:
        raise SourceNotFound(f"{inside.archive}: has no member {inside.member}") from error
    except _DAMAGE as error:
        raise SourceError(f"{inside.archive}: damaged or truncated ({first_line(error)})") from error


def _version(url: str) -> str:
    """Return a hash that identifies the current version of an archive."""
    if not is_remote(url):
        info = os.stat(local_path(url))
        return _hash(info.st_size, info.st_mtime_ns)
    with named_errors(url):
        fs, path = filesystem(url)
        return _hash(fs.ukey(path))


def _hash(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


@functools.lru_cache(_INDEXES)
def _index(url: str, version: str) -> dict[str, Member]:
    index: dict[str, Any] = {}
    for member in _listed(url):
        index.setdefault(member.name, member)
    return index
