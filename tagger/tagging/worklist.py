"""The shards of a plan that are left, in the order in which a run takes them."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tagger import storage
from tagger.tagging.plan import Plan, read_committed, still_wanted
from tagger.tagging.results import MERGED

_SHARE, _SECONDS = 0.05, 2.0
"""Share of the time that may be spent on looking for parts of other runs, and the longest time between two looks."""


class Worklist:
    """The shards that are left, without what overlapping runs have committed.

    Overlapping runs keep apart without talking to each other: each starts at a random shard and goes on upwards until
    it meets the trail of another, or finds that another has done the shards that it took; then it starts again near the
    middle of the longest stretch that is left. Near the end they take the same shards.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._left: set[int] = set()
        self._next = 0
        self._taken: set[int] = set()
        self._wanted = np.array(plan.entries["wanted"].to_numpy())
        self._seen = set(plan.known)
        self._look_again = 0.0
        self._lock = threading.Lock()

    @property
    def left(self) -> list[int]:
        """Return the shards that are left, in order."""
        return sorted(self._left)

    def take(self) -> tuple[int, pa.Table] | None:
        """Return the next shard, and those of its files that nobody has committed; None when nothing is left."""
        with self._lock:
            self._look()
            if not self._left:
                return None
            index = self._next if self._next in self._left else _middle(sorted(self._left))
            self._left.remove(index)
            self._taken.add(index)
            self._next = index + 1
            return index, self._entries(index)

    def add(self, shards: Sequence[int]) -> None:
        """Add shards that are to be taken."""
        with self._lock:
            if shards and not self._left:
                self._next = random.choice(shards)
            self._left.update(shards)

    def _entries(self, index: int) -> pa.Table:
        shard = self.plan.shard(index)
        start = index * self.plan.config.shard_size
        wanted = self._wanted[start : start + len(shard)]
        place = shard.column_names.index("wanted")
        return shard.set_column(place, "wanted", pa.chunked_array([pa.array(wanted)])).filter(pa.array(wanted != 0))

    def _look(self) -> None:
        """Look for new parts of other runs, not so often that it takes time that matters."""
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
        self._look_again = now + min((now - started) / _SHARE, _SECONDS)

    def _is_of_another_run(self, name: str) -> bool:
        """Return whether a part is one that another run wrote: a merged one has no new rows."""
        return name.endswith(".parquet") and not name.endswith(MERGED) and self.plan.run_id not in name

    def _drop(self, new_parts: list[str]) -> None:
        """Drop what these parts have, and the shards of which nothing is left."""
        rows = read_committed(self.plan, new_parts)
        entries = self.plan.entries
        places = np.flatnonzero(pc.is_in(entries["uri"], rows["uri"].combine_chunks()).to_numpy())
        if not len(places):
            return
        self._wanted[places] &= still_wanted(self.plan, entries.take(pa.array(places)), rows)
        size = self.plan.config.shard_size
        touched = np.unique(places // size)
        if self._taken.intersection(touched.tolist()):
            self._next = -1  # both are at the same place: side by side they would do every shard twice
        for index in touched:
            if not self._wanted[index * size : (index + 1) * size].any():
                self._left.discard(int(index))


def _middle(left: list[int]) -> int:
    """Return a number near the middle of the longest stretch of consecutive ones, by chance."""
    stretches = [list(group) for _, group in itertools.groupby(enumerate(left), lambda each: each[1] - each[0])]
    longest = max(stretches, key=len)
    return random.choice(longest[len(longest) // 3 : len(longest) * 2 // 3 + 1])[1]
