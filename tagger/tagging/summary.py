"""The summary of a run: counts, rates, and their text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tagger import hardware, schema, storage
from tagger.data.manifest import counts_text, found_text
from tagger.errors import TooManyFailed
from tagger.inference.ceilings import Ceilings
from tagger.tagging.plan import Plan, Target

STEADY_SECONDS = 2.0
"""Minimum duration of a run for its rate without start-up."""


@dataclass(frozen=True)
class ShardCounts:
    """Counts of some shards; lists have an entry per model."""

    statuses: list[dict[str, int]] = field(default_factory=list)
    engines: list[str] = field(default_factory=list)
    unknown: list[int | None] = field(default_factory=list)
    """None for a model without statistics."""
    untagged: list[int] = field(default_factory=list)
    files: int = 0
    shards: tuple[int, ...] = ()
    """Shards that have a part file."""
    timed: int = 0
    """Files tagged in `seconds`; the others were written by an earlier attempt."""
    seconds: float = 0.0
    steady_seconds: float = 0.0
    """From the first row to the last."""
    ceilings: Ceilings = field(default_factory=Ceilings)

    def __add__(self, other: ShardCounts) -> ShardCounts:
        """Add up shards that ran one after the other."""
        if not other.files or not self.files:
            return self if self.files else other
        pairs = zip(self.statuses, other.statuses, strict=True)
        return ShardCounts(
            statuses=[dict(Counter(one) + Counter(two)) for one, two in pairs],
            engines=other.engines,
            unknown=[
                None if one is two is None else (one or 0) + (two or 0)
                for one, two in zip(self.unknown, other.unknown, strict=True)
            ],
            untagged=[one + two for one, two in zip(self.untagged, other.untagged, strict=True)],
            files=self.files + other.files,
            shards=self.shards + other.shards,
            timed=self.timed + other.timed,
            seconds=self.seconds + other.seconds,
            steady_seconds=self.steady_seconds + other.steady_seconds,
            ceilings=other.ceilings,
        )


@dataclass(frozen=True)
class ModelSummary:
    """Counts of one model in a run."""

    model: str
    model_id: str
    engine: str
    """Engine that ran; empty when there was nothing to do."""
    done_before: int
    """Files whose row was up to date."""
    tagged: int
    truncated: int
    """Tagged files whose end is missing."""
    unknown: int | None
    """Tagged files that are unlike the training images; None if the model cannot detect them."""
    untagged: int
    """Tagged files that got no tag: unknown, or without a score over its threshold."""
    failed: dict[str, int]
    """Status -> files that failed in this run."""
    failed_before: dict[str, int]
    """Status -> files that failed in an earlier run and have not changed since."""
    reasons: dict[str, int]
    """Reason for tagging -> files."""

    def lines(self) -> list[str]:
        """Return a few lines for a terminal."""
        lines = []
        failed = sum(self.failed.values())
        if self.done_before:
            lines.append(f"{self.done_before:,} were tagged before and have not changed")
        cut = f" ({self.truncated:,} of them truncated)" if self.truncated else ""
        unknown = "" if self.unknown is None else f", {self.unknown:,} unknown"
        if self.tagged or failed:
            reasons = f" ({counts_text(self.failed)})" if failed else ""
            lines.append(f"{self.tagged:,} tagged{cut}, {failed:,} failed{reasons}{unknown}")
        else:
            lines.append("nothing to do: 0 images decoded")
        if self.untagged:
            hint = "unknown (see --tag-unknown), or " if self.unknown else ""
            lines.append(f"{self.untagged:,} of these have no tag: {hint}no score over its threshold (see --threshold)")
        if self.failed_before:
            lines.append(f"failed before, not tried again: {counts_text(self.failed_before)} (see --retry-failed)")
        return lines


@dataclass(frozen=True)
class Summary:
    """The summary of a run, as printed and as returned."""

    out: str
    run_id: str
    found: int
    """Files in the source."""
    skipped: dict[str, int]
    """Reason for skipping -> names in the source."""
    models: list[ModelSummary]
    damaged_parts: list[str]
    parts: int
    seconds: float
    images_per_second: float
    """Files per second, including start-up."""
    steady_images_per_second: float | None
    """The same without start-up; None for a run of less than STEADY_SECONDS."""
    bound_images_per_second: float | None
    """Rate that the slowest of storage, decoding and model allows."""
    bound_by: str | None
    share_of_bound: float | None
    peak_memory: int
    """Peak memory of this process in bytes."""
    failures_allowed: int
    """Per model; from --max-failed, or by default one less than were found."""

    @property
    def tagged(self) -> int:
        """Return the number of rows with tags, over all models."""
        return sum(model.tagged for model in self.models)

    @property
    def failed(self) -> dict[str, int]:
        """Return status -> rows that failed in this run, over all models."""
        return _total(model.failed for model in self.models)

    @property
    def failed_before(self) -> dict[str, int]:
        """Return status -> rows that failed in earlier runs and were not retried, over all models."""
        return _total(model.failed_before for model in self.models)

    @property
    def done_before(self) -> int:
        """Return the number of rows that were up to date, over all models."""
        return sum(model.done_before for model in self.models)

    @property
    def reasons(self) -> dict[str, int]:
        """Return reason -> rows, over all models."""
        return _total(model.reasons for model in self.models)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, totals included, as plain values."""
        totals = ("tagged", "failed", "failed_before", "done_before", "reasons")
        return {**asdict(self), **{name: getattr(self, name) for name in totals}}

    def text(self) -> str:
        """Return a few lines for a terminal."""
        lines = [found_text(self.found, self.skipped)]
        for model in self.models:
            prefix = f"{model.model}: " if len(self.models) > 1 else ""
            lines += [prefix + line for line in model.lines()]
        if self.parts:
            lines += self._rate_lines()
        return "\n".join([*lines, f"results: {self.out}"])

    def _rate_lines(self) -> list[str]:
        engines = ", ".join(dict.fromkeys(model.engine for model in self.models))
        lines = [
            f"{self.seconds:.1f} s, {self.images_per_second:,.1f} images/s with {engines}, "
            f"{self.parts} part file{'s' * (self.parts != 1)} of run {self.run_id}"
        ]
        if self.share_of_bound:
            lines.append(
                f"after start-up {self.steady_images_per_second:,.1f} images/s, {self._against_bound()}; "
                f"at most {self.peak_memory / 1e9:.2f} GB of memory"
            )
        return lines

    def _against_bound(self) -> str:
        """Compare with the bound; the model was timed earlier, when the machine may have had other work."""
        if self.share_of_bound and self.share_of_bound > 1:
            return f"above the {self.bound_images_per_second:,.1f} measured for {self.bound_by} alone"
        return (
            f"{self.share_of_bound:.0%} of the {self.bound_images_per_second:,.1f} possible with {self.bound_by} alone"
        )

    def check_failures(self) -> None:
        """Raise TooManyFailed if more files failed than allowed, including those that failed in earlier runs."""
        for model in self.models:
            failed = Counter(model.failed) + Counter(model.failed_before)
            if self.found and failed.total() > self.failures_allowed:
                raise TooManyFailed(
                    f"{self.out}: {failed.total():,} of {self.found:,} files failed ({counts_text(dict(failed))}), but "
                    f"{self.failures_allowed:,} are allowed; their rows are written, see `tagger query {self.out}`"
                )


def summarise(plan: Plan, counts: ShardCounts) -> Summary:
    """Return the summary of a plan and the counts of its shards."""
    allowed = plan.config.failures_allowed(plan.found)
    steady = counts.timed / counts.steady_seconds if counts.steady_seconds > STEADY_SECONDS else None
    bound, bound_by = counts.ceilings.bound() or (None, None)
    return Summary(
        out=storage.public_uri(plan.out),
        run_id=plan.run_id,
        found=plan.found,
        skipped=plan.skipped,
        models=[_summarise_model(index, target, counts) for index, target in enumerate(plan.targets)],
        damaged_parts=list(plan.damaged),
        parts=len(counts.shards),
        seconds=round(counts.seconds, 3),
        images_per_second=round(counts.timed / counts.seconds, 1) if counts.seconds else 0.0,
        steady_images_per_second=steady and round(steady, 1),
        bound_images_per_second=bound and round(bound, 1),
        bound_by=bound_by,
        share_of_bound=round(steady / bound, 3) if steady and bound else None,
        peak_memory=hardware.peak_memory(),
        failures_allowed=max(plan.found - 1, 0) if allowed is None else allowed,
    )


def _summarise_model(index: int, target: Target, counts: ShardCounts) -> ModelSummary:
    statuses = counts.statuses[index] if counts.statuses else {}
    return ModelSummary(
        model=target.name,
        model_id=target.model_id,
        engine=counts.engines[index] if counts.engines else "",
        done_before=target.done,
        tagged=sum(statuses.get(status, 0) for status in schema.TAGGED),
        truncated=statuses.get("truncated", 0),
        unknown=counts.unknown[index] if counts.unknown else None,
        untagged=counts.untagged[index] if counts.untagged else 0,
        failed=_not_ok(statuses),
        failed_before=_not_ok(target.standing),
        reasons=target.reasons,
    )


def _not_ok(statuses: Mapping[str, int]) -> dict[str, int]:
    return {status: count for status, count in statuses.items() if status not in schema.TAGGED}


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)
