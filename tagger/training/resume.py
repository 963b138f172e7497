"""State of an unfinished training: one file, written atomically after an epoch."""

from __future__ import annotations

import io
import pickle
import time
from dataclasses import dataclass, field, replace
from typing import TypedDict

import torch

from tagger import storage
from tagger.checkpoint.info import Json
from tagger.errors import TableError
from tagger.training.trainer import Epoch, OnEpoch, Trainer, TrainerState

VERSION = 1


class Saved(TypedDict):
    """Content of a state file."""

    identity: Json
    trainer: TrainerState


@dataclass
class State:
    """State file of one training."""

    uri: str
    identity: Json
    """Options and data that determine the training, as plain values."""
    every: float = 0.0
    """Minimum number of seconds between two writes."""
    saved_at: float = field(default_factory=time.perf_counter)

    def with_facts(self, **facts: object) -> State:
        """Return the same file with more facts in its identity."""
        return replace(self, identity={**self.identity, **facts})

    def exists(self) -> bool:
        """Return whether there is something to resume."""
        return storage.exists(self.uri)

    def load(self) -> Saved:
        """Return `identity` and `trainer` of the saved run; raises TableError for a damaged or foreign file."""
        try:
            state: Json = torch.load(io.BytesIO(storage.read_bytes(self.uri)), "cpu", weights_only=True)
            if state["version"] != VERSION:
                raise ValueError(f"version {state['version']}")
            return {"identity": state["identity"], "trainer": state["trainer"]}
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise TableError(f"{self.uri}: damaged training state ({reason}); delete it to start over") from error

    def save(self, trainer: Trainer) -> None:
        """Write the state, unless that happened less than `every` seconds ago."""
        if time.perf_counter() - self.saved_at < self.every:
            return
        sink = io.BytesIO()
        torch.save({"version": VERSION, "identity": dict(self.identity), "trainer": trainer.state()}, sink)
        storage.write_atomic(self.uri, sink.getvalue())
        self.saved_at = time.perf_counter()

    def remove(self) -> None:
        """Delete the file."""
        storage.remove(self.uri)


def fit(trainer: Trainer, state: State | None = None, on_epoch: OnEpoch = lambda epoch: None) -> None:
    """Train to the end, saving the state after every epoch; a saved training continues from its state."""
    processes = trainer.processes
    before = processes.from_first(lambda: state.load()["trainer"] if state and state.exists() else None)
    if before:
        trainer.load_state(before)

    def saved(epoch: Epoch) -> None:
        if state and processes.rank == 0:
            state.save(trainer)
        on_epoch(epoch)

    trainer.fit(saved)
