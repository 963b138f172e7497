"""fsspec file systems, and the translation of store errors to ours."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator

import fsspec
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from tagger.errors import AccessDenied, MissingExtra, SourceError, SourceNotFound, UsageError
from tagger.redaction import without_secrets
from tagger.storage.uris import is_remote, local_path

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure",
          "adl": "azure", "http": "http", "https": "http"}  # fmt: skip

for _library in ("gcsfs", "s3fs", "adlfs", "fsspec", "botocore", "aiobotocore", "azure", "google"):
    # else Python prints their warnings, with tracebacks and credentials; the error of the file has the reason
    logging.getLogger(_library).addHandler(logging.NullHandler())

_LOCAL = LocalFileSystem()
_REFUSED = (401, 403)
"""HTTP statuses for which a retry does not help, such as that of an expired signature."""
_CREDENTIALS = re.compile(
    r"NoCredentials|PartialCredentials|DefaultCredentials|TokenRetrieval|RefreshError|ClientAuthentication|"
    r"Unable to locate credentials|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|AuthFailure|"
    r"AuthenticationFailed|InvalidClientTokenId|Access Key Id you provided|signature we calculated|token.*expired",
    re.IGNORECASE,
)


def is_credential_error(error: BaseException) -> bool:
    """Return whether the store refused the credentials, rather than access to one file."""
    return isinstance(error, AccessDenied) and error.credentials


def _refuses_credentials(error: BaseException, url: str) -> bool:
    """Return whether an error of a store is about credentials; the file's own name in it is ignored."""
    key = url.partition("://")[2].partition("?")[0]
    own_words = re.compile("|".join(re.escape(name) for name in (url, key, key.rpartition("/")[2]) if name))
    chain: BaseException | None = error
    while chain is not None:
        if _CREDENTIALS.search(f"{type(chain).__name__} {own_words.sub('', str(chain))}"):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def missing_package(url: str, error: ImportError) -> MissingExtra:
    """Return an error that names the package to install for a URL's scheme."""
    scheme = url.partition("://")[0]
    package = error.name or getattr(error.__cause__, "name", None) or scheme  # fsspec names it in the cause
    return MissingExtra(f"{scheme}://", package, EXTRAS.get(scheme))


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
    # else s3fs requests the size before each read
    options = {"max_concurrency": 1} if EXTRAS.get(scheme) == "s3" else {}
    fs, path = url_to_fs(url, use_listings_cache=False, **options)
    return fs, str(path)
