"""State of a training that has not ended: one file, written atomically after an epoch."""

from __future__ import annotations

import io
import pickle
import time
from typing import Any

import torch

from tagger import storage
from tagger.errors import TableError
from tagger.training.trainer import OnEpoch, Trainer

VERSION = 1


class State:
    """State file of one training; `identity` is plain data that decides how the training goes."""

    def __init__(self, uri: str, identity: dict[str, Any], every: float = 0.0) -> None:
        self.uri, self.identity, self.every = uri, identity, every
        self._saved_at = time.perf_counter()

    def exists(self) -> bool:
        """Tell whether there is something to resume."""
        return storage.exists(self.uri)

    def load(self) -> dict[str, Any]:
        """Return `identity` and `trainer` of the saved run; raises TableError for a damaged or foreign file."""
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(storage.read_bytes(self.uri)), "cpu", weights_only=True)
            if state["version"] != VERSION:
                raise ValueError(f"version {state['version']}")
            return {"identity": state["identity"], "trainer": state["trainer"]}
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise TableError(f"{self.uri}: damaged training state ({reason}); delete it to start again") from error

    def save(self, trainer: Trainer) -> None:
        """Write the state, unless that happened less than `every` seconds ago."""
        if time.perf_counter() - self._saved_at < self.every:
            return
        sink = io.BytesIO()
        torch.save({"version": VERSION, "identity": self.identity, "trainer": trainer.state()}, sink)
        storage.write_atomic(self.uri, sink.getvalue())
        self._saved_at = time.perf_counter()

    def remove(self) -> None:
        """Delete the file."""
        storage.remove(self.uri)


def fit(trainer: Trainer, state: State | None, on_epoch: OnEpoch = lambda epoch: None) -> None:
    """Train to the end, saving the state after every epoch."""

    def saved(epoch: Any) -> None:
        if state:
            state.save(trainer)
        on_epoch(epoch)

    trainer.fit(saved)
