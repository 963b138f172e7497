"""fsspec file systems, and what stores raise put into our own words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from tagger.errors import AccessDenied, MissingExtra, SourceError, SourceNotFound, UsageError
from tagger.storage.uris import redact, signed

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure",
          "adl": "azure", "http": "http", "https": "http"}  # fmt: skip

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
def named_errors(url: str) -> Iterator[None]:
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


def filesystem(url: str) -> tuple[Any, str]:
    """Return (fsspec filesystem without listing caches, path) of a remote URL."""
    scheme = url.partition("://")[0]
    known = fsspec.available_protocols()
    if scheme not in known:
        shown = ", ".join(f"{name}://" for name in ("s3", "gs", "az", "https", "memory", "file"))
        raise UsageError(f"{redact(url)}: unknown scheme {scheme}://; use a path or one of {shown}")
    options = {"max_concurrency": 1} if EXTRAS.get(scheme) == "s3" else {}  # else s3fs asks each size before it reads
    fs, path = url_to_fs(signed(url), use_listings_cache=False, **options)
    return fs, str(path)
