"""File names as written in every table.

A `uri` is locally the absolute POSIX path, remotely the URL without credentials and signature (tagger.redaction). Bytes
of a local name that are not UTF-8 become `%FF`, a literal `%` before two hex digits `%25`.
"""

from __future__ import annotations

import os
import re
from typing import TypeAlias

StrPath: TypeAlias = str | os.PathLike[str]
"""A local path, or a URL as text."""


def is_remote(url: str) -> bool:
    """Return whether this is a URL with a scheme other than file://."""
    return "://" in url and not url.startswith("file://")


def local_path(uri: str) -> str:
    """Return the path of a local uri, with the bytes that it has on disk."""
    return _ESCAPED.sub(_unescape, uri.removeprefix("file://"))


def local_uri(path: str) -> str:
    """Return the uri of an absolute local path."""
    escaped = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", path)
    return re.sub("[\udc80-\udcff]", lambda m: f"%{ord(m[0]) - 0xDC00:02X}", escaped)


def absolute(url: str) -> str:
    """Return a folder or file argument ready to open: a local path made absolute and resolved, a URL unchanged.

    A URL may hold credentials: tables and messages show its public_uri().
    """
    if is_remote(url):
        return url if "?" in url else url.rstrip("/")  # a signature may end in a slash
    return local_uri(os.path.realpath(os.path.expanduser(url.removeprefix("file://"))))


def absolute_file(url: str) -> str:
    """Return a file argument for describe(): a URL unchanged, a local path as an absolute uri."""
    return url if is_remote(url) else local_uri(resolve(url, os.getcwd()))


def resolve(path: str, folder: str) -> str:
    """Return a local path made absolute against a folder, with `~` and `..` resolved and links unresolved."""
    return os.path.normpath(os.path.join(folder, os.path.expanduser(path.removeprefix("file://"))))


def parent(url: str) -> str:
    """Return the folder of a file; the query of an http(s) URL, which may contain slashes, is ignored."""
    path = re.split(r"[?#]", url)[0] if url.startswith(("http://", "https://")) else url
    return path.rpartition("/")[0]


def join(folder: str, name: str) -> str:
    """Return the uri of a name inside a folder."""
    return f"{folder.rstrip('/')}/{name}"


_ESCAPED = re.compile(r"%25(?=[0-9A-Fa-f]{2})|%[89A-F][0-9A-F]")


def _unescape(match: re.Match[str]) -> str:
    return "%" if match[0] == "%25" else chr(0xDC00 + int(match[0][1:], 16))
