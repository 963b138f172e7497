"""Folders, buckets and single files: list, read, write atomically. The only module that touches fsspec.

A `uri` names a file in every table: locally the absolute POSIX path, remotely the scheme URL. Bytes of a local name
that are not UTF-8 become `%FF`, a literal `%` before two hex digits `%25`; credentials and signatures never get in.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import fsspec
from fsspec.core import url_to_fs
from fsspec.utils import glob_translate

from tagger.errors import AccessDenied, MissingExtra, SourceError, SourceNotFound, UsageError, WriteError

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure",
          "adl": "azure", "http": "http", "https": "http"}  # fmt: skip

IMAGE_SUFFIXES = frozenset(
    [
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "png",
        "apng",
        "webp",
        "gif",
        "bmp",
        "dib",
        "tif",
        "tiff",
        "avif",
        "avifs",
        "heic",
        "heif",
        "jp2",
        "j2k",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
        "tga",
        "ico",
    ]
)


class FoundFile(NamedTuple):
    """One file as its store describes it; None where the store does not say."""

    uri: str
    bytes: int | None
    modified_at: datetime | None
    etag: str | None


# --- names ------------------------------------------------------------------------------------------------------------


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
    parts = urlsplit(url)
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
    return re.sub(r"(\w+://)[^\s/@'\"]+@", r"\1", re.sub(r"(\w+://[^\s?'\"]+)\?[^\s'\",)]*", r"\1", text))


_ESCAPED = re.compile(r"%25(?=[0-9A-Fa-f]{2})|%[89A-F][0-9A-F]")
_SECRET_PARAMETER = re.compile(
    r"(?i)x-(amz|goog|ms)-.*|awsaccesskeyid|googleaccessid|signature|sig|expires|policy|key-pair-id|s[eprv]|st|spr|"
    r"sk(oid|tid|t|e|s|v)|access_token|token|auth|api_?key|key|secret|password"
)
_signed: dict[str, str] = {}


def _unescape(match: re.Match[str]) -> str:
    return "%" if match[0] == "%25" else chr(0xDC00 + int(match[0][1:], 16))


# --- errors -----------------------------------------------------------------------------------------------------------

_CREDENTIALS = re.compile(
    r"NoCredentials|PartialCredentials|DefaultCredentials|TokenRetrieval|RefreshError|ClientAuthentication|"
    r"Unable to locate credentials|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthFailure|"
    r"AuthenticationFailed|InvalidClientTokenId|Access Key Id you provided|signature we calculated|token.*expired",
    re.IGNORECASE,
)


def is_credential_error(error: BaseException) -> bool:
    """Tell whether the store refused who we are, rather than one file."""
    chain: BaseException | None = error
    while chain is not None:
        if _CREDENTIALS.search(f"{type(chain).__name__} {chain}"):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


@contextlib.contextmanager
def _named_errors(url: str) -> Iterator[None]:
    """Turn what stores raise into our tree, naming the URL."""
    try:
        yield
    except (SourceError, UsageError, MissingExtra):
        raise
    except FileNotFoundError as error:
        raise SourceNotFound(f"{redact(url)}: not found") from error
    except ImportError as error:
        scheme = url.partition("://")[0]
        raise MissingExtra(f"{scheme}://", error.name or scheme, EXTRAS.get(scheme, scheme)) from error
    except Exception as error:
        reason = redact(" ".join(str(error).split()))[:300] or type(error).__name__
        if is_credential_error(error):
            raise AccessDenied(f"{redact(url)}: the store refused the credentials ({reason})") from error
        if isinstance(error, PermissionError):
            raise AccessDenied(f"{redact(url)}: permission denied ({reason})") from error
        raise SourceError(f"{redact(url)}: {reason}") from error


def _filesystem(url: str) -> tuple[Any, str]:
    """Return (fsspec filesystem without listing caches, path) of a remote URL."""
    scheme = url.partition("://")[0]
    known = fsspec.available_protocols()
    if scheme not in known:
        shown = ", ".join(f"{name}://" for name in ("s3", "gs", "az", "https", "memory", "file"))
        raise UsageError(f"{redact(url)}: unknown scheme {scheme}://; use a path or one of {shown}")
    fs, path = url_to_fs(_signed.get(url, url), use_listings_cache=False)
    return fs, str(path)


# --- listing ----------------------------------------------------------------------------------------------------------


def is_image_name(name: str) -> bool:
    """Tell whether a file name has an image suffix, in any case."""
    return name.rpartition(".")[2].lower() in IMAGE_SUFFIXES


def find_images(source: str, skipped: Counter[str] | None = None) -> Iterator[FoundFile]:
    """Yield the images of a folder (recursively), a glob, or one file; sorted within each folder.

    `skipped` counts what was passed over, by reason. Raises SourceNotFound, AccessDenied, MissingExtra or UsageError.
    """
    skipped = Counter() if skipped is None else skipped
    if is_remote(source):
        with _named_errors(source):
            yield from _find_remote(source, skipped)
    else:
        yield from _find_local(os.path.expanduser(source.removeprefix("file://")), skipped)


def describe(url: str) -> FoundFile:
    """Return what the store says about one file; size and time are None when it cannot be asked."""
    if not is_remote(url):
        path = os.path.abspath(local_path(url))
        return _found_local(path, _stat(path))
    uri = public_uri(url)
    try:
        with _named_errors(url):
            fs, path = _filesystem(uri)
            return _found_remote(uri, fs.info(path))
    except AccessDenied as error:
        if is_credential_error(error):
            raise
    except MissingExtra:
        raise
    except SourceError:
        pass  # it is listed all the same; reading it will say in its row what is wrong
    return FoundFile(uri, None, None, None)


def _find_local(source: str, skipped: Counter[str]) -> Iterator[FoundFile]:
    if os.path.isfile(source):
        folder, name = os.path.split(os.path.abspath(source))
        path = os.path.join(os.path.realpath(folder), name)
        yield _found_local(path, os.stat(path))
    elif os.path.isdir(source):
        try:
            os.listdir(source)
        except PermissionError as error:
            raise AccessDenied(f"{source}: permission denied; this folder cannot be listed") from error
        yield from _walk_local(os.path.realpath(source), skipped, set())
    elif any(sign in source for sign in "*?["):
        root = re.split(r"[*?\[]", source)[0].rpartition("/")[0] or ("/" if source.startswith("/") else ".")
        pattern = os.path.join(os.path.realpath(root), source[len(root) :].lstrip("/") if root != "." else source)
        matches = re.compile(glob_translate(pattern)).match
        if not os.path.isdir(root):
            raise SourceNotFound(f"{source}: not found; the folder {root} does not exist")
        found = _walk_local(os.path.realpath(root), skipped, set())
        yield from (entry for entry in found if matches(local_path(entry.uri)))
    else:
        raise SourceNotFound(f"{source}: not found; name a folder, a file, a glob, a URL or a list of URLs")


def _walk_local(folder: str, skipped: Counter[str], seen: set[tuple[int, int]]) -> Iterator[FoundFile]:
    """Walk depth first without recursion; every folder once, however many links lead to it."""
    pending = [folder]
    while pending:
        folder = pending.pop()
        try:
            info = os.stat(folder)
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: os.fsencode(entry.name))
        except OSError:
            skipped["folder that cannot be listed"] += 1
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                skipped["hidden"] += 1
            elif _is_folder(entry):
                folders.append(entry.path)
            elif not is_image_name(entry.name):
                skipped["not an image"] += 1
            elif (file := _stat(entry.path)) is not None and not stat.S_ISREG(file.st_mode):
                skipped["not a regular file"] += 1
            else:
                yield _found_local(entry.path, file)
        pending.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None  # a broken or looping link, or a vanished file: it is a row, and reading it says why


def _found_local(path: str, info: os.stat_result | None) -> FoundFile:
    if info is None:
        return FoundFile(local_uri(path), None, None, None)
    modified = datetime.fromtimestamp(0, UTC) if info.st_mtime_ns < 0 else _from_ns(info.st_mtime_ns)
    return FoundFile(local_uri(path), info.st_size, modified, None)


def _from_ns(ns: int) -> datetime:
    seconds, rest = divmod(ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


def _find_remote(source: str, skipped: Counter[str]) -> Iterator[FoundFile]:
    uri = public_uri(source)
    fs, path = _filesystem(uri)
    is_glob = any(sign in path for sign in "*?[") and not fs.exists(path)
    if uri.startswith(("http://", "https://")) or (not is_glob and fs.isfile(path)):
        yield describe(source)  # web servers list no folders
        return
    root = re.split(r"[*?\[]", path)[0].rpartition("/")[0] if is_glob else path.rstrip("/")
    base = uri[: len(uri) - (len(path) - len(root))].rstrip("/")
    matches = re.compile(glob_translate(path) if is_glob else "").match
    found_any = False
    for full, info in _walk_remote(fs, root, skipped):
        found_any = True
        if not is_image_name(full):
            skipped["not an image"] += 1
        elif matches(full):
            yield _found_remote(base + full[len(root) :], info)
    if not found_any and not fs.exists(root):
        raise SourceNotFound(f"{redact(source)}: not found, or nothing under it")


def _walk_remote(fs: Any, root: str, skipped: Counter[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path, info) of every file that is not hidden, folder by folder."""
    for folder, subfolders, files in fs.walk(root, detail=True, on_error="raise"):
        for name in [name for name in subfolders if name.startswith(".")]:
            del subfolders[name]
            skipped["hidden"] += 1
        for name in sorted(files):
            if name.startswith("."):
                skipped["hidden"] += 1
            elif name:  # an object without a name stands for the folder itself
                yield f"{folder.rstrip('/')}/{name}", files[name]


def _found_remote(uri: str, info: dict[str, Any]) -> FoundFile:
    modified = next((info[key] for key in _MODIFIED if info.get(key) is not None), None)
    if isinstance(modified, str):
        modified = _parse_time(modified)
    elif isinstance(modified, int | float):
        modified = datetime.fromtimestamp(modified, UTC)
    if isinstance(modified, datetime) and modified.tzinfo is None:
        modified = modified.replace(tzinfo=UTC)
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or info.get("content_md5")
    return FoundFile(uri, info.get("size"), modified, str(etag).strip('"') if etag else None)


_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")


def _parse_time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


# --- reading ----------------------------------------------------------------------------------------------------------


def read_bytes(uri: str, attempts: int = 3) -> bytes:
    """Return the whole content of one file; remote reads are tried again when the store hiccups.

    Raises SourceError; its subclass AccessDenied with a credential error means that every other read will fail too.
    """
    if not is_remote(uri):
        return _read_local(uri)
    for attempt in range(1, attempts + 1):
        try:
            with _named_errors(uri):
                fs, path = _filesystem(uri)
                content: bytes = fs.cat_file(path)
                return content
        except (SourceNotFound, AccessDenied):
            raise
        except SourceError:
            if attempt == attempts:
                raise
            time.sleep(0.2 * 4**attempt)
    raise AssertionError("unreachable")


def _read_local(uri: str) -> bytes:
    path = local_path(uri)
    try:
        # a pipe or device would block for ever
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SourceError(f"{uri}: not a regular file")
        with open(path, "rb") as file:
            return file.read()
    except SourceError:
        raise
    except FileNotFoundError as error:
        gone = "a link to nothing" if os.path.islink(path) else "the file is gone"
        raise SourceNotFound(f"{uri}: {gone}") from error
    except OSError as error:
        raise SourceError(f"{uri}: {(error.strerror or str(error)).lower()}") from error


@contextlib.contextmanager
def open_input(uri: str) -> Iterator[IO[bytes]]:
    """Open a file for seekable binary reading, as Parquet needs it."""
    with _named_errors(uri):
        if is_remote(uri):
            fs, path = _filesystem(uri)
            opened = fs.open(path, "rb")
        else:
            opened = open(local_path(uri), "rb")  # noqa: SIM115
    with opened as file:
        yield file


def names_in(folder: str) -> list[str] | None:
    """Return the names directly inside a folder, sorted; None when there is no such folder.

    Raises SourceError when the place is a file.
    """
    if not is_remote(folder):
        try:
            return sorted(os.listdir(local_path(folder)))
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise SourceError(f"{folder}: is a file, not a folder") from error
        except PermissionError as error:
            raise AccessDenied(f"{folder}: permission denied") from error
    with _named_errors(folder):
        fs, path = _filesystem(folder)
        try:
            infos = fs.ls(path, detail=True)
        except FileNotFoundError:
            return None
        own = path.rstrip("/")
        if [info["name"].rstrip("/") for info in infos if info["type"] == "file"] == [own]:
            raise SourceError(f"{redact(folder)}: is a file, not a folder")
        return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in infos if info["name"].rstrip("/") != own)


def exists(uri: str) -> bool:
    """Tell whether a file or folder is there."""
    if not is_remote(uri):
        return os.path.exists(local_path(uri))
    with _named_errors(uri):
        fs, path = _filesystem(uri)
        return bool(fs.exists(path))


# --- writing ----------------------------------------------------------------------------------------------------------


def write_atomic(uri: str, content: bytes) -> None:
    """Write a file whole or not at all: one put to an object store; locally written aside, synced and renamed.

    Raises WriteError.
    """
    try:
        if is_remote(uri):
            fs, path = _filesystem(uri)
            fs.pipe_file(path, content)
        else:
            _write_local(local_path(uri), content)
    except OSError as error:
        reason = redact(error.strerror or str(error))
        raise WriteError(f"{redact(uri)}: cannot write ({reason}); nothing half-written was left behind") from error
    except ImportError as error:
        scheme = uri.partition("://")[0]
        raise MissingExtra(f"{scheme}://", error.name or scheme, EXTRAS.get(scheme, scheme)) from error
    except Exception as error:
        if isinstance(error, UsageError):
            raise
        raise WriteError(f"{redact(uri)}: cannot write ({redact(str(error))[:300]})") from error


def _write_local(path: str, content: bytes) -> None:
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    aside = os.path.join(folder, f"_tmp-{secrets.token_hex(6)}")
    try:
        with open(aside, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Return where what can be made again is kept: $TAGGER_CACHE, else `tagger` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("TAGGER_CACHE") or os.path.join(base, "tagger"))


def rename(uri: str, new_uri: str) -> None:
    """Move a file within its store."""
    with _named_errors(uri):
        if is_remote(uri):
            fs, path = _filesystem(uri)
            fs.mv(path, _filesystem(new_uri)[1])
        else:
            os.replace(local_path(uri), local_path(new_uri))


def remove(uri: str) -> None:
    """Delete a file; one that is already gone is fine."""
    with _named_errors(uri), contextlib.suppress(FileNotFoundError):
        if is_remote(uri):
            fs, path = _filesystem(uri)
            fs.rm_file(path)
        else:
            os.remove(local_path(uri))
