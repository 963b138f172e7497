"""The remaining shards of a plan, in the order in which a run takes them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger import storage
from tagger.tagging.parts import MERGED
from tagger.tagging.plan import Plan, read_committed, still_pending

_SHARE = 0.2
"""Maximum share of the time spent looking for parts of other runs; batches are decoded and scored meanwhile."""


class Worklist:
    """The remaining shards, without what overlapping runs have committed.

    Overlapping runs divide the work without communicating. A run starts at a random shard and continues upwards. Once
    it has seen parts of other runs, it takes shards at its own position among the remaining ones: of two runs, the one
    with the lower run_id takes the first shard, the other the last; of three, the second takes the middle one.

    When as few shards remain as this run has in flight (for each other run), the others are probably tagging them. It
    takes one of these only when its own are committed; by then most of the others' are, too.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._left: set[int] = set()
        self._start = 0
        self._in_flight: set[int] = set()
        """Taken shards that are not committed yet."""
        self._others: set[str] = set()
        """run_id of each overlapping run that has tagged files of this plan."""
        self._pending = np.array(plan.entries["wanted"].to_numpy())
        self._seen = set(plan.known)
        self._look_again = 0.0
        self._lock = threading.Lock()

    @property
    def left(self) -> list[int]:
        """Return the remaining shards, in order."""
        return sorted(self._left)

    def add(self, shards: Sequence[int]) -> None:
        """Add shards to the worklist."""
        with self._lock:
            if shards and not self._left:
                self._start = random.choice(shards)
            self._left.update(shards)

    def take(self, committed: Iterable[int] = ()) -> tuple[int, pa.Table] | None:
        """Return the next shard and those of its files that no run has committed.

        `committed` are shards of this run. Return None if no shard remains, or if other runs are probably tagging the
        remaining ones: then settle() returns whether to continue.
        """
        with self._lock:
            self._in_flight.difference_update(committed)
            self._look()
            if len(self._left) <= len(self._others) * len(self._in_flight):
                return None
            index = self._choose(self.left)
            self._left.remove(index)
            self._in_flight.add(index)
            return index, self._entries(index)

    def settle(self) -> bool:
        """Look for new parts once all taken shards are committed; return whether shards remain."""
        with self._lock:
            self._in_flight.clear()
            self._look_again = 0.0
            self._look()
            return bool(self._left)

    def _choose(self, left: list[int]) -> int:
        if not self._others:
            return min((index for index in left if index >= self._start), default=left[0])
        rank = sum(run < self.plan.run_id for run in self._others)
        return left[rank * (len(left) - 1) // len(self._others)]

    def _entries(self, index: int) -> pa.Table:
        shard = self.plan.shard(index)
        start = index * self.plan.config.shard_size
        pending = self._pending[start : start + len(shard)]
        place = shard.column_names.index("wanted")
        return shard.set_column(place, "wanted", pa.chunked_array([pa.array(pending)])).filter(pa.array(pending != 0))

    def _look(self) -> None:
        """Look for new parts of other runs, unless that would take more than _SHARE of the time."""
        started = time.monotonic()
        if started < self._look_again:
            return
        sizes = storage.sizes_in(self.plan.out) or {}
        new = [name for name in sizes if name not in self._seen and self._is_of_another_run(name)]
        self._left -= {index for index in self._left if self.plan.part(index) in sizes}  # by another slice
        if new:
            self._drop([storage.join(self.plan.out, name) for name in new])
            self._seen.update(new)
        now = time.monotonic()
        self._look_again = now + (now - started) / _SHARE

    def _is_of_another_run(self, name: str) -> bool:
        """Return whether a part is one that another run wrote: a merged one has no new rows."""
        return name.endswith(".parquet") and not name.endswith(MERGED) and self.plan.run_id not in name

    def _drop(self, new_parts: list[str]) -> None:
        """Drop the files that these parts contain, and shards without remaining files."""
        rows, entries = read_committed(self.plan, new_parts), self.plan.entries
        places = np.flatnonzero(pc.is_in(entries["uri"], rows["uri"].combine_chunks()).to_numpy())
        if not len(places):
            return
        self._others.update(pc.unique(rows["run_id"]).to_pylist())
        self._pending[places] &= still_pending(self.plan, entries.take(pa.array(places)), rows)
        size = self.plan.config.shard_size
        for index in np.unique(places // size):
            if not self._pending[index * size : (index + 1) * size].any():
                self._left.discard(int(index))
