"""One training in one process or in several: started here (`--gpus`), or by torchrun.

The first process reads the data and makes a Job, which is plain data. The processes that train build network and loader
from it; the first of them validates, reports and saves the state.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing
from torch._C._distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import start_processes

from tagger import hardware
from tagger.errors import TaggerError, UsageError
from tagger.training import resume
from tagger.training.distributed import ALONE, START_METHOD, Group, end_with_parent, start_server
from tagger.training.resume import State
from tagger.training.trainer import Diverged, Epoch, OnEpoch, Trainer

TIMEOUT = timedelta(minutes=30)
"""Time that a process waits for the others; the death of a process is noticed at once."""
WAIT = timedelta(days=7)
"""Time that the other processes of torchrun wait while the first reads the data."""
_END_SECONDS = 5.0
_NOTICE_SECONDS = 1.0
"""Time in which all processes notice that one has failed."""


class Lost(TaggerError):
    """A training process has lost its connection to the others."""


_Events: TypeAlias = "SimpleQueue[Epoch | TaggerError]"


@dataclass(frozen=True)
class Job:
    """A training that can be sent to other processes."""

    make: Callable[[Group], Trainer]
    """A module-level function, so that it can be pickled."""
    device: str
    gpus: int = 1
    gradients: str = "exact"
    state: State | None = None


@dataclass(frozen=True)
class Fitted:
    """Result of a training."""

    weights: dict[str, Tensor]
    curve: list[Epoch]
    best_epoch: int
    seconds_before: float
    diverged: str = ""
    """Why training stopped before its end."""


def fit(job: Job, on_epoch: OnEpoch = lambda epoch: None) -> Fitted:
    """Train in as many processes as the job has; raises Diverged and TaggerError."""
    if job.gpus == 1:
        return _train(job, ALONE, on_epoch)
    if under_torchrun():
        return _train_under_torchrun(job, on_epoch)
    return _train_in_processes(job, on_epoch)


def check_gpus(gpus: int, device: str) -> None:
    """Raise UsageError when this machine has fewer GPUs; `--device cpu` starts processes without any."""
    if gpus == 1 or device == "cpu":
        return
    found = torch.cuda.device_count() if hardware.has_cuda() else 0
    here = int(os.environ.get("LOCAL_WORLD_SIZE", gpus)) if under_torchrun() else gpus
    if found < here:
        raise UsageError(
            f"--gpus {gpus}: torch finds {found} GPU{'' if found == 1 else 's'} on this machine; choose --gpus "
            f"{max(found, 1)}, or add --device cpu"
        )


def under_torchrun() -> bool:
    """Return whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def torchrun_gpus(gpus: int) -> int:
    """Return --gpus, or torchrun's number of processes; raises UsageError if both are given and differ."""
    size = int(os.environ["WORLD_SIZE"]) if under_torchrun() else gpus
    if gpus not in (1, size):
        raise UsageError(f"--gpus {gpus}: torchrun has started {size} processes; omit --gpus")
    return size


def follows() -> bool:
    """Return whether this is a process of torchrun other than the first."""
    return under_torchrun() and os.environ["RANK"] != "0"


def follow() -> None:
    """Take part in the training of torchrun's first process."""
    _train_under_torchrun(None, lambda epoch: None)


def _train(job: Job, processes: Group, on_epoch: OnEpoch) -> Fitted:
    trainer, diverged = job.make(processes), ""
    try:
        resume.fit(trainer, job.state, on_epoch)
    except Diverged as error:
        if not trainer.best:
            raise
        diverged = str(error)
        trainer.load_best()
    weights = {name: value.detach().cpu() for name, value in trainer.net.state_dict().items()}
    return Fitted(weights, trainer.curve, trainer.best_epoch, trainer.seconds_before, diverged)


def _train_in_processes(job: Job, on_epoch: OnEpoch) -> Fitted:
    """Start one process per GPU and supervise them: if one fails, all are ended."""
    with tempfile.TemporaryDirectory(prefix="tagger-") as folder:
        start_server()
        events: _Events = multiprocessing.get_context(START_METHOD).SimpleQueue()
        started = start_processes(_train_one, (job, folder, events), job.gpus, join=False, start_method=START_METHOD)
        processes = started.processes
        try:
            alive = True
            while alive:
                time.sleep(0.05)
                alive = any(process.is_alive() for process in processes)
                errors = _deliver(events, on_epoch)
                if errors or any(process.exitcode for process in processes):
                    time.sleep(_NOTICE_SECONDS)
                    raise _failure(processes, errors + _deliver(events, on_epoch), started.error_files)
            found = torch.load(Path(folder, "fitted.pt"), weights_only=True)
        finally:
            _end(processes)
    return Fitted(**found | {"curve": [Epoch(**entry) for entry in found["curve"]]})


def _train_one(rank: int, job: Job, folder: str, events: _Events) -> None:
    end_with_parent()
    hardware.keep_freed_memory()
    processes = Group(rank, job.gpus, job.gradients, job.gpus)
    try:
        with _joined(processes, job.device, rank, init_method=Path(folder, "store").as_uri()):
            fitted = _train(job, processes, events.put if rank == 0 else lambda epoch: None)
            if rank == 0:
                torch.save(vars(fitted) | {"curve": [asdict(epoch) for epoch in fitted.curve]}, f"{folder}/fitted.pt")
    except TaggerError as error:
        events.put(error)
        raise


def _train_under_torchrun(job: Job | None, on_epoch: OnEpoch) -> Fitted:
    """Send the job, or receive it; then train. The other processes wait while the first reads the data."""
    store, rank, size = next(rendezvous("env://", timeout=WAIT))
    if job:
        store.set("device", job.device)
    store.wait(["device"], WAIT)
    device, here = store.get("device").decode(), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    processes = Group(rank, size, job.gradients if job else "exact", here)
    place = int(os.environ.get("LOCAL_RANK", rank))
    with _joined(processes, device, place, store=store):
        sent = processes.from_first(lambda: job)
        assert sent is not None
        return _train(sent, Group(rank, size, sent.gradients, here), on_epoch)


@contextlib.contextmanager
def _joined(
    processes: Group, device: str, place: int, store: Store | None = None, init_method: str | None = None
) -> Iterator[None]:
    """Join the process group, and use only this process's GPU and share of the cores."""
    torch.set_num_threads(max(1, hardware.cores() // processes.here))
    if device == "cuda":
        torch.cuda.set_device(place)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend, init_method, TIMEOUT, world_size=processes.size, rank=processes.rank, store=store
        )
        yield
    except (dist.DistError, RuntimeError) as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise Lost(f"a training process lost its connection ({str(error).splitlines()[0][:120]})") from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _deliver(events: _Events, on_epoch: OnEpoch) -> list[TaggerError]:
    """Pass finished epochs to the callback; return the errors that processes have sent."""
    errors = []
    while not events.empty():
        if isinstance(event := events.get(), TaggerError):
            errors.append(event)
        else:
            on_epoch(event)
    return errors


def _failure(processes: list[BaseProcess], errors: list[TaggerError], files: list[str]) -> TaggerError:
    """Return why the processes failed: a signal, or the first error that is not a consequence of another."""
    for number, process in enumerate(processes, 1):
        if process.exitcode and process.exitcode < 0:
            name = signal.Signals(-process.exitcode).name
            return _stopped(f"process {number} of {len(processes)} was ended by {name}")
    texts = [pickle.loads(Path(file).read_bytes()) for file in files if os.path.exists(file) and os.path.getsize(file)]
    last = [text.strip().splitlines()[-1] for text in texts if Lost.__name__ not in text]
    own = [error for error in errors if not isinstance(error, Lost)]
    return own[0] if own else _stopped(last[0] if last else "a process ended")


def _stopped(reason: str) -> TaggerError:
    return TaggerError(f"training in several processes stopped: {reason}; run the command again with --resume")


def _end(processes: list[BaseProcess]) -> None:
    """End the remaining processes."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(_END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join(_END_SECONDS)
