"""A training of our own nets that may be killed: its state after an epoch, in one file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from tagger import storage
from tagger.errors import TableError
from tagger.training import state
from tagger.training.fitting import Epoch, Fitting

EVERY = 30.0
"""Seconds of training that a kill may cost, beside the epoch it was in."""


class Unfinished:
    """A file for the state of one training; `key` names data and options, and a state with another key is ignored.

    `say` is told where a training goes on.
    """

    def __init__(self, uri: str, key: str, say: Callable[[str], None] = lambda line: None) -> None:
        self.uri, self.key, self._say = uri, key, say
        self.earlier = 0
        """Epochs that an earlier call did."""
        self._kept = time.perf_counter()

    def restore(self, fitting: Fitting) -> None:
        """Put the training where the last one was killed, random numbers included."""
        if not storage.exists(self.uri):
            return
        try:
            parts, optimizer, about = state.unpack(self.uri)
        except TableError as error:
            self._say(f"begins again ({error})")
            return
        if about["key"] != self.key:
            return
        fitting.net.load_state_dict(parts["net"])
        fitting.optimizer.load_state_dict(optimizer)
        for parameter, values in fitting.optimizer.state.items():  # laid out as the weights are, and so as fast
            values.update({name: torch.empty_like(parameter).copy_(value) for name, value in values.items()})
        fitting.best = {name: value.to(fitting.images.device) for name, value in parts.get("best", {}).items()}
        if fitting.slow:
            fitting.slow.state = {name: value.to(fitting.images.device) for name, value in parts["slow"].items()}
        fitting.curve = [Epoch(**entry) for entry in about["curve"]]
        fitting.step = fitting.scheduler.last_epoch = about["step"]
        _set_random(parts["random"])
        self.earlier = len(fitting.curve)
        self._say(f"goes on after epoch {self.earlier}")

    def keep(self, fitting: Fitting) -> None:
        """Write the state, unless that was done a moment ago."""
        if time.perf_counter() - self._kept < EVERY:
            return
        parts = {"net": fitting.net.state_dict(), "best": fitting.best, "random": _random(fitting.images.device.type)}
        if fitting.slow:
            parts["slow"] = fitting.slow.state
        about = {"key": self.key, "curve": [asdict(entry) for entry in fitting.curve], "step": fitting.step}
        state.pack(self.uri, parts, fitting.optimizer, about)
        self._kept = time.perf_counter()


def _random(device: str) -> state.State:
    return {"cpu": torch.get_rng_state()} | ({"cuda": torch.cuda.get_rng_state()} if device == "cuda" else {})


def _set_random(states: state.State) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
