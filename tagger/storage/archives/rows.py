"""Rows of Parquet and Arrow tables that hold encoded images, such as those of Hugging Face datasets."""

from __future__ import annotations

import atexit
import functools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.errors import SourceError
from tagger.storage import files
from tagger.storage.archives.member import Member

_NAMES = ("image", "img", "bytes", "content", "data", "jpg", "jpeg", "png", "webp")
"""Names of a column of encoded images in a table with several binary columns."""
_ROWS = 64
_BATCHES = 16
"""Batches of a table that are cached in memory."""
_TABLES = 4


class NoImages(Exception):
    """A table without a column of encoded images."""


def members(url: str) -> Iterator[Member]:
    """Yield the rows of a table; raises NoImages, or pyarrow's error for a damaged one."""
    with files.open_input(url) as file:
        number = 0
        for group, count in enumerate(_groups(url, file)):
            for row in range(count):
                yield Member(str(number), None, f"r{group}/{row}", is_row=True)
                number += 1


def _groups(url: str, file: IO[bytes]) -> Iterator[int]:
    """Yield the number of rows of each row group of Parquet, or of each batch of Arrow."""
    if _is_parquet(url):
        parquet = pq.ParquetFile(file)
        image_column(parquet.schema_arrow)
        metadata = parquet.metadata
        yield from (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    else:
        yield from (len(batch) for batch in _arrow_batches(file))


def image_column(schema: pa.Schema) -> str:
    """Return the column of encoded images: a struct with `bytes`, or a binary column with a known name or no others."""
    structs: list[str] = [field.name for field in schema if pa.types.is_struct(field.type) and _has_bytes(field.type)]
    plain: list[str] = [field.name for field in schema if _is_bytes(field.type)]
    named = [name for name in plain if name.lower() in _NAMES]
    found = [*structs, *named, *(plain if len(plain) == 1 else [])]
    if not found:
        raise NoImages
    return found[0]


def has_images(schema: pa.Schema) -> bool:
    """Return whether a table has a column of encoded images."""
    try:
        return bool(image_column(schema))
    except NoImages:
        return False


def _has_bytes(kind: pa.StructType) -> bool:
    place = kind.get_field_index("bytes")
    return place >= 0 and _is_bytes(kind.field(place).type)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_parquet(url: str) -> bool:
    return url.lower().endswith(".parquet")


def _arrow_batches(file: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an Arrow file or stream."""
    try:
        reader = pa.ipc.open_file(file)
    except pa.ArrowInvalid:
        file.seek(0)
        stream = pa.ipc.open_stream(file)
        image_column(stream.schema)
        yield from stream
        return
    image_column(reader.schema)
    yield from (reader.get_batch(number) for number in range(reader.num_record_batches))


def read(url: str, place: str, timeout: float) -> bytes:
    """Return the encoded image of a row; raises SourceError."""
    part, _, version = place.partition("@")
    group, row = map(int, part.split("/"))
    return _opened(url, version).read(group, row)


class _Table:
    """A table that several threads read, roughly in order."""

    def __init__(self, url: str) -> None:
        self._url, self._lock = url, threading.Lock()
        self._files = ExitStack()
        self._batches: OrderedDict[tuple[int, int], pa.Array] = OrderedDict()
        self._ahead: Iterator[tuple[tuple[int, int], pa.Array]] = iter(())
        self._group, self._next = -1, 0

    def read(self, group: int, row: int) -> bytes:
        """Return the bytes of a row."""
        with self._lock:
            value = self._batch(group, row // _ROWS)[row % _ROWS].as_py()
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise SourceError(f"{self._url}: the row has no image")
        return bytes(content)

    def _batch(self, group: int, number: int) -> pa.Array:
        if (group, number) not in self._batches and (group != self._group or number < self._next):
            self._open(group)
        while (group, number) not in self._batches:
            key, values = next(self._ahead)
            self._batches[key] = values
            self._next = key[1] + 1
            if len(self._batches) > _BATCHES:
                self._batches.popitem(last=False)
        return self._batches[group, number]

    def _open(self, group: int) -> None:
        self._files.close()
        file = self._files.enter_context(files.open_input(self._url))
        self._group, self._next = group, 0
        self._ahead = (((group, number), values) for number, values in enumerate(_images(self._url, file, group)))


def _images(url: str, file: IO[bytes], group: int) -> Iterator[pa.Array]:
    """Yield the images of a row group or batch, _ROWS at a time."""
    if _is_parquet(url):
        parquet = pq.ParquetFile(file)
        column = image_column(parquet.schema_arrow)
        yield from (batch[0] for batch in parquet.iter_batches(_ROWS, [group], [column]))
        return
    batch = next(batch for number, batch in enumerate(_arrow_batches(file)) if number == group)
    values = batch[image_column(batch.schema)]
    yield from (values[start : start + _ROWS] for start in range(0, len(values), _ROWS))


@functools.lru_cache(_TABLES)
def _opened(url: str, version: str) -> _Table:
    return _Table(url)


atexit.register(_opened.cache_clear)  # Arrow cannot close a file when the interpreter has ended
