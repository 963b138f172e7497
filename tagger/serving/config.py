"""Options of the prediction server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tagger import options, storage
from tagger.errors import SourceError, UsageError
from tagger.options import Option

MEGABYTE = 1 << 20


@dataclass(frozen=True)
class ServeConfig:
    """Options of one server; raises UsageError for invalid values."""

    host: Annotated[str, Option("Address to listen on; 0.0.0.0: all network interfaces.")] = "127.0.0.1"
    port: Annotated[int, Option("Port; 0: a free one.", ge=0, le=65_535)] = 8000
    key_file: Annotated[str | None, Option("File of keys, one per line; calls without one get 401.")] = None
    results: Annotated[
        str | None, Option("Results folder in which to store images and predictions [default: none].")
    ] = None
    projects: Annotated[
        str | None, Option("Folder of projects, for Custom Vision's training calls [default: not served].")
    ] = None
    stored_predictions: Annotated[
        int, Option("Maximum number of stored predictions per project; the oldest are deleted.", ge=0)
    ] = 1000
    max_body: Annotated[int, Option("Limit on a request's body, and on an image at a URL, in MB.", ge=1)] = 20
    allow_private_urls: Annotated[bool, Option("Also fetch URLs with private, loopback or link-local addresses.")] = (
        False
    )

    def __post_init__(self) -> None:
        options.check(self)

    @property
    def max_bytes(self) -> int:
        """Return the maximum size of an encoded image in bytes."""
        return self.max_body * MEGABYTE

    def keys(self) -> tuple[bytes, ...]:
        """Read the keys, () without a key file; raises UsageError for a file without keys."""
        if self.key_file is None:
            return ()
        try:
            lines = storage.read_bytes(storage.absolute(self.key_file)).splitlines()
        except SourceError as error:
            raise UsageError(f"--key-file {self.key_file}: cannot be read; write one key per line") from error
        if not (keys := tuple(filter(None, map(bytes.strip, lines)))):
            raise UsageError(f"--key-file {self.key_file}: is empty; write one key per line")
        return keys
