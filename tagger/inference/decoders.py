"""Threads that read and decode batches of files; they release the GIL while they work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeAlias

from tagger import hardware, storage
from tagger.inference.batch import Batch, Content, Decoding, Source, decode, read

REMOTE_READS, LOCAL_READS = 32, 4


class Decoder(Protocol):
    """Interface of a decoder: batches of sources in, batches of pixels out."""

    processes: int
    ahead: int
    """Number of submitted batches that keep it busy."""

    def open(self, how: Decoding, batches: int) -> None:
        """Prepare for at most `batches` batches in flight."""
        ...

    def submit(self, batch: Batch) -> Future[Batch]:
        """Start decoding a batch."""
        ...

    def close(self) -> None:
        """Stop, and cancel what has not started."""
        ...


def readers_for(sources: Sequence[object]) -> int:
    """Return how many files to read at the same time: more if they are remote, as each read waits for the network."""
    return REMOTE_READS if any(isinstance(each, str) and storage.is_remote(each) for each in sources) else LOCAL_READS


Reading: TypeAlias = Callable[[], list[Content]]
"""Waits for the contents of a batch and returns them."""


class Reader:
    """Reads batches: remote files concurrently, local files one after the other."""

    def __init__(self, local: int = LOCAL_READS) -> None:
        self.timeout = storage.READ_TIMEOUT
        self._local = ThreadPoolExecutor(local, "read") if local else None
        self._remote = ThreadPoolExecutor(REMOTE_READS, "fetch")

    def start(self, sources: Sequence[Source]) -> Reading:
        """Start reading the files of a batch; without threads for local files, the caller of the result reads them."""
        if readers_for(sources) == REMOTE_READS:
            files = [self._remote.submit(read, source, self.timeout) for source in sources]
            return lambda: [file.result() for file in files]
        if self._local is None:
            return lambda: [read(source) for source in sources]
        batch = self._local.submit(lambda: [read(source) for source in sources])
        return batch.result

    def close(self) -> None:
        """Stop once the files being read are finished."""
        for pool in filter(None, (self._local, self._remote)):
            pool.shutdown(wait=True, cancel_futures=True)


class ThreadDecoder:
    """Reads and decodes in threads of this process."""

    def __init__(self) -> None:
        threads = hardware.cores()
        self.processes, self.ahead = 1, 2 * threads
        self._decoders = ThreadPoolExecutor(threads, "decode")
        self._reader = Reader()

    def open(self, how: Decoding, batches: int) -> None:
        """Set how batches are decoded."""
        self._how, self._reader.timeout = how, how.limits.read_timeout

    def submit(self, batch: Batch) -> Future[Batch]:
        """Start reading a batch, to decode it afterwards."""
        return self._decoders.submit(self._decode, batch, self._reader.start(batch.sources))

    def _decode(self, batch: Batch, reading: Reading) -> Batch:
        rooms = self._how.room(len(batch))
        batch.facts = decode(reading(), batch.models, self._how, rooms)
        batch.pixels = [room[: len(rows)] for room, rows in zip(rooms, batch.facts.rows, strict=True)]
        return batch

    def close(self) -> None:
        """Stop all threads once the files being read or decoded are finished."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._reader.close()
        self._decoders.shutdown(wait=True)
