"""Find the images of a folder, a bucket or a glob, or describe one file."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.utils import glob_translate

from tagger.errors import AccessDenied, MissingExtra, SourceError, SourceNotFound, UsageError
from tagger.redaction import public_uri
from tagger.storage import archives
from tagger.storage.files import kernel_devices
from tagger.storage.names import FoundFile, is_image_name
from tagger.storage.stores import filesystem, is_credential_error, named_errors
from tagger.storage.uris import is_remote, local_path, local_uri

Info = Mapping[str, object]
"""Metadata of a file, with the key names of fsspec and the store."""
DESCRIBE_TIMEOUT = 10.0
"""Timeout in seconds of a request for a file's size and time; after it, the file is read without them."""
MAX_NUMBERED = 100_000
"""Maximum number of files that a numeric range may expand to."""


def find_images(source: str, skipped: Counter[str] | None = None) -> Iterator[FoundFile]:
    """Yield the images of a folder (recursively), a glob, or one file; sorted within each folder.

    `skipped` counts skipped entries by reason. Raises SourceNotFound, AccessDenied, MissingExtra or UsageError.
    """
    skipped = Counter() if skipped is None else skipped
    for each in _numbered(source):
        yield from _find(each, skipped)


def _numbered(source: str) -> list[str]:
    """Expand a numeric range in braces, such as shards-{000..099}.tar."""
    match = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", source)
    if not match or os.path.lexists(source):
        return [source]
    before, first, last, after = match.groups()
    numbers = range(int(first), int(last) + 1)
    if not 0 < len(numbers) <= MAX_NUMBERED:
        raise UsageError(f"{source}: a range must have 1 to {MAX_NUMBERED:,} numbers, got {len(numbers):,}")
    return [f"{before}{number:0{len(first)}d}{after}" for number in numbers]


def _find(source: str, skipped: Counter[str]) -> Iterator[FoundFile]:
    if is_remote(source):
        with named_errors(source):
            yield from _find_remote(source, skipped)
    else:
        yield from _find_local(os.path.expanduser(source.removeprefix("file://")), skipped)


def describe(url: str, timeout: float = DESCRIBE_TIMEOUT) -> FoundFile:
    """Return a file as described by its store; size and time are None if that fails or takes too long."""
    if inside := archives.split(url):
        return _described_member(inside)
    if not is_remote(url):
        path = os.path.abspath(local_path(url))
        return _found_local(path, _stat(path))
    try:
        with named_errors(url):
            fs, path = filesystem(url)
            is_async = isinstance(fs, AsyncFileSystem)  # others take no timeout
            info = sync(fs.loop, fs._info, path, timeout=timeout) if is_async else fs.info(path)
            return _found_remote(public_uri(url), url, info)
    except (SourceError, UsageError, MissingExtra) as error:  # it still gets a row, with the error from reading it
        if is_credential_error(error):
            raise
    return _found_remote(public_uri(url), url, {})


def _described_member(inside: archives.Inside) -> FoundFile:
    archive = describe(inside.archive)
    file = archive._replace(uri=f"{archive.uri}::{inside.member}", bytes=None, location="::".join(inside))
    try:
        member = archives.find(inside)
    except SourceError:  # it still gets a row, with the error from reading it
        return file
    return file._replace(bytes=member.size)


def _images_of(file: FoundFile, name: str, skipped: Counter[str]) -> Iterator[FoundFile]:
    """Yield a file with the name of an image, or the images of an archive; count any other as skipped."""
    if archives.is_archive(name):
        try:
            yield from archives.members(file, skipped)
        except archives.NoImages:
            skipped["not an image"] += 1
    elif is_image_name(name):
        yield file
    else:
        skipped["not an image"] += 1


def _printable(uri: str) -> str:
    """Return a URL that is valid UTF-8: other bytes become %FF."""
    return re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", uri)


def _find_local(source: str, skipped: Counter[str]) -> Iterator[FoundFile]:
    if os.path.isfile(source):
        folder, name = os.path.split(os.path.abspath(source))
        path = os.path.join(os.path.realpath(folder), name)
        file = _found_local(path, os.stat(path))
        yield from _images_of(file, name, skipped) if archives.is_archive(name) else [file]
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
        yield from (entry for entry in found if matches(local_path(_file_of(entry.uri))))
    else:
        raise SourceNotFound(f"{source}: not found; expected a folder, a file, a glob, a URL or a list of URLs")


def _walk_local(folder: str, skipped: Counter[str], seen: set[tuple[int, int]]) -> Iterator[FoundFile]:
    """Walk depth first without recursion; a folder that several links lead to is walked once."""
    pending = [folder]
    while pending:
        folder = pending.pop()
        try:
            info = os.stat(folder)
            if (info.st_dev, info.st_ino) in seen:
                continue
            seen.add((info.st_dev, info.st_ino))
            if info.st_dev in kernel_devices():  # /proc/self/root leads to all files of the machine
                skipped["kernel file system"] += 1
                continue
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
            elif not is_image_name(entry.name) and not archives.is_archive(entry.name):
                skipped["not an image"] += 1
            elif (file := _stat(entry.path)) is not None and not stat.S_ISREG(file.st_mode):
                skipped["not a regular file"] += 1
            else:
                yield from _images_of(_found_local(entry.path, file), entry.name, skipped)
        pending.extend(reversed(folders))


def _file_of(uri: str) -> str:
    """Return the file that holds a member of an archive, or the file itself."""
    inside = archives.split(uri)
    return inside.archive if inside else uri


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None  # a broken link, a deleted file or an invalid path gets a row, with the error from reading it


def _found_local(path: str, info: os.stat_result | None) -> FoundFile:
    if info is None:
        return FoundFile(local_uri(path), None, None, None)
    return FoundFile(local_uri(path), info.st_size, _from_ns(min(max(info.st_mtime_ns, 0), _LAST_NS)), None)


_LAST_NS = 253_402_300_799_999_999_999
"""The end of the year 9999, the maximum of Python's datetime; file systems may have later times."""


def _from_ns(ns: int) -> datetime:
    seconds, rest = divmod(ns, 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)


def _find_remote(source: str, skipped: Counter[str]) -> Iterator[FoundFile]:
    fs, path = filesystem(source)
    is_glob = any(sign in path for sign in "*?[") and not fs.exists(path)
    if source.startswith(("http://", "https://")) or (not is_glob and fs.isfile(path)):
        file = describe(source)  # web servers do not list folders
        name = path.partition("?")[0]
        yield from _images_of(file, name, skipped) if archives.is_archive(name) else [file]
        return
    root = re.split(r"[*?\[]", path)[0].rpartition("/")[0] if is_glob else path.rstrip("/")
    base = source[: len(source) - (len(path) - len(root))].rstrip("/")
    public_base = public_uri(base)
    matches = re.compile(glob_translate(path) if is_glob else "").match
    found_any = False
    for full, info in _walk_remote(fs, root, skipped):
        found_any = True
        if matches(full):
            inside = full[len(root) :]
            yield from _images_of(_found_remote(public_base + inside, base + inside, info), full, skipped)
    if not found_any and not fs.exists(root):
        raise SourceNotFound(f"{source}: not found, or empty")


def _walk_remote(fs: AbstractFileSystem, root: str, skipped: Counter[str]) -> Iterator[tuple[str, Info]]:
    """Yield (path, info) of every file that is not hidden."""
    found = _s3_objects(fs, root) if "s3" in fs.protocol else _walk_folders(fs, root, skipped)
    for path, info in found:
        names = path[len(root) :].split("/")
        if any(name.startswith(".") and name not in (".", "..") for name in names):
            skipped["hidden"] += 1
        elif names[-1]:  # an object without a name represents the folder itself
            yield path, info


def _s3_objects(fs: AbstractFileSystem, root: str) -> Iterator[tuple[str, Info]]:
    """Yield every object under a prefix, page by page: folder by folder would lose keys with `//` in them."""
    bucket, _, prefix = root.partition("/")
    options = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", **fs.req_kw}
    while True:
        page = fs.call_s3("list_objects_v2", **options)
        for item in page.get("Contents", ()):
            yield f"{bucket}/{item['Key']}", {**item, "size": item["Size"]}
        if not page.get("IsTruncated"):
            return
        options["ContinuationToken"] = page["NextContinuationToken"]


def _walk_folders(fs: AbstractFileSystem, root: str, skipped: Counter[str]) -> Iterator[tuple[str, Info]]:
    """Yield every file, folder by folder; hidden folders are not listed."""
    for folder, subfolders, files in fs.walk(root, detail=True, on_error="raise"):
        for name in [name for name in subfolders if name.startswith(".")]:
            del subfolders[name]
            skipped["hidden"] += 1
        for name in sorted(files):
            yield f"{folder.rstrip('/')}/{name}", files[name]


def _found_remote(uri: str, url: str, info: Info) -> FoundFile:
    size, location = info.get("size"), None if uri == url else _printable(url)
    modified = next((info[key] for key in _MODIFIED if info.get(key) is not None), None)
    etag = next((str(info[key]).strip('"') for key in _ETAGS if info.get(key)), None)
    return FoundFile(_printable(uri), size if isinstance(size, int) else None, _time(modified), etag, location)


_MODIFIED = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
_ETAGS = ("ETag", "etag", "md5Hash", "content_md5")


def _time(value: object) -> datetime | None:
    """Return a store's time (datetime, ISO text or seconds since 1970) in UTC; a time without a zone is UTC."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
