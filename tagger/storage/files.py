"""Read and write single files: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tagger.errors import AccessDenied, SourceError, SourceNotFound, UsageError, WriteError
from tagger.redaction import redact
from tagger.storage import objects
from tagger.storage.stores import filesystem, missing_package, named_errors
from tagger.storage.uris import is_remote, local_path


def read_bytes(uri: str, attempts: int = 3) -> bytes:
    """Return the whole content of one file; remote reads are retried.

    Raises SourceError; AccessDenied with `credentials` means that every other read will fail too.
    """
    if not is_remote(uri):
        return _read_local(uri)

    def whole(fs: Any, path: str) -> bytes:
        quick = objects.read(fs, path) if "s3" in fs.protocol else None
        content: bytes = fs.cat_file(path) if quick is None else quick
        return content

    return _with_retries(uri, whole, attempts)


def read_tail(uri: str, count: int) -> bytes:
    """Return the last `count` bytes of a file, all of a shorter one; raises SourceError as read_bytes() does."""
    if not is_remote(uri):
        try:
            with open(local_path(uri), "rb") as file:
                file.seek(-min(count, file.seek(0, os.SEEK_END)), os.SEEK_END)
                return file.read()
        except OSError as error:
            raise SourceError(f"{uri}: {(error.strerror or str(error)).lower()}") from error

    def tail(fs: Any, path: str) -> bytes:
        size = fs.info(path)["size"]
        content: bytes = fs.cat_file(path, start=max(0, size - count), end=size)
        return content

    return _with_retries(uri, tail, 3)


def _with_retries(uri: str, read: Callable[[Any, str], bytes], attempts: int) -> bytes:
    """Read a remote file, retrying after a delay."""
    for attempt in range(1, attempts + 1):
        try:
            with named_errors(uri):
                return read(*filesystem(uri))
        except (SourceNotFound, AccessDenied):
            raise
        except UsageError as error:  # an unknown scheme is the error of this file alone
            raise SourceError(str(error)) from error
        except SourceError:
            if attempt == attempts:
                raise
            time.sleep(0.2 * 4**attempt)
    raise AssertionError("unreachable")


def _read_local(uri: str) -> bytes:
    path = local_path(uri)
    try:
        # opening a pipe or device would block
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SourceError(f"{uri}: not a regular file")
        with open(path, "rb") as file:
            return file.read()
    except SourceError:
        raise
    except FileNotFoundError as error:
        gone = "a broken link" if os.path.islink(path) else "the file is gone"
        raise SourceNotFound(f"{uri}: {gone}") from error
    except OSError as error:
        raise SourceError(f"{uri}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:  # a name that no file system has
        raise SourceNotFound(f"{uri}: not a valid file name ({error})") from error


@contextlib.contextmanager
def open_input(uri: str) -> Iterator[IO[bytes]]:
    """Open a file for seekable binary reading, as Parquet needs it."""
    with named_errors(uri):
        if is_remote(uri):
            fs, path = filesystem(uri)
            opened = fs.open(path, "rb")
        else:
            opened = open(local_path(uri), "rb")  # noqa: SIM115
    with opened as file:
        yield file


def names_in(folder: str) -> list[str] | None:
    """Return the names directly inside a folder, sorted; None when there is no such folder.

    Raises SourceError when it is a file.
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
    with named_errors(folder):
        fs, path = filesystem(folder)
        try:
            infos = fs.ls(path, detail=True)
        except FileNotFoundError:
            return None
        own = path.rstrip("/")
        if [info["name"].rstrip("/") for info in infos if info["type"] == "file"] == [own]:
            raise SourceError(f"{folder}: is a file, not a folder")
        return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in infos if info["name"].rstrip("/") != own)


def exists(uri: str) -> bool:
    """Return whether a file or folder exists."""
    if not is_remote(uri):
        return os.path.exists(local_path(uri))
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
            fs.pipe_file(path, content)
        else:
            _write_local(local_path(uri), content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(f"{uri}: cannot write ({reason}); no partial file was left") from error
    except ImportError as error:
        raise missing_package(uri, error) from error
    except Exception as error:
        if isinstance(error, UsageError):
            raise
        raise WriteError(f"{uri}: cannot write ({redact(str(error))[:300]})") from error


def _write_local(path: str, content: bytes) -> None:
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"_tmp-{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Return the cache folder: $TAGGER_CACHE, else `tagger` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get("TAGGER_CACHE") or os.path.join(base, "tagger"))


def rename(uri: str, new_uri: str) -> None:
    """Move a file within its store."""
    with named_errors(uri):
        if is_remote(uri):
            fs, path = filesystem(uri)
            fs.mv(path, filesystem(new_uri)[1])
        else:
            os.replace(local_path(uri), local_path(new_uri))


def remove_folder(uri: str) -> None:
    """Delete a folder and all that is in it; one that does not exist is no error."""
    with named_errors(uri), contextlib.suppress(FileNotFoundError):
        if is_remote(uri):
            fs, path = filesystem(uri)
            fs.rm(path, recursive=True)
        else:
            shutil.rmtree(local_path(uri))


def remove(uri: str) -> None:
    """Delete a file; one that does not exist is no error."""
    with named_errors(uri), contextlib.suppress(FileNotFoundError):
        if is_remote(uri):
            fs, path = filesystem(uri)
            fs.rm_file(path)
        else:
            os.remove(local_path(uri))
