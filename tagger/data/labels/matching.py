"""Find the file that a name in a label file refers to: by the whole path, else by its end if that is unambiguous."""

from __future__ import annotations

import contextlib
import posixpath
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

from tagger import storage
from tagger.data.labels.record import split_of

EXACT = 1000
"""Closeness of a match of the whole path; otherwise it is the number of trailing path components that match."""

_UPLOAD = re.compile(r"(^|.*/)[0-9a-f]{8}-([^/]+)")
_END = "\0"  # sorts before every character of a name, so that neighbours have the longest common end


class Found(NamedTuple):
    """The files that a name may refer to: none, one, or several that match equally well."""

    rows: tuple[int, ...]
    closeness: int = 0


class Files:
    """The listed files, which can be looked up by the names in label files."""

    def __init__(self, uris: Sequence[str]) -> None:
        self.uris = uris
        self.row_of = {uri: row for row, uri in enumerate(uris)}

    def find(self, written: str, folders: Sequence[str]) -> Found:
        """Return the files that a name refers to, by the first of these methods that finds any.

        Methods: as a whole path or URL; relative to one of the folders; by the longest unique end of the path; the same
        without suffixes if the name has no image suffix. Each method is tried with the name as written, then with its
        other spellings.
        """
        quick = [] if "%" in written else [f"{folder}/{written}" for folder in folders]  # a % may need our escape
        if (row := next((self.row_of[place] for place in (written, *quick) if place in self.row_of), None)) is not None:
            return Found((row,), EXACT)
        names = list(dict.fromkeys((*spellings(written), *_without_upload_prefix(written))))
        places = [place for name in names for place in _places(name, folders)]
        if (row := next((self.row_of[place] for place in places if place in self.row_of), None)) is not None:
            return Found((row,), EXACT)
        ends = [self._ends]
        if not storage.is_image_name(names[-1]):
            if rows := next((self._rows_of_stem[place] for place in places if place in self._rows_of_stem), None):
                return Found(rows, EXACT)
            ends.append(self._stem_ends)
        by_end = (_longest_end(sorted_ends, _reversed(name)) for sorted_ends in ends for name in names)
        return max(by_end, key=lambda found: found.closeness)

    @cached_property
    def _rows_of_stem(self) -> dict[str, tuple[int, ...]]:
        rows: dict[str, tuple[int, ...]] = {}
        for row, uri in enumerate(self.uris):
            if storage.is_image_name(uri):
                stem = uri.rpartition(".")[0]
                rows[stem] = (*rows.get(stem, ()), row)
        return rows

    @cached_property
    def _ends(self) -> list[tuple[str, int]]:
        return sorted((_reversed(uri), row) for row, uri in enumerate(self.uris))

    @cached_property
    def _stem_ends(self) -> list[tuple[str, int]]:
        return sorted((_reversed(_inner(uri).rpartition(".")[0]), row) for row, uri in enumerate(self.uris))


def spellings(written: str) -> Iterator[str]:
    """Yield a name as written, then its spellings on other systems.

    Without spaces around it and `file://`; with `/` for a Windows separator; the `?d=` of a Label Studio link; without
    a URL's escapes; with composed and decomposed accents (macOS writes the latter).
    """
    yield written
    name = written.strip()
    yield name
    name = name.removeprefix("file://")
    if "\\" in name:
        yield name
        name = name.replace("\\", "/")
    yield name
    query = name.partition("?")[2] if "/local-files/?d=" in name else ""
    if inner := parse_qs(query, errors="surrogateescape").get("d"):
        name = inner[0]
        yield f"/{name.lstrip('/')}"
        yield name
    elif "%" in name:
        name = unquote(name, errors="surrogateescape")
        yield name
    if not name.isascii():
        yield unicodedata.normalize("NFC", name)
        yield unicodedata.normalize("NFD", name)


def same_path(one: str, other: str) -> bool:
    """Return whether two names are spellings of the same path."""
    return one == other or _reversed(list(spellings(one))[-1]) == _reversed(list(spellings(other))[-1])


def _without_upload_prefix(written: str) -> Iterator[str]:
    """Yield a name without the eight-digit prefix that Label Studio adds to uploaded files."""
    if match := _UPLOAD.fullmatch(list(spellings(written))[-1]):
        yield match[1] + match[2]


def _places(name: str, folders: Sequence[str]) -> Iterator[str]:
    """Yield the possible uris of a name: absolute, or relative to each folder."""
    if storage.is_remote(name):
        with contextlib.suppress(ValueError):  # not a valid URL
            yield storage.public_uri(name)
    elif name.startswith("/"):
        yield storage.local_uri(posixpath.normpath(name))
    else:
        for folder in folders:
            if storage.is_remote(folder):
                yield f"{folder}/{posixpath.normpath(name)}"
            else:  # the folder is an escaped uri; the name is not
                yield storage.local_uri(posixpath.normpath(posixpath.join(storage.local_path(folder), name)))


def _inner(uri: str) -> str:
    """Return the file part of a uri: of `zip://inner::/x.zip`, the member."""
    return uri.partition("::")[0] if "::" in uri else uri


def _reversed(name: str) -> str:
    """Return the components of a path in reverse, each followed by _END, so that a common end is a common prefix."""
    if "://" in name:
        name = _inner(name).partition("?")[0].partition("://")[2]
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "".join(f"{part}{_END}" for part in reversed(parts))


def _longest_end(ends: list[tuple[str, int]], name: str) -> Found:
    """Return the files with the longest common end with a path, which are its neighbours in sorted order."""
    at = bisect_left(ends, (name, -1))
    shared = max((_shared(ends[i][0], name) for i in (at - 1, at) if 0 <= i < len(ends)), default=0)
    if not shared:
        return Found(())
    prefix = _END.join(name.split(_END)[:shared]) + _END
    first = bisect_left(ends, (prefix, -1))
    fitting = [(end, row) for end, row in ends[first : first + 3] if end.startswith(prefix)]
    if all(_in_another_split(end, name, shared) for end, _ in fitting):
        return Found(())
    return Found(tuple(row for _, row in fitting), shared)


def _in_another_split(end: str, name: str, shared: int) -> bool:
    """Return whether two paths differ in their split folder, and so are certainly different files."""
    one, other = (split_of(names.split(_END)[shared]) for names in (end, name))
    return one is not None and other is not None and one != other


def _shared(one: str, other: str) -> int:
    """Return the number of path components that two ends have in common."""
    pairs = zip(one.split(_END), other.split(_END), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1] != "", pairs))
