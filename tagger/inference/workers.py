"""Processes that read and decode batches of files, for machines with many cores.

Threads need the GIL between two calls of a decoder, so more than a few of them wait for it. Here, each process decodes
in one thread. It receives the names of the files through its standard input and writes their pixels to memory that it
shares with the parent; only names and facts are pickled, between processes of one program. It ends with its input,
so no process outlives a killed parent. If a process dies, its files are read again, one by one, in a separate process;
a file that kills that process too gets a row with the status `failed`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, NamedTuple, TypeAlias

import numpy as np

from tagger import hardware
from tagger.errors import ModelError, TaggerError
from tagger.images import UInt8Array
from tagger.inference.batch import FILES, Batch, Clock, Decoded, Decoding, Failure, Source, decode
from tagger.inference.decoders import END_SECONDS, Decoder, Reader, Reading, ThreadDecoder, every_second

log = logging.getLogger(__name__)

FEW_CORES = 4
"""Number of cores up to which threads are as fast as processes and need less memory."""
FILES_TO_PAY = 500
"""Number of files per process below which starting it takes longer than it saves."""
_CLOCK_BYTES = 64
MAX_DEATHS = 20
"""Maximum number of processes that may die before the run fails."""


class Settings(NamedTuple):
    """The first message to a process."""

    how: Decoding
    memory: str


class Work(NamedTuple):
    """A batch to decode into one slot of the memory."""

    number: int
    slot: int
    sources: Sequence[Source]
    models: Sequence[int]


class Done(NamedTuple):
    """A decoded batch, or the error that ends the run."""

    number: int
    facts: Decoded | None
    error: TaggerError | None = None


_Send: TypeAlias = Callable[[Done], None]


def decoder_for(source: str, files: int, processes: int | None = None) -> Decoder:
    """Return a decoder for a number of files, with its processes started; 0 means threads of this process."""
    if source.startswith("memory://"):  # other processes see nothing there
        return ThreadDecoder()
    if processes is None:
        processes = min(hardware.cores(), files // FILES_TO_PAY) if hardware.cores() > FEW_CORES else 0
    count = min(processes, -(-files // FILES))
    return ProcessDecoder(count) if count else ThreadDecoder()


class Memory:
    """Slots for the clocks and the pixels of batches, in a file that several processes map."""

    def __init__(self, path: str, how: Decoding) -> None:
        self._how, self._slot = how, slot_bytes(how)
        with open(path, "r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), 0)

    def room(self, slot: int, files: int) -> list[UInt8Array]:
        """Return arrays for the pixels of a number of files in a slot, one per preprocessing."""
        sizes = [files * height * width * 3 for height, width in (each.size for each in self._how.preprocessings)]
        starts = itertools.accumulate(sizes, initial=slot * self._slot + _CLOCK_BYTES)
        return [
            np.frombuffer(self._mapped, np.uint8, size, start).reshape(files, *each.size, 3)
            for each, size, start in zip(self._how.preprocessings, sizes, starts, strict=False)
        ]

    def clock(self, slot: int) -> Clock:
        """Return the clock of the batch in a slot."""
        return Clock(np.frombuffer(self._mapped, np.float64, 2, slot * self._slot))


def slot_bytes(how: Decoding) -> int:
    """Return the size of a batch's slot in the shared memory."""
    return _CLOCK_BYTES + -(-how.files * how.file_bytes // 64) * 64


@contextlib.contextmanager
def _shared_file(size: int) -> Iterator[str]:
    """Create a file of `size` bytes, in memory if it fits; raises OSError if no folder has enough space."""
    for folder in ("/dev/shm", tempfile.gettempdir()):
        handle, path = -1, ""
        try:
            handle, path = tempfile.mkstemp(prefix="tagger-", dir=folder)
            _reserve(handle, size)
        except OSError as error:
            log.info("%s has no space for %d MB (%s)", folder, size >> 20, error.strerror)
            _discard(handle, path)
        else:
            break
    else:
        raise OSError(f"no space for {size >> 20} MB in /dev/shm or {tempfile.gettempdir()}")
    linux = sys.platform == "linux"
    if linux:  # nothing stays behind, whatever ends this process
        os.remove(path)
    try:
        yield f"/proc/{os.getpid()}/fd/{handle}" if linux else path
    finally:
        _discard(handle, "" if linux else path)


def _reserve(handle: int, size: int) -> None:
    """Allocate a file's size; writing to memory that is not allocated would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.ftruncate(handle, size)


def _discard(handle: int, path: str) -> None:
    if handle >= 0:
        os.close(handle)
    if path:
        with contextlib.suppress(OSError):  # Windows keeps a file that is still mapped
            os.remove(path)


class _Worker:
    """A process and the pipes to it."""

    def __init__(self) -> None:
        # not multiprocessing: its children import the caller's main module again
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from tagger.inference.workers import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.work: dict[int, _Task] = {}
        self.late = False
        """Set when the process is killed because a file took too long."""
        self._lock = threading.Lock()

    def send(self, message: Settings | Work) -> None:
        """Send a message; a process that has died is noticed by messages()."""
        with self._lock, contextlib.suppress(OSError):
            assert self.process.stdin
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()

    def messages(self) -> Iterator[Done]:
        """Yield the messages of the process until it ends."""
        assert self.process.stdout
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                yield pickle.load(self.process.stdout)

    def close(self) -> None:
        """Close the input of the process, which ends it."""
        with contextlib.suppress(OSError):
            assert self.process.stdin
            self.process.stdin.close()

    def wait(self) -> None:
        """Wait for the process to end; kill it if it does not."""
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(END_SECONDS)


@dataclass
class _Task:
    batch: Batch
    sources: list[Source]
    slot: int
    future: Future[Batch]


class ProcessDecoder:
    """Reads and decodes in processes, which start immediately and get their settings from `open`."""

    def __init__(self, processes: int) -> None:
        self.processes, self.ahead = processes, 3 * processes
        self._workers = [_Worker() for _ in range(processes)]
        self._workers_alone: list[_Worker] = []
        self._alone = ThreadPoolExecutor(1, "alone")
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._closing = False
        self._deaths = 0
        self._instead: ThreadDecoder | None = None
        self._ended = threading.Event()

    def open(self, how: Decoding, batches: int) -> None:
        """Share memory for a number of batches with the processes; if there is too little, decode in threads."""
        try:
            path = self._stack.enter_context(_shared_file(batches * slot_bytes(how)))
        except OSError as error:
            log.warning("%s: decoding in threads instead of processes", error)
            self._instead = ThreadDecoder()
            self._instead.open(how, batches)
            return
        self._settings = Settings(how, path)
        self._memory = Memory(path, how)
        self._slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(batches):
            self._slots.put(slot)
        for worker in self._workers:
            worker.send(self._settings)
            self._listen(worker)
        every_second(self._ended, self._kill_late)

    def submit(self, batch: Batch) -> Future[Batch]:
        """Send a batch to the process with the fewest batches."""
        if self._instead:
            return self._instead.submit(batch)
        task = _Task(batch, list(batch.sources), self._slots.get_nowait(), Future())
        task.future.set_running_or_notify_cancel()
        with self._lock:
            worker = min(self._workers, key=lambda each: len(each.work))
            number = next(self._numbers)
            worker.work[number] = task
        worker.send(Work(number, task.slot, task.sources, batch.models))
        return task.future

    def _kill_late(self) -> None:
        """Kill processes that take too long for a file: it fails, and the others are decoded again."""
        limits = self._settings.how.limits
        with self._lock:
            working = [
                (worker, task) for worker in self._workers + self._workers_alone for task in list(worker.work.values())
            ]
        for worker, task in working:
            clock = self._memory.clock(task.slot)
            if clock.seconds > limits.decode_timeout and not worker.late:
                task.sources[clock.file] = limits.too_slow
                worker.late = True
                worker.process.kill()

    def _started(self) -> _Worker:
        worker = _Worker()
        worker.send(self._settings)
        return worker

    def _listen(self, worker: _Worker) -> None:
        threading.Thread(target=self._receive, args=(worker,), daemon=True).start()

    def _receive(self, worker: _Worker) -> None:
        """Handle the messages of a process; if it dies, start another."""
        for message in worker.messages():
            self._finish(worker.work.pop(message.number), message)
        with self._lock:
            if self._closing:
                return
            self._deaths += not worker.late
            fresh = self._started()
            self._workers[self._workers.index(worker)] = fresh
            lost = list(worker.work.values())
        worker.wait()
        if not worker.late:
            log.warning("a decoding process died (%s); reading its files again", _ending(worker))
        self._listen(fresh)
        for task in lost:
            self._alone.submit(self._redo, task, _ending(worker))

    def _finish(self, task: _Task, done: Done) -> None:
        if done.facts is None:
            task.future.set_exception(done.error or ModelError("a decoding process did not answer"))
            return
        batch = task.batch
        batch.facts = done.facts
        rooms = self._memory.room(task.slot, len(batch))
        batch.pixels = [room[: len(rows)] for room, rows in zip(rooms, done.facts.rows, strict=True)]
        batch.release = lambda: self._slots.put(task.slot)
        task.future.set_result(batch)

    def _redo(self, task: _Task, ending: str) -> None:
        """Decode the files of a process that died in a separate one; a file that kills that one too fails."""
        try:
            while self._deaths <= MAX_DEATHS and not self._closing:
                worker, done = self._decode_alone(task)
                if done:
                    return self._finish(task, done)
                if not worker.late:
                    self._deaths, ending = self._deaths + 1, _ending(worker)
                    file = self._memory.clock(task.slot).file
                    task.sources[file] = Failure("failed", f"the process that decoded it died twice ({ending})")
            raise ModelError(f"{self._deaths} decoding processes died, the last one by {ending}; use --workers 0")
        except Exception as error:
            task.future.set_exception(error)

    def _decode_alone(self, task: _Task) -> tuple[_Worker, Done | None]:
        """Decode a batch in a separate process; return the process, which has ended, and its response, if any."""
        worker = self._started()
        worker.work[0] = task
        self._memory.clock(task.slot).stop()
        with self._lock:
            self._workers_alone.append(worker)
        try:
            worker.send(Work(0, task.slot, task.sources, task.batch.models))
            return worker, next(worker.messages(), None)
        finally:
            with self._lock:
                self._workers_alone.remove(worker)
            worker.close()
            worker.wait()

    def close(self) -> None:
        """Stop the processes."""
        with self._lock:
            self._closing = True
        self._ended.set()
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            worker.wait()
        self._alone.shutdown(wait=True, cancel_futures=True)
        if self._instead:
            self._instead.close()
        self._stack.close()


def _ending(worker: _Worker) -> str:
    """Return the signal or exit code of a process that ended."""
    code = worker.process.returncode
    return f"signal {-code}" if code and code < 0 else f"exit code {code}"


def main() -> None:
    """Decode the batches that the parent sends until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows sends it to all processes of the console
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # printed text must not end up in the answers
    lock = threading.Lock()

    def send(message: Done) -> None:
        with lock, contextlib.suppress(OSError):
            pickle.dump(message, answers)
            answers.flush()

    _serve(orders, send)


def _serve(orders: IO[bytes], send: _Send) -> None:
    """Decode in this thread, while another thread receives batches and reads remote files ahead."""
    try:
        settings: Settings = pickle.load(orders)
    except EOFError:  # the run ended before it sent its settings
        return
    memory = Memory(settings.memory, settings.how)
    waiting: queue.SimpleQueue[tuple[Work, Reading]] = queue.SimpleQueue()
    threading.Thread(target=_receive_work, args=(orders, waiting, settings.how), daemon=True).start()
    while True:
        work, reading = waiting.get()
        room, clock = memory.room(work.slot, len(work.sources)), memory.clock(work.slot)
        try:
            send(Done(work.number, decode(reading(), work.models, settings.how, room, clock)))
        except TaggerError as error:
            send(Done(work.number, None, error))


def _receive_work(orders: IO[bytes], waiting: queue.SimpleQueue[tuple[Work, Reading]], how: Decoding) -> None:
    reader = Reader(0)
    reader.timeout = how.limits.read_timeout
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
        while True:
            work: Work = pickle.load(orders)
            waiting.put((work, reader.start(work.sources)))
    os._exit(0)  # the parent has ended or closed the pipe
