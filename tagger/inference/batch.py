"""Batches of files, which are read, decoded and scored together; their results are columns."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from tagger import images, storage
from tagger.errors import AccessDenied, ImageError, SourceError, SourceTooLarge
from tagger.images import Preprocessing, UInt8Array

FILES = 16
"""Files per batch: enough to keep its overhead small, few enough to give every core one."""
MAX_FILES, BATCH_PIXELS = 128, 1 << 21
"""Small images decode fast, so a batch has more of them: up to this many files, and this many bytes of pixels."""
BATCH_BYTES = 1 << 25
"""Total size above which a batch has fewer files."""
MAX_FILE_BYTES = 1 << 30
"""Maximum size of a file that is read; a larger one would take the memory of a thousand photographs."""
DECODE_TIMEOUT = 60.0
"""Default limit on the time to decode a file, in seconds."""


class Failure(NamedTuple):
    """The reason why a file has no pixels."""

    status: str
    error: str


Source: TypeAlias = str | bytes | Image.Image | Failure
"""The location of a file, its bytes, an image in memory, or the reason why there is no image."""
Fitted: TypeAlias = Mapping[Preprocessing, UInt8Array]
Inspect: TypeAlias = Callable[[Image.Image, tuple[int, int], Fitted], dict[str, Any]]
"""Columns computed from a decoded RGB image, its full (width, height), and its pixels after preprocessing."""


@dataclass
class Predictions:
    """The columns that one model predicts for a batch."""

    rows: list[int]
    """Indices in the batch of the files it scored."""
    columns: dict[str, Any]
    """Name -> array with one value per scored file."""
    failed: list[int]
    """Indices of files whose scores are not finite."""


@dataclass
class Decoded:
    """Facts about the files of a batch after decoding; each list has one value per file."""

    image_id: list[str | None]
    status: list[str]
    error: list[str | None]
    width: list[int | None]
    height: list[int | None]
    format: list[str | None]
    rows: list[list[int]]
    """For each preprocessing, the indices of the files in its array of pixels, in order."""
    extra: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Index of a file -> columns that `inspect` computed."""
    read_seconds: float = 0.0
    """Wall time, summed over the files."""
    decode_seconds: float = 0.0
    """Processor time."""


@dataclass
class Batch:
    """A batch of files and everything known about them so far."""

    sources: Sequence[Source]
    models: Sequence[int]
    """For each file, the models that score it, one bit each."""
    key: Any = None
    """Any value that identifies the files to the caller."""
    bytes: int = 0
    """Total size of its files, as listed."""
    facts: Decoded = field(default_factory=lambda: empty(0, 0))
    pixels: list[UInt8Array] = field(default_factory=list)
    """For each preprocessing (N, H, W, 3); emptied once the files are scored."""
    predictions: list[Predictions | None] = field(default_factory=list)
    """For each model."""
    release: Callable[[], None] = lambda: None
    """Releases the memory of the pixels."""

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True)
class Limits:
    """Limits on reading and decoding a file, and the treatment of truncated files."""

    max_pixels: int = images.MAX_PIXELS
    truncated: bool = False
    """Decode a truncated image as far as possible."""
    read_timeout: float = storage.READ_TIMEOUT
    decode_timeout: float = DECODE_TIMEOUT

    @property
    def too_slow(self) -> Failure:
        """Return the failure of a file whose decoding takes longer than the timeout."""
        return Failure("failed", f"decoding takes longer than {self.decode_timeout:g} s (see --decode-timeout)")


@dataclass(frozen=True)
class Decoding:
    """Settings for decoding, the same for all files of a run."""

    preprocessings: tuple[Preprocessing, ...]
    """The distinct preprocessings of the models."""
    of_model: tuple[int, ...]
    """Index of each model's preprocessing."""
    limits: Limits = Limits()
    inspect: Inspect | None = None

    @classmethod
    def of(cls, needed: Sequence[Preprocessing], limits: Limits, inspect: Inspect | None = None) -> Decoding:
        """Return the decoding for models with these preprocessings."""
        distinct = tuple(dict.fromkeys(needed))
        return cls(distinct, tuple(map(distinct.index, needed)), limits, inspect)

    def for_bits(self, bits: int) -> tuple[int, ...]:
        """Return the indices of the preprocessings that the models of a file need."""
        return tuple(sorted({which for model, which in enumerate(self.of_model) if bits >> model & 1}))

    @property
    def files(self) -> int:
        """Return the maximum number of files per batch."""
        return min(MAX_FILES, max(FILES, BATCH_PIXELS // max(1, self.file_bytes)))

    def room(self, files: int) -> list[UInt8Array]:
        """Allocate arrays for the pixels of a number of files, one per preprocessing."""
        return [np.empty((files, *each.size, 3), dtype=np.uint8) for each in self.preprocessings]

    @property
    def file_bytes(self) -> int:
        """Return the size of one file's pixels in bytes."""
        return sum(height * width * 3 for height, width in (each.size for each in self.preprocessings))


class Content(NamedTuple):
    """The content of a file, or the reason why it was not read."""

    image_id: str | None
    content: bytes | Image.Image | Failure
    seconds: float = 0.0


class Clock:
    """The file of a batch that is being decoded, and its start time, in memory that processes may share."""

    def __init__(self, values: npt.NDArray[np.float64] | None = None) -> None:
        self._values = np.zeros(2) if values is None else values

    def start(self, file: int) -> None:
        """Start timing a file."""
        self._values[:] = file, time.monotonic()

    def stop(self) -> None:
        """Stop: no file is being decoded."""
        self._values[:] = 0

    @property
    def file(self) -> int:
        """Return the index of the file that is being decoded."""
        return int(self._values[0])

    @property
    def seconds(self) -> float:
        """Return the time spent on the file so far."""
        return time.monotonic() - self._values[1] if self._values[1] else 0.0


def empty(files: int, preprocessings: int) -> Decoded:
    """Return empty facts for a number of files."""
    nothing: list[Any] = [None] * files
    return Decoded(
        nothing[:], [""] * files, nothing[:], nothing[:], nothing[:], nothing[:], [[] for _ in range(preprocessings)]
    )


def batched(batches: Iterable[Batch], files: int) -> Iterator[Batch]:
    """Split batches so that each has at most `files` files, and fewer if they are large."""
    for whole in batches:
        fewer = min(files, max(1, BATCH_BYTES * len(whole) // max(1, whole.bytes)))
        for start in range(0, len(whole), fewer):
            part = slice(start, start + fewer)
            yield Batch(whole.sources[part], whole.models[part], whole.key[part], whole.bytes * fewer // len(whole))


def read(source: Source, timeout: float = storage.READ_TIMEOUT) -> Content:
    """Read a file; an error becomes its Failure. Raises AccessDenied if all other files would fail too."""
    if not isinstance(source, str):
        identifier = hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else None
        return Content(identifier, source)
    started = time.perf_counter()
    try:
        content = storage.read_bytes(source, timeout=timeout)
    except AccessDenied as error:
        if storage.is_credential_error(error):
            raise
        return Content(None, _failure("unreadable", error, source))
    except SourceError as error:
        status = "too_large" if isinstance(error, SourceTooLarge) else "unreadable"
        return Content(None, _failure(status, error, source))
    return Content(hashlib.sha256(content).hexdigest(), content, time.perf_counter() - started)


def _failure(status: str, error: Exception, source: str) -> Failure:
    """Return a failure whose message does not repeat the name of the file."""
    return Failure(status, str(error).removeprefix(f"{storage.public_uri(source)}: "))


def decode(
    files: Iterable[Content],
    models: Sequence[int],
    how: Decoding,
    room: Sequence[UInt8Array],
    clock: Clock,
) -> Decoded:
    """Decode the contents of files, and write their pixels into `room` (one array per preprocessing)."""
    facts = empty(len(models), len(how.preprocessings))
    started = time.thread_time()
    for number, (image_id, content, seconds) in enumerate(files):
        clock.start(number)
        facts.image_id[number] = image_id
        facts.read_seconds += seconds
        try:
            if isinstance(content, Failure):
                facts.status[number], facts.error[number] = content
            else:
                _decode_one(number, content, how.for_bits(models[number]), how, room, facts)
        except ImageError as error:
            facts.status[number], facts.error[number] = error.status, str(error)
    clock.stop()
    facts.decode_seconds = time.thread_time() - started
    return facts


def _decode_one(
    number: int,
    content: bytes | Image.Image,
    needed: Sequence[int],
    how: Decoding,
    room: Sequence[UInt8Array],
    facts: Decoded,
) -> None:
    """Decode once, and resize once for all models with the same preprocessing."""
    preprocessings = [how.preprocessings[which] for which in needed]
    if isinstance(content, Image.Image):
        fitted, info = images.prepare_image(content, preprocessings, how.limits.max_pixels)
        image = content
    else:
        opened: list[Image.Image] = []
        limits = how.limits
        fitted, info = images.prepare(content, preprocessings, limits.max_pixels, opened.append, limits.truncated)
        image = opened[0]
    facts.status[number], facts.error[number] = "truncated" if info.truncated else "ok", info.truncated
    facts.width[number], facts.height[number], facts.format[number] = info.width, info.height, info.format
    if how.inspect:
        facts.extra[number] = how.inspect(image, (info.width, info.height), fitted)
    for which in needed:
        rows = facts.rows[which]
        room[which][len(rows)] = fitted[how.preprocessings[which]]
        rows.append(number)
