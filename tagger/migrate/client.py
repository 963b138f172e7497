"""GET requests of a migration, with retries and the pauses that the service asks for.

The key is sent to its own endpoint only.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from tagger.errors import AccessDenied, SourceError, SourceNotFound, UsageError, first_line

ATTEMPTS = 8
TIMEOUT = 60.0
MAX_PAUSE = 300.0
"""Maximum length of a pause in seconds, even if the service asks for a longer one."""
MAX_IMAGE, MAX_JSON = 100 << 20, 64 << 20  # bytes
_RETRIED = (408, 429, 500, 502, 503, 504)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class LinkExpired(SourceError):
    """The link to an image has expired; listing the image again gives a new one."""


class Client:
    """The training API of one Custom Vision resource."""

    def __init__(self, endpoint: str, key: str) -> None:
        """Raise UsageError for a malformed endpoint, or one to which the key would be sent unencrypted."""
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--endpoint {endpoint}: expected https://NAME.cognitiveservices.azure.com")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise UsageError(f"--endpoint {endpoint}: would send the key unencrypted; use https://")
        self._root = f"{parts.scheme}://{parts.netloc}/customvision/v3.3/training"
        self._key, self._http = {"Training-Key": key}, httpx.Client(timeout=TIMEOUT)
        self._lock, self._not_before = threading.Lock(), 0.0

    def get(self, path: str, **query: object) -> Any:
        """Return the JSON response of a call; raises SourceError, AccessDenied or SourceNotFound."""
        params = {name: str(value) for name, value in query.items()}
        url = f"{self._root}/{path}"
        status, content, _ = self._request(
            lambda: self._http.stream("GET", url, params=params, headers=self._key), MAX_JSON
        )
        message = content[:200].decode("utf-8", "replace")
        if status in (401, 403):
            raise AccessDenied(f"{url}: the key was rejected ({message}); --key-file needs a training key", True)
        if status == 404:
            raise SourceNotFound(f"{url}: not found ({message})")
        if status != 200:
            raise SourceError(f"{url}: status {status} ({message})")
        try:
            return httpx.Response(200, content=content).json()
        except ValueError as error:
            raise SourceError(f"{url}: the response is not JSON ({message}); check --endpoint") from error

    def download(self, url: str) -> bytes:
        """Return the content of a link; raises LinkExpired or SourceError."""
        if not url.startswith(("https://", "http://")):
            raise SourceError(f"{url}: not a valid http(s) URL")
        try:
            status, content, headers = self._request(lambda: self._http.stream("GET", url), MAX_IMAGE)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise SourceError(f"{url}: not a valid http(s) URL") from error
        if status in (401, 403, 404, 410):
            raise LinkExpired(f"{url}: status {status}")
        if status != 200:
            raise SourceError(f"{url}: status {status}")
        expected = headers.get("content-md5")
        if expected and base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode() != expected:
            raise SourceError(f"{url}: the downloaded content does not match its checksum")
        return content

    def _request(self, stream: Callable[[], Any], max_bytes: int) -> tuple[int, bytes, httpx.Headers]:
        """Return status, content and headers of the response; raises SourceError after ATTEMPTS failed attempts."""
        for attempt in range(ATTEMPTS):
            self._wait()
            try:
                with stream() as response:
                    if response.status_code not in _RETRIED:
                        return response.status_code, _read_limited(response, max_bytes), response.headers
                    failure = f"status {response.status_code}"
                    self._pause(_retry_after(response.headers, attempt))
            except httpx.HTTPError as error:
                failure = f"{type(error).__name__}: {first_line(error)}"
                self._pause(2.0**attempt / 4)
        raise SourceError(f"no response after {ATTEMPTS} attempts ({failure}); run the command again to continue")

    def _wait(self) -> None:
        while (seconds := self._not_before - time.monotonic()) > 0:
            time.sleep(seconds)

    def _pause(self, seconds: float) -> None:
        """Delay the next requests of all threads."""
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + min(seconds, MAX_PAUSE))


def _read_limited(response: httpx.Response, max_bytes: int) -> bytes:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > max_bytes:
            raise SourceError(f"{response.url}: larger than the limit of {max_bytes} bytes")
    return bytes(content)


def _retry_after(headers: httpx.Headers, attempt: int) -> float:
    """Return the seconds that the service asks for, as a number or a date, else exponential backoff."""
    text = headers.get("retry-after", "")
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 2.0**attempt / 4
