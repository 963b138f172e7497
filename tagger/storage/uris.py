"""Names of files, as every table writes them.

A `uri` is locally the absolute POSIX path, remotely the scheme URL. Bytes of a local name that are not UTF-8 become
`%FF`, a literal `%` before two hex digits `%25`; credentials and signatures never get in.
"""

from __future__ import annotations

import os
import re
from typing import TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

StrPath: TypeAlias = str | os.PathLike[str]
"""A local path, or a URL as text."""


def is_remote(url: str) -> bool:
    """Tell whether this is a URL with a scheme other than file://."""
    return "://" in url and not url.startswith("file://")


def local_path(uri: str) -> str:
    """Return the path that a local uri names, with the bytes it has on disk."""
    return _ESCAPED.sub(_unescape, uri.removeprefix("file://"))


def local_uri(path: str) -> str:
    """Return the uri of an absolute local path."""
    escaped = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", path)
    return re.sub("[\udc80-\udcff]", lambda m: f"%{ord(m[0]) - 0xDC00:02X}", escaped)


def public_uri(url: str) -> str:
    """Return a URL without user, password and signature; this process remembers what was left out."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL, whatever it looks like: reading it will say so
        return url
    user, at, host = parts.netloc.rpartition("@")
    if not (":" in user or parts.scheme in ("http", "https", "ftp", "sftp")):
        host = user + at + host  # abfs://container@account is no credential
    query = parts.query
    if parts.scheme in ("http", "https"):
        pairs = parse_qsl(query, keep_blank_values=True)
        kept = [(key, value) for key, value in pairs if not _SECRET_PARAMETER.fullmatch(key)]
        query = query if len(kept) == len(pairs) else urlencode(kept)
    if (host, query) == (parts.netloc, parts.query):
        return url
    public = urlunsplit(parts._replace(netloc=host, query=query))
    _signed[public] = url
    return public


def signed(uri: str) -> str:
    """Return the URL that public_uri() was given, to read it."""
    return _signed.get(uri, uri)


def absolute(url: str) -> str:
    """Return a folder or file argument as a uri: local paths absolute with the root resolved, URLs without secrets."""
    if is_remote(url):
        return public_uri(url).rstrip("/")
    return local_uri(os.path.realpath(os.path.expanduser(url.removeprefix("file://"))))


def absolute_file(url: str) -> str:
    """Return a file argument as something describe() takes: URLs as they are, local paths as absolute uris."""
    return url if is_remote(url) else local_uri(resolve(url, os.getcwd()))


def resolve(path: str, folder: str) -> str:
    """Return a local path made absolute against a folder, `~` and `..` resolved, links kept."""
    return os.path.normpath(os.path.join(folder, os.path.expanduser(path.removeprefix("file://"))))


def join(folder: str, name: str) -> str:
    """Return the uri of a name inside a folder."""
    return f"{folder.rstrip('/')}/{name}"


def redact(text: str) -> str:
    """Take queries and passwords of URLs out of a message."""
    return re.sub(r"(\w+://)[^\s/'\"]+@", r"\1", re.sub(r"(\w+://[^\s?'\"]+)\?[^\s'\")]*", r"\1", text))


_signed: dict[str, str] = {}
_ESCAPED = re.compile(r"%25(?=[0-9A-Fa-f]{2})|%[89A-F][0-9A-F]")
_SECRET_PARAMETER = re.compile(
    r"(?i)x-(amz|goog|ms)-.*|awsaccesskeyid|googleaccessid|signature|sig|expires|policy|key-pair-id|s[eprv]|st|spr|"
    r"sk(oid|tid|t|e|s|v)|access_token|token|auth|api_?key|key|secret|password"
)


def _unescape(match: re.Match[str]) -> str:
    return "%" if match[0] == "%25" else chr(0xDC00 + int(match[0][1:], 16))
