"""`--slice i/n`: n processes, started anywhere with the same arguments, each do a share of one frozen plan.

They agree through files in `_plans/`. `slices-<number>` describes a plan; it is written only if no file has that name,
so of several processes one makes the plan, and the others take it. `slices-<number>-done-<i>` says that the share of
slice i is done. The plan with the highest number counts, and the next is made when all shares of it are done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from tagger import storage
from tagger.errors import UsageError, WriteError
from tagger.options import flag
from tagger.tagging.config import TagConfig
from tagger.tagging.plan import PLANS, Plan, load_plan, plan_uri, remove_plan, save_plan

_ATTEMPTS = 5
_OF_THE_MACHINE = ("slice", "workers", "batch_size", "device")
"""Options that may differ between the slices of a plan."""


def share(plan: Plan, number: int, count: int) -> range:
    """Return the shards of slice `number` of `count`."""
    return range(number - 1, plan.shards, count)


def terms(source: str, models: list[tuple[str, str, str]], config: TagConfig) -> dict[str, Any]:
    """Return the options that all slices of a plan must share; a model is (name, model_id, settings_id)."""
    options = {name: value for name, value in asdict(config).items() if name not in _OF_THE_MACHINE}
    count = config.own_slice[1] if config.own_slice else 1
    return {"source": storage.public_uri(source), "slices": count, **options, "models": [list(each) for each in models]}


def agree(out: str, expected: dict[str, Any], number: int, make: Callable[[], Plan]) -> tuple[Plan, list[int]]:
    """Return the plan that the slices work on, and the shards for this one.

    These are its own share; where that is done, the shares that other slices have not finished; where all are done,
    its own of a new plan. Raises UsageError when the plan was made with other options.
    """
    for _ in range(_ATTEMPTS):
        current = _highest(out)
        described = current and _described(out, current)
        if described:
            open_slices = _open_slices(out, current, described["slices"])
            if open_slices:
                _check(described["terms"], expected, number, out)
                plan = replace(load_plan(plan_uri(out, described["run_id"])), out=out)
                own = [number] if number in open_slices else open_slices
                return plan, [shard for each in own for shard in share(plan, each, described["slices"])]
        plan = make()
        if not plan.shards or _publish(out, current + 1, plan, expected):
            return plan, list(share(plan, number, expected["slices"]))
    raise WriteError(f"{out}/{PLANS}: cannot agree with other slices on a plan; start this slice again")


def mark_done(plan: Plan, number: int, shards: Sequence[int]) -> None:
    """Record that this share of a plan is done, and any share of another slice whose shards are all in `shards`."""
    out = plan.out
    current = _highest(out)
    described = current and _described(out, current)
    if not described or described["run_id"] != plan.run_id:
        return
    count = described["slices"]
    finished = [each for each in range(1, count + 1) if {*share(plan, each, count)} <= {*shards}]
    for each in {number, *finished}:
        storage.write_atomic(_done(out, current, each), b"{}")


def _highest(out: str) -> int:
    """Return the number of the last plan; 0 without any."""
    names = storage.names_in(storage.join(out, PLANS)) or []
    return max((int(name.split("-")[1]) for name in names if name.startswith("slices-")), default=0)


def _described(out: str, number: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(storage.read_bytes(_uri(out, number)))
    return content


def _uri(out: str, number: int) -> str:
    return storage.join(out, f"{PLANS}/slices-{number:08d}")


def _done(out: str, number: int, each: int) -> str:
    return f"{_uri(out, number)}-done-{each}"


def _open_slices(out: str, current: int, count: int) -> list[int]:
    """Return the slices whose share is not done."""
    names = set(storage.names_in(storage.join(out, PLANS)) or [])
    return [each for each in range(1, count + 1) if _done(out, current, each).rpartition("/")[2] not in names]


def _publish(out: str, number: int, plan: Plan, expected: dict[str, Any]) -> bool:
    """Publish a plan for all slices, and remove earlier plans; return False if another slice published one first."""
    uri = save_plan(plan)
    described = {"run_id": plan.run_id, "slices": expected["slices"], "terms": expected}
    won = storage.write_new(_uri(out, number), json.dumps(described).encode())
    if won and _highest(out) > number:  # this process was suspended while others continued
        storage.remove(_uri(out, number))
        won = False
    if not won:
        remove_plan(uri)
        return False
    for name in storage.names_in(storage.join(out, PLANS)) or []:
        if name.startswith("slices-") and int(name.split("-")[1]) < number:
            if "-done-" not in name:
                remove_plan(plan_uri(out, _described(out, int(name.split("-")[1]))["run_id"]))
            storage.remove(storage.join(out, f"{PLANS}/{name}"))
    return True


def _check(frozen: dict[str, Any], expected: dict[str, Any], number: int, out: str) -> None:
    """Raise UsageError when a plan is not the one that this slice would make."""
    for name, value in json.loads(json.dumps(expected)).items():
        if frozen.get(name) != value:
            raise UsageError(
                f"--slice {number}/{expected['slices']}: the plan in {out}/{PLANS} is frozen with {flag(name)} "
                f"{frozen.get(name)}, but this slice has {value}; use the same options, or remove {PLANS} when no "
                "slice is running"
            )
