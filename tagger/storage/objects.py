"""Read S3 objects with obstore, which needs a seventh of the CPU time of s3fs.

s3fs supplies the endpoint and the credentials, reads every object that obstore cannot read, and raises the errors.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fsspec import AbstractFileSystem
from fsspec.asyn import sync

if TYPE_CHECKING:
    from obstore.store import S3Credential, S3CredentialProvider, S3Store

_FRESH = timedelta(minutes=5)
"""Time after which obstore asks for a temporary credential again; botocore refreshes it before it expires."""


@dataclass
class Bucket:
    """A bucket read by obstore, unless its first object fails, for example because of its region or encryption."""

    store: S3Store
    works: bool = False
    failed: bool = False


def read(fs: AbstractFileSystem, path: str, timeout: float, part: tuple[int, int] | None = None) -> bytes | None:
    """Return `bucket/key`, or its part from start to end; None if s3fs has to read it, or raise the error.

    Raises TimeoutError if the store does not answer in `timeout` seconds.
    """
    name, _, key = path.partition("/")
    bucket = _open(fs, name, timeout)
    if bucket is None or bucket.failed:
        return None
    started = time.monotonic()
    try:
        store = bucket.store
        content = bytes(store.get_range(key, start=part[0], end=part[1]) if part else store.get(key).bytes())
    except Exception as error:  # s3fs will fail in the same way, and its errors are translated
        if time.monotonic() - started >= timeout:
            raise TimeoutError from error
        bucket.failed = not bucket.works
        return None
    bucket.works = True
    return content


@functools.cache
def _open(fs: AbstractFileSystem, name: str, timeout: float) -> Bucket | None:
    """Return a bucket with the endpoint, region and credentials of an s3fs file system; None without obstore."""
    try:
        from obstore.store import S3Store
    except ImportError:
        return None
    if fs.version_aware or fs.requester_pays:
        return None
    where = fs.s3.meta
    store = S3Store(
        name,
        endpoint=where.endpoint_url,
        region=where.region_name or "us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": where.endpoint_url.startswith("http://"), "timeout": timedelta(seconds=timeout)},
        retry_config={"max_retries": 1, "retry_timeout": timedelta(seconds=timeout)},
        skip_signature=fs.anon,
        credential_provider=None if fs.anon else _credentials(fs),
    )
    return Bucket(store)


def _credentials(fs: AbstractFileSystem) -> S3CredentialProvider:
    """Return a credential provider for obstore: the keys that s3fs was given, else those that botocore finds."""
    found = None if fs.key else sync(fs.loop, fs.session.get_credentials)

    def provide() -> S3Credential:
        if found is None:
            return {"access_key_id": fs.key, "secret_access_key": fs.secret, "token": fs.token, "expires_at": None}
        now = sync(fs.loop, found.get_frozen_credentials)
        expires = datetime.now(UTC) + _FRESH if now.token else None
        return {
            "access_key_id": now.access_key, "secret_access_key": now.secret_key, "token": now.token,
            "expires_at": expires,
        }  # fmt: skip

    return provide
