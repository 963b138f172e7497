"""Text that leaves the process: `public_uri` for tables, `redact` for messages, `visible` for terminals and pages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from urllib.parse import unquote

_SECRET = re.compile(
    # the parts of a signature, as object stores and content delivery networks call them
    r"x-(amz|goog|ms|oss|cos|obs|tos)-.*|(aws|oss)?access_?key.*|googleaccessid|key-pair-id|policy|"
    r"sig|sign|sas|hmac|hdne?[ats]+|expire[sd]?|expiry|exp|"
    r"s[eiprsv]|sip|st|spr|srt|sk(oid|tid|t|e|s|v)|s[asu]oid|scid|sdd|rsc[cdelt]|"
    # passwords, keys and sessions
    r".*(signature|token|secret|passw|credential|auth|session|sessid|jwt|bearer|private).*|pass|pwd|pw|pin|code|"
    r"(.*[_-])?(api|access|subscription|client)?[_-]?key",
    re.IGNORECASE,
)
"""Query parameters that are removed: secrets, and the parts of a signature, which change although the file does not."""
_HARMLESS = frozenset(
    [
        "id", "v", "ver", "version", "versionid", "generation", "alt", "w", "width", "h", "height", "size", "q",
        "quality", "fm", "fmt", "format", "fit", "crop", "dpr", "auto", "page", "frame", "index", "n", "name", "file",
        "filename", "path", "lang", "dl", "download", "raw",
    ]
)  # fmt: skip
"""Query parameters whose values are shown as they are."""
_PLAIN = re.compile(r"\d{1,10}|~[0-9a-f]{8}")
"""A number, or the hash that stands for a value."""

_WEB = ("http", "https")
_CONTAINER_AT_ACCOUNT = ("abfs", "abfss", "wasb", "wasbs")
_NO_HOST = ("memory", "file", "local", "zip", "tar")
_SCHEME = r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://"
_START = re.compile(f"(?i)(?={_SCHEME})")
_PARTS = re.compile(r"(?is)([a-z][a-z0-9+.-]*)://([^/?#]*)(.*)")
_HOST = re.compile(r"(\[[^\]]*\]|[^:@]*)(:\d*)?|arn:.*")
_IN_TEXT = re.compile(
    rf"(?i){_SCHEME}(?:[^\s/?#@:\[]+:(?!\d+(?:\W|$)|[/?#\s]|$)[^@\n]*@)?"  # a password may hold spaces and slashes
    r"[^\s<>\"]+"
)
_QUERY_IN_TEXT = re.compile(r"(?<=[?#])[\w.~%-]+=[^\s<>\"]*")
_PATH_PARAMETER = re.compile(r";([^;/=]+)=[^;/]*")
"""As in `/a.jpg;jsessionid=1`."""
_SHORTEST_SECRET = 6
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, and characters that change the direction of writing."""
_PUNCTUATION = "'`),;:.]}!"
"""Characters that may follow a URL in a sentence without being part of it."""


def public_uri(url: str) -> str:
    """Return a URL without user, password and signature, however malformed it is; other text unchanged.

    Of an http(s) URL the fragment is removed too, and a value that is not known to be harmless is replaced by its hash,
    so that two images do not become one. In the keys of other stores `?` and `#` are ordinary characters, and only
    secrets are removed.
    """
    return "".join(map(_public, _START.split(url)))


def redact(text: str) -> str:
    """Return a message without the secrets of its URLs, and of queries that appear apart from their URL."""
    public = _sub(_IN_TEXT, public_uri, text)
    return _sub(_QUERY_IN_TEXT, lambda query: _query(query, web=True), public)


def visible(text: str) -> str:
    r"""Return text with its control characters escaped, such as \x1b, except line breaks and tabs."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def without_secrets(text: str, url: str) -> str:
    """Return a message without the credentials of `url`, even where they appear apart from it."""
    public = public_uri(url)
    text = text.replace(url, public)
    words = {word.partition("=")[2] or word for word in re.split("[/?#&;@:]", url)}
    words |= set(re.findall("://[^:/]*:(.+)@", url))
    for word in sorted(words | set(map(unquote, words)), key=len, reverse=True):
        if len(word) >= _SHORTEST_SECRET and word not in public:
            text = text.replace(word, "***")
    return redact(text)


def _sub(pattern: re.Pattern[str], change: Callable[[str], str], text: str) -> str:
    """Replace every match, except the punctuation that follows it."""

    def changed(match: re.Match[str]) -> str:
        found = match[0].rstrip(_PUNCTUATION)
        return change(found) + match[0][len(found) :]

    return pattern.sub(changed, text)


def _public(url: str) -> str:
    parts = _PARTS.fullmatch(url)
    if not parts or parts[1].lower() in _NO_HOST:
        return url
    scheme, host, rest = parts[1].lower(), parts[2], parts[3]
    user, at, server = host.rpartition("@")
    if at and (":" in user or scheme not in _CONTAINER_AT_ACCOUNT):
        host = server
    elif not at and "@" in rest and not _HOST.fullmatch(host):  # an unescaped slash in the password
        return _public(f"{parts[1]}://{rest.rpartition('@')[2]}")
    if scheme in _WEB:
        rest = rest.partition("#")[0]
    path, mark, query = rest.partition("?")
    if scheme in _WEB:
        path = _PATH_PARAMETER.sub(lambda found: "" if _SECRET.fullmatch(unquote(found[1])) else found[0], path)
    public = _query(query, scheme in _WEB)
    return f"{parts[1]}://{host}{path}{mark if public or not query else ''}{public}"


def _query(query: str, web: bool) -> str:
    given = re.split("[&;]", query)
    public = [each for each in (_parameter(each, web) for each in given) if each is not None]
    return query if public == given else "&".join(public)


def _parameter(parameter: str, web: bool) -> str | None:
    """Return a query parameter, its value hashed unless it is harmless; None for a secret."""
    name, _, value = parameter.partition("=")
    called = unquote(name).lower()
    if _SECRET.fullmatch(called):
        return None
    harmless = called in _HARMLESS and "://" not in unquote(value)
    if not web or not parameter or harmless or _PLAIN.fullmatch(value or name):
        return parameter
    named = re.search(r"\w", value)  # else all of it is one opaque value, perhaps padded base64
    hashed = hashlib.sha256((value if named else parameter).encode(errors="surrogateescape")).hexdigest()[:8]
    return f"{name}=~{hashed}" if named else f"~{hashed}"
