"""The maximum rate of each stage of a run, and the bound on the run that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tagger import hardware, schema

if TYPE_CHECKING:
    from tagger.inference.batch import Batch


@dataclass(frozen=True)
class Ceilings:
    """Images/s of each stage alone; None if unknown."""

    storage: float | None = None
    decode: float | None = None
    model: float | None = None
    shares_cores: bool = True
    """True when the model computes on the cores that also decode."""

    def bound(self) -> tuple[float, str] | None:
        """Return the highest possible rate of the run, and the stages that limit it; None if too little is known.

        Stages on the same cores take turns, so their times add up; others run in parallel, and the slowest decides.
        """
        if not self.decode or not self.model:
            return None
        if self.shares_cores:
            rates = {"decode and model": 1 / (1 / self.decode + 1 / self.model)}
        else:
            rates = {"decode": self.decode, "model": self.model}
        if self.storage:
            rates["storage"] = self.storage
        name = min(rates, key=lambda stage: rates[stage])
        return rates[name], name


@dataclass
class Meter:
    """Seconds spent in each stage of a run, summed over its images; used by one thread."""

    reads: int = 0
    read_seconds: float = 0.0
    """Wall time, summed over all readers."""
    decoded: int = 0
    decode_seconds: float = 0.0
    """Processor time, summed over all cores."""
    readers: int = 1

    def add(self, batch: Batch) -> None:
        """Add the times of a batch."""
        facts = batch.facts
        if facts.read_seconds:
            self.reads += len(batch)
            self.read_seconds += facts.read_seconds
        self.decoded += sum(map(facts.status.count, schema.TAGGED))
        self.decode_seconds += facts.decode_seconds

    def ceilings(self, model: float | None, shares_cores: bool) -> Ceilings:
        """Return the ceilings that follow from these seconds and the model's own rate."""
        storage = self.readers * self.reads / self.read_seconds if self.read_seconds else None
        decode = hardware.cores() * self.decoded / self.decode_seconds if self.decode_seconds else None
        return Ceilings(storage, decode, model, shares_cores)
