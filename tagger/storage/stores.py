"""fsspec file systems, and the translation of store errors to ours."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import fsspec
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from tagger.errors import AccessDenied, MissingExtra, SourceError, SourceNotFound, UsageError
from tagger.redaction import without_secrets
from tagger.storage.uris import is_remote, local_path

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure",
          "adl": "azure", "http": "http", "https": "http"}  # fmt: skip

STORES = tuple(f"{scheme}://" for scheme, extra in EXTRAS.items() if extra != "http")
T = TypeVar("T")
log = logging.getLogger(__name__)

for _library in ("gcsfs", "s3fs", "adlfs", "fsspec", "botocore", "aiobotocore", "azure", "google"):
    # without a handler, Python would print their warnings, with tracebacks and credentials
    logging.getLogger(_library).addHandler(logging.NullHandler())

_LOCAL = LocalFileSystem()
_REFUSED = (401, 403)
"""HTTP statuses that a retry would not change, such as that of an expired signature."""
_CREDENTIALS = re.compile(
    r"NoCredentials|PartialCredentials|DefaultCredentials|TokenRetrieval|RefreshError|ClientAuthentication|"
    r"Unable to locate credentials|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthFailure|"
    r"AuthenticationFailed|InvalidClientTokenId|Access Key Id you provided|signature we calculated|token.*expired",
    re.IGNORECASE,
)


def is_credential_error(error: BaseException) -> bool:
    """Return whether the store rejected the credentials, rather than denied access to one file."""
    return isinstance(error, AccessDenied) and error.credentials


def _refuses_credentials(error: BaseException, url: str) -> bool:
    """Return whether a store's error is about credentials; the name of the file in its text is ignored."""
    key = url.partition("://")[2].partition("?")[0]
    own_words = re.compile("|".join(re.escape(name) for name in (url, key, key.rpartition("/")[2]) if name))
    texts = (f"{type(each).__name__} {own_words.sub('', str(each))}" for each in _chain(error))
    return any(map(_CREDENTIALS.search, texts))


def missing_package(url: str, error: ImportError) -> MissingExtra:
    """Return an error that names the package to install for a URL's scheme."""
    scheme = url.partition("://")[0]
    package = error.name or getattr(error.__cause__, "name", None) or scheme  # fsspec names it in the cause
    return MissingExtra(f"{scheme}://", package, EXTRAS.get(scheme))


OUTAGE = 120.0
"""Seconds that a call waits for a store that could be reached before and now cannot."""
_PAUSE = 2.0
_reached: set[str] = set()
"""Stores (scheme and bucket) that have been reached, and not given up since."""
_away: set[str] = set()
"""Stores that cannot be reached now; many threads wait for one, but only one warning is logged."""


def through_outages(url: str, call: Callable[[], T]) -> T:
    """Call a store; retry while it cannot be reached, unless it never could be. Other errors are raised at once."""
    store = "/".join(url.split("/")[:3])
    end = time.monotonic() + OUTAGE
    while True:
        try:
            result = call()
        except Exception as error:
            if store not in _reached or not _is_unreachable(error):
                raise
            if time.monotonic() > end:
                _reached.discard(store)  # other calls need not wait as long again
                raise
            if store not in _away:
                _away.add(store)
                log.warning("%s: cannot be reached; retrying for %.0f s", store, OUTAGE)
            time.sleep(_PAUSE)
        else:
            if url.startswith(STORES):
                _reached.add(store)
                _away.discard(store)
            return result


def _is_unreachable(error: BaseException) -> bool:
    """Return whether there was no connection, rather than an error response."""
    return any(isinstance(each, ConnectionError | socket.gaierror) for each in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__


@contextlib.contextmanager
def named_errors(url: str) -> Iterator[None]:
    """Translate the errors of stores into ours, which name the URL."""
    try:
        yield
    except (SourceError, UsageError, MissingExtra):
        raise
    except FileNotFoundError as error:
        raise SourceNotFound(f"{url}: not found") from error
    except ImportError as error:
        raise missing_package(url, error) from error
    except Exception as error:
        reason = reason_of(error, url)
        if _refuses_credentials(error, url):
            message = f"{url}: the store refused the credentials ({reason})"
            raise AccessDenied(message, credentials=True) from error
        if isinstance(error, PermissionError) or getattr(error, "status", None) in _REFUSED:
            detail = "" if reason == "permission denied" else f" ({reason})"
            raise AccessDenied(f"{url}: permission denied{detail}") from error
        raise SourceError(f"{url}: {reason}") from error


def reason_of(error: Exception, url: str) -> str:
    """Return the text of a store's error without the credentials of the URL, or the operating system's reason."""
    if isinstance(error, OSError) and error.errno and error.strerror == os.strerror(error.errno):
        return error.strerror.lower()
    return without_secrets(" ".join(str(error).split()), url)[:300] or type(error).__name__


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """Return (fsspec filesystem without listing caches, path) of a local uri or a remote URL."""
    if not is_remote(url):
        return _LOCAL, local_path(url)
    scheme = url.partition("://")[0]
    if scheme not in fsspec.available_protocols():
        shown = ", ".join(f"{name}://" for name in ("s3", "gs", "az", "https", "memory", "file"))
        raise UsageError(f"{url}: unknown scheme {scheme}://; use a path or one of {shown}")
    # by default s3fs requests the size before each read
    options = {"max_concurrency": 1} if EXTRAS.get(scheme) == "s3" else {}
    fs, path = url_to_fs(url, use_listings_cache=False, **options)
    return fs, str(path)
