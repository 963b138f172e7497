"""Read and write whole files; writes are atomic."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout
from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.exceptions import FSTimeoutError

from tagger.errors import (
    AccessDenied,
    MissingExtra,
    SourceError,
    SourceNotFound,
    SourceTooLarge,
    UsageError,
    WriteError,
)
from tagger.storage import objects, web
from tagger.storage.stores import filesystem, missing_package, named_errors, reason_of, through_outages
from tagger.storage.uris import is_remote, local_path

READ_TIMEOUT = 60.0
"""Timeout of a remote read in seconds."""


def read_bytes(uri: str, attempts: int = 3, timeout: float = READ_TIMEOUT) -> bytes:
    """Return the whole content of one file; failed remote reads are retried, except after a timeout.

    Raises SourceError; AccessDenied with `credentials` means that all other reads will fail too.
    """
    if not is_remote(uri):
        return _read_local(uri)
    return _with_retries(uri, functools.partial(_whole, timeout=timeout), attempts)


def read_range(
    uri: str, start: int, size: int, timeout: float = READ_TIMEOUT, whole: bool = True, attempts: int = 3
) -> bytes:
    """Return `size` bytes of a file from `start` on, or fewer at its end if not `whole`; raises SourceError."""
    if is_remote(uri):
        content = _with_retries(uri, functools.partial(_range, start=start, size=size, timeout=timeout), attempts)
    else:
        with open_input(uri) as file:
            file.seek(start)
            content = file.read(size)
    if whole and len(content) < size:
        raise SourceError(f"{uri}: ends {size - len(content)} bytes too early")
    return content


def _range(fs: AbstractFileSystem, path: str, start: int, size: int, timeout: float) -> bytes:
    end = start + size
    with _as_read_timeout(timeout):
        if "s3" in fs.protocol and (quick := objects.read(fs, path, timeout, (start, end))) is not None:
            return quick
        if isinstance(fs, AsyncFileSystem):
            return bytes(sync(fs.loop, fs._cat_file, path, start=start, end=end, timeout=timeout))
        return bytes(fs.cat_file(path, start=start, end=end))


def _whole(fs: AbstractFileSystem, path: str, timeout: float) -> bytes:
    with _as_read_timeout(timeout):
        if "s3" in fs.protocol and (quick := objects.read(fs, path, timeout)) is not None:
            return quick
        if isinstance(fs, AsyncFileSystem):
            read = functools.partial(web.read, fs) if "http" in fs.protocol else fs._cat_file
            return bytes(sync(fs.loop, read, path, timeout=timeout))
        return bytes(fs.cat_file(path))


@contextlib.contextmanager
def _as_read_timeout(timeout: float) -> Iterator[None]:
    try:
        yield
    except (FSTimeoutError, TimeoutError) as error:
        raise ReadTimeout(f"no response within {timeout:g} s") from error


class ReadTimeout(Exception):
    """A read that timed out; it is not retried, since that would delay the following files again."""


def read_tail(uri: str, count: int, size: int | None = None) -> bytes:
    """Return the last `count` bytes of a file, or all of a shorter one; raises SourceError as read_bytes() does.

    Passing the `size` of a remote file saves a request.
    """

    def tail(fs: AbstractFileSystem, path: str) -> bytes:
        if size and is_remote(uri):
            start = max(0, size - count)
            return _range(fs, path, start, size - start, READ_TIMEOUT)
        end = size
        if end is None or not is_remote(uri):
            info = fs.info(path)
            if info["type"] != "file":  # opening a pipe or device would block
                raise SourceError(f"{uri}: not a regular file")
            end = int(info["size"])
        return bytes(fs.cat_file(path, start=max(0, end - count), end=end)) if end else b""

    return _with_retries(uri, tail, 3 if is_remote(uri) else 1)


def _with_retries(uri: str, read: Callable[[AbstractFileSystem, str], bytes], attempts: int) -> bytes:
    """Read a remote file, retrying after a delay."""
    for attempt in range(1, attempts + 1):
        try:
            with named_errors(uri):
                return through_outages(uri, lambda: read(*filesystem(uri)))
        except (SourceNotFound, SourceTooLarge, AccessDenied):
            raise
        except (UsageError, MissingExtra) as error:  # an unsupported scheme is an error of this file only
            raise SourceError(str(error)) from error
        except SourceError as error:
            if attempt == attempts or isinstance(error.__cause__, ReadTimeout):
                raise
            time.sleep(0.2 * 4**attempt)
    raise AssertionError("unreachable")


def _read_local(uri: str) -> bytes:
    path = local_path(uri)
    try:
        _check_regular(uri, path)
        with open(path, "rb") as file:
            return file.read()
    except SourceError:
        raise
    except FileNotFoundError as error:
        gone = "a broken link" if os.path.islink(path) else "the file does not exist"
        raise SourceNotFound(f"{uri}: {gone}") from error
    except OSError as error:
        raise SourceError(f"{uri}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:  # a name that no file system allows
        raise SourceNotFound(f"{uri}: not a valid file name ({error})") from error


def _check_regular(uri: str, path: str) -> None:
    """Raise SourceError for a pipe, a device or a file of the kernel: opening or reading one may block forever."""
    info = os.stat(path)
    if not stat.S_ISREG(info.st_mode) or info.st_dev in kernel_devices():
        raise SourceError(f"{uri}: not a regular file")


@functools.cache
def kernel_devices() -> frozenset[int]:
    """Return the device numbers of the kernel's virtual file systems."""
    return frozenset(os.stat(folder).st_dev for folder in ("/proc", "/sys", "/dev") if os.path.isdir(folder))


@contextlib.contextmanager
def open_input(uri: str) -> Iterator[IO[bytes]]:
    """Open a file for seekable binary reading, as Parquet needs it."""
    with named_errors(uri):
        if is_remote(uri):
            fs, path = filesystem(uri)
            opened = fs.open(path, "rb")
        else:
            _check_regular(uri, local_path(uri))
            opened = open(local_path(uri), "rb")  # noqa: SIM115
    with opened as file:
        yield file


def names_in(folder: str) -> list[str] | None:
    """Return the names directly inside a folder, sorted; None if the folder does not exist.

    Raises SourceError when it is a file.
    """
    sizes = sizes_in(folder)
    return None if sizes is None else list(sizes)


def sizes_in(folder: str) -> dict[str, int | None] | None:
    """Return the names directly inside a folder, sorted, with the size of each if the listing has it.

    None if the folder does not exist. Raises SourceError when it is a file.
    """
    with named_errors(folder):
        fs, path = filesystem(folder)
        try:
            if not is_remote(folder):
                return dict.fromkeys(sorted(os.listdir(path)))
            infos = through_outages(folder, lambda: fs.ls(path, detail=True))
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise SourceError(f"{folder}: is a file, not a folder") from error
    sizes = {info["name"].rstrip("/"): info.get("size") for info in infos}
    sizes.pop(path.rstrip("/"), None)
    if infos and not sizes and infos[0]["type"] == "file":
        raise SourceError(f"{folder}: is a file, not a folder")
    return dict(sorted((name.rpartition("/")[2], size) for name, size in sizes.items()))


def exists(uri: str) -> bool:
    """Return whether a file or folder exists."""
    with named_errors(uri):
        fs, path = filesystem(uri)
        return bool(fs.exists(path))


def write_atomic(uri: str, content: bytes) -> None:
    """Write a file atomically: one put to an object store; locally a temporary file is written, synced and renamed.

    Raises WriteError.
    """
    try:
        if is_remote(uri):
            fs, path = filesystem(uri)
            through_outages(uri, lambda: fs.pipe_file(path, content))
        else:
            _write_local(local_path(uri), content)
    except UsageError:
        raise
    except ImportError as error:
        raise missing_package(uri, error) from error
    except Exception as error:
        reason = reason_of(error, uri)
        raise WriteError(f"{uri}: cannot write ({reason}); no partial file was left") from error


def write_new(uri: str, content: bytes) -> bool:
    """Write a file atomically unless it exists; return whether it was written. Of several writers, one succeeds.

    An object store must support conditional writes, as S3, Azure and Google Cloud Storage do. Raises WriteError.
    """
    try:
        if is_remote(uri):
            fs, path = filesystem(uri)
            if fs.exists(path):
                return False
            fs.pipe_file(path, content, mode="create")
        else:
            _write_local(local_path(uri), content, os.link)
    except UsageError:
        raise
    except ImportError as error:
        raise missing_package(uri, error) from error
    except Exception as error:
        if _was_there(uri, error):
            return False
        raise WriteError(f"{uri}: cannot write ({reason_of(error, uri)}); no partial file was left") from error
    return True


def _was_there(uri: str, error: Exception) -> bool:
    """Return whether a conditional write failed because the file exists."""
    if isinstance(error, FileExistsError):
        return is_remote(uri) or os.path.exists(local_path(uri))  # else a file stands where its folder should be
    answer = str(error).replace(uri.partition("://")[2], "")
    return is_remote(uri) and bool(re.search(r"PreconditionFailed|\b412\b", answer))


def _write_local(path: str, content: bytes, publish: Callable[[str, str], None] = os.replace) -> None:
    try:
        _write_and_publish(path, content, publish)
    except FileNotFoundError:  # the folder was moved or deleted meanwhile: write once more, into a new one
        _write_and_publish(path, content, publish)


def _write_and_publish(path: str, content: bytes, publish: Callable[[str, str], None]) -> None:
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"_tmp-{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        publish(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)  # linked, or not published
    sync_folder(folder)


def sync_folder(path: str) -> None:
    """Flush the entries of a local folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Return the cache folder: $TAGGER_CACHE, else `tagger` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("TAGGER_CACHE") or os.path.join(base, "tagger"))


LOCK = "_lock"
"""Lock file in a folder."""


@contextlib.contextmanager
def claimed(folder: str) -> Iterator[None]:
    """Lock a local folder, created if needed, while the block runs; raises WriteError if another process has locked it.

    The lock ends with the process. Object stores have no locks, so a remote folder is not locked.
    """
    if is_remote(folder):
        yield
        return
    path = Path(local_path(folder))
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK, timeout=0)
        with lock:
            try:
                yield
            finally:
                (path / LOCK).unlink(missing_ok=True)
    except Timeout as error:
        raise WriteError(
            f"{folder}: another process is writing to this folder; wait for it or choose another"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # not empty
            path.rmdir()


def rename(uri: str, new_uri: str) -> None:
    """Move a file within its store."""
    with named_errors(uri):
        fs, path = filesystem(uri)
        fs.mv(path, filesystem(new_uri)[1])


def remove_folder(uri: str) -> None:
    """Delete a folder and its content, if it exists."""
    with named_errors(uri), contextlib.suppress(FileNotFoundError):
        fs, path = filesystem(uri)
        fs.rm(path, recursive=True)


def remove(uri: str) -> None:
    """Delete a file, if it exists."""
    with named_errors(uri), contextlib.suppress(FileNotFoundError):
        fs, path = filesystem(uri)
        fs.rm_file(path)
