"""Threads that read and decode batches of files; they release the GIL while they work."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from tagger import hardware, storage
from tagger.images import UInt8Array, cost
from tagger.inference.batch import Batch, Clock, Content, Decoded, Decoding, Source, decode, read

REMOTE_READS, LOCAL_READS = 32, 4
END_SECONDS = 5.0
"""Time that threads and processes have to end."""


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
        """Start reading the files of a batch; without threads, local files are read when the result is called."""
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


def every_second(ended: threading.Event, check: Callable[[], None]) -> None:
    """Call a function every second, in a thread, until `ended` is set."""

    def run() -> None:
        while not ended.wait(1):
            check()

    threading.Thread(target=run, name="watch", daemon=True).start()


@dataclass
class _Task:
    batch: Batch
    reading: Reading
    future: Future[Batch]

    def finish(self, result: Decoded | Exception, rooms: Sequence[UInt8Array]) -> None:
        """Set the result of the future: the decoded batch, or the error."""
        if isinstance(result, Exception):
            self.future.set_exception(result)
            return
        self.batch.facts = result
        self.batch.pixels = [room[: len(rows)] for room, rows in zip(rooms, result.rows, strict=True)]
        self.future.set_result(self.batch)


class _Thread(threading.Thread):
    """Decodes one batch after another; a daemon thread, so that the program can end while a decoder is stuck."""

    def __init__(self, tasks: queue.SimpleQueue[_Task | None], how: Decoding) -> None:
        super().__init__(name="decode", daemon=True)
        self._tasks, self._how = tasks, how
        self._lock = threading.Lock()
        self._task: _Task | None = None
        self.clock = Clock()
        self.start()

    def run(self) -> None:
        """Decode until the queue returns None, or the batch is taken from this thread."""
        while (task := self._tasks.get()) is not None:
            self._task = task
            rooms = self._how.room(len(task.batch))
            result: Decoded | Exception
            try:
                result = decode(task.reading(), task.batch.models, self._how, rooms, self.clock)
            except Exception as error:
                result = error
            if self.take_back() is None:
                return
            task.finish(result, rooms)

    def take_back(self) -> _Task | None:
        """Take the batch from this thread; return its task, or None if it was already taken."""
        with self._lock:
            task, self._task = self._task, None
        return task


class ThreadDecoder:
    """Reads and decodes in threads of this process."""

    def __init__(self) -> None:
        self.processes, self.ahead = 1, 2 * hardware.cores()
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads: list[_Thread] = []
        self._reader = Reader()
        self._ended = threading.Event()

    def open(self, how: Decoding, batches: int) -> None:
        """Start the threads."""
        self._how, self._reader.timeout = how, how.limits.read_timeout
        self._threads = [_Thread(self._tasks, how) for _ in range(hardware.cores())]
        every_second(self._ended, self._replace_stuck)

    def submit(self, batch: Batch) -> Future[Batch]:
        """Start reading a batch, to decode it afterwards."""
        task = _Task(batch, self._reader.start(batch.sources), Future())
        self._tasks.put(task)
        return task.future

    def _replace_stuck(self) -> None:
        """Replace threads that take too long for a file: it fails, and the rest of its batch is decoded again."""
        for place, thread in enumerate(self._threads):
            file = thread.clock.file
            if thread.ident in cost.MEMORY.waiting:
                thread.clock.start(file)
            elif thread.clock.seconds > self._how.limits.decode_timeout and (task := thread.take_back()):
                self._threads[place] = _Thread(self._tasks, self._how)
                contents = task.reading()
                contents[file] = contents[file]._replace(content=self._how.limits.too_slow)
                self._tasks.put(_Task(task.batch, lambda contents=contents: contents, task.future))  # type: ignore[misc]

    def close(self) -> None:
        """Stop all threads once they have finished their files; a stuck thread is abandoned."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        self._reader.close()
        self._ended.set()
        until = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(max(0, until - time.monotonic()))
