"""Threads that read and decode batches of files. They release the interpreter's lock while they work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeAlias

from tagger import hardware, storage
from tagger.inference.batch import Batch, Content, Decoding, Source, decode, read

REMOTE_READS, LOCAL_READS = 32, 4


class Decoder(Protocol):
    """Something that turns batches of sources into batches of pixels."""

    processes: int
    ahead: int
    """Batches that keep it busy."""

    def open(self, how: Decoding, batches: int) -> None:
        """Make ready for at most so many batches on their way."""
        ...

    def submit(self, batch: Batch) -> Future[Batch]:
        """Start on a batch."""
        ...

    def close(self) -> None:
        """Stop; what has not started is dropped."""
        ...


def readers_for(sources: Sequence[object]) -> int:
    """Return how many files to read at the same time: many where every read waits for a network."""
    return REMOTE_READS if any(isinstance(each, str) and storage.is_remote(each) for each in sources) else LOCAL_READS


Reading: TypeAlias = Callable[[], list[Content]]
"""Waits for the contents of a batch."""


class Reader:
    """Reads batches: file by file at once where each waits for a network, else one file after the other."""

    def __init__(self, local: int = LOCAL_READS) -> None:
        self.timeout = storage.READ_TIMEOUT
        self._local = ThreadPoolExecutor(local, "read") if local else None
        self._remote = ThreadPoolExecutor(REMOTE_READS, "fetch")

    def start(self, sources: Sequence[Source]) -> Reading:
        """Start to read the files of a batch; without threads for local files, they are read by whoever waits."""
        if readers_for(sources) == REMOTE_READS:
            files = [self._remote.submit(read, source, self.timeout) for source in sources]
            return lambda: [file.result() for file in files]
        if self._local is None:
            return lambda: [read(source) for source in sources]
        batch = self._local.submit(lambda: [read(source) for source in sources])
        return batch.result

    def close(self) -> None:
        """Stop; a file that is being read is finished first."""
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
        """Decode in this way."""
        self._how, self._reader.timeout = how, how.limits.read_timeout

    def submit(self, batch: Batch) -> Future[Batch]:
        """Start to read a batch, and decode it then."""
        return self._decoders.submit(self._decode, batch, self._reader.start(batch.sources))

    def _decode(self, batch: Batch, reading: Reading) -> Batch:
        rooms = self._how.room(len(batch))
        batch.facts = decode(reading(), batch.models, self._how, rooms)
        batch.pixels = [room[: len(rows)] for room, rows in zip(rooms, batch.facts.rows, strict=True)]
        return batch

    def close(self) -> None:
        """Stop all threads; a file that is being read or decoded is finished first."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._reader.close()
        self._decoders.shutdown(wait=True)
