"""Request bodies: the bytes of an image, or its URL.

Multipart is parsed here, since frameworks treat a part without a file name, as Custom Vision's client sends, as text.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from email.message import Message

from fastapi import Request
from starlette.requests import ClientDisconnect

from tagger.serving.errors import Refused

SECONDS = 60.0
"""Maximum time to receive a body."""
MEMORY = 512 << 20
"""Maximum number of bytes in memory for all requests together."""
MAX_JSON = 1 << 16
MAX_PARTS = 64
"""Maximum number of parts of a multipart body that are parsed."""
_URL = re.compile(r"""['"]?\burl['"]?\s*:\s*(['"])(?P<url>.*?)\1""", re.IGNORECASE | re.DOTALL)
"""A URL in JSON with single quotes, or without quotes around its name."""
_NAME = re.compile(rb'^content-disposition:.*?[;\s]name="?([^";\r\n]*)', re.IGNORECASE | re.MULTILINE)


class Memory:
    """Memory limit for the bodies and downloaded images of all requests."""

    def __init__(self, most: int = MEMORY) -> None:
        self.bytes, self.most = 0, most

    @contextmanager
    def held(self) -> Iterator[Held]:
        """Count the bytes of one request until the end of the block."""
        held = Held(self)
        try:
            yield held
        finally:
            self.bytes -= held.bytes


class Held:
    """The bytes in memory for one request."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self.bytes = memory, 0

    def add(self, size: int) -> None:
        """Count more bytes; raises Refused if all requests together exceed the limit."""
        self.bytes += size
        self._memory.bytes += size
        if self._memory.bytes > self._memory.most:
            raise Refused(503, "ErrorPredictionServiceUnavailable", "the server is busy; try again later")


async def read(request: Request, held: Held, most: int) -> bytes:
    """Return a body of at most `most` bytes; raises Refused."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for piece in request.stream():
                body += piece
                held.add(len(piece))
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError as error:
        raise Refused(408, "BadRequest", f"the body did not arrive within {SECONDS:g} seconds") from error
    except ClientDisconnect as error:
        raise Refused(400, "BadRequest", "the body ended early") from error
    return bytes(body)


def _too_large(most: int) -> Refused:
    return Refused(400, "BadRequestImageSizeBytes", f"the body is larger than the limit of {most} bytes")


def image_in(body: bytes, content_type: str, names: Collection[str] = ("imagedata",)) -> bytes:
    """Return the bytes of the image: the body itself, or the first multipart part with one of these names."""
    if not (image := images_in(body, content_type, names)[0]):
        raise Refused(400, "BadRequestImageFormat", "the image is empty")
    return image


def images_in(body: bytes, content_type: str, names: Collection[str] = ("imagedata",)) -> list[bytes]:
    """Return the bytes of all images, one or more: the body itself, or the multipart parts with one of these names."""
    if not is_multipart(content_type):
        return [body]
    if not (found := list(_parts(body, content_type, names))):
        raise Refused(400, "BadRequestImageFormat", f"the multipart body has no part named {' or '.join(names)}")
    return found


def is_multipart(content_type: str) -> bool:
    """Return whether a content type is multipart/form-data."""
    return content_type.lower().startswith("multipart/")


def _parts(body: bytes, content_type: str, names: Collection[str]) -> Iterator[bytes]:
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if not boundary:
        raise Refused(400, "BadRequest", "the Content-Type is multipart, but has no boundary")
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace"), MAX_PARTS)[1:]:
        head, _, content = part.partition(b"\r\n\r\n")
        found = _NAME.search(head)
        if found and found[1].decode("latin-1").lower() in names:
            yield content


def url_in(body: bytes, content_type: str) -> str:
    """Return the URL in a JSON body; its key may have any case, and single quotes are accepted."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/octet-stream" or is_multipart(kind):
        raise Refused(
            415, "UnsupportedMediaType",
            f"The request entity's media type '{kind}' is not supported for this resource.",
        )  # fmt: skip
    if len(body) > MAX_JSON:
        raise Refused(400, "BadRequestImageUrl", f"the JSON body is larger than the limit of {MAX_JSON} bytes")
    text = body.decode("utf-8", "replace").lstrip("\ufeff")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        found = _URL.search(text)
        parsed = {"url": found["url"]} if found else None
    values = {key.lower(): value for key, value in parsed.items()} if isinstance(parsed, dict) else {}
    url = values.get("url")
    if not isinstance(url, str) or not url:
        raise Refused(400, "BadRequestImageUrl", 'expected a JSON body such as {"url": "https://host/image.jpg"}')
    return url
