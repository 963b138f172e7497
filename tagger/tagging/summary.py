"""What a run did: counted, judged, put into words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tagger.errors import TooManyFailed
from tagger.manifest import counts_text, found_text
from tagger.tagging.plan import Plan


@dataclass(frozen=True)
class ShardCounts:
    """What running some shards came to."""

    statuses: dict[str, int] = field(default_factory=dict)
    parts: int = 0
    seconds: float = 0.0
    engine: str = ""

    def __add__(self, other: ShardCounts) -> ShardCounts:
        """Add up shards that ran one after the other."""
        statuses = dict(Counter(self.statuses) + Counter(other.statuses))
        seconds = self.seconds + other.seconds
        return ShardCounts(statuses, self.parts + other.parts, seconds, other.engine or self.engine)


@dataclass(frozen=True)
class Summary:
    """What a run did, as printed and as returned."""

    out: str
    run_id: str
    model: str
    model_id: str
    engine: str
    found: int
    """Files in the source."""
    done_before: int
    """Files whose row was still right and that were not read again."""
    tagged: int
    """Files tagged in this run."""
    failed: dict[str, int]
    """Status -> files that failed in this run."""
    failed_before: dict[str, int]
    """Status -> files that failed in an earlier run and have not changed since."""
    reasons: dict[str, int]
    """Why files were tagged -> files."""
    skipped: dict[str, int]
    """Why names in the source are no files to tag -> names."""
    damaged_parts: list[str]
    parts: int
    seconds: float
    images_per_second: float
    failures_allowed: int
    """From --max-failed, or by default one less than were found."""

    def text(self) -> str:
        """Say what was done, in a few lines."""
        lines = [found_text(self.found, self.skipped)]
        if self.done_before:
            lines.append(f"{self.done_before:,} were tagged before and have not changed")
        failed = sum(self.failed.values())
        if self.tagged or failed:
            detail = f" ({counts_text(self.failed)})" if failed else ""
            lines.append(f"{self.tagged:,} tagged, {failed:,} failed{detail}")
            lines.append(
                f"{self.seconds:.1f} s, {self.images_per_second:,.1f} images/s with {self.engine}, "
                f"{self.parts} part file{'s' * (self.parts != 1)} of run {self.run_id}"
            )
        else:
            lines.append("nothing to do: 0 images decoded")
        if self.failed_before:
            lines.append(f"failed before, not tried again: {counts_text(self.failed_before)} (see --retry-failed)")
        return "\n".join([*lines, f"results: {self.out}"])

    def markdown(self) -> str:
        """Return a table for people who look at the run afterwards."""
        rows = {
            "found": self.found,
            "tagged before": self.done_before,
            "tagged": self.tagged,
            **{f"failed: {status}": count for status, count in self.failed.items()},
            **{f"failed before: {status}": count for status, count in self.failed_before.items()},
            **{f"skipped: {reason}": count for reason, count in self.skipped.items()},
        }
        table = "\n".join(f"| {name} | {count:,} |" for name, count in rows.items())
        rate = f"{self.images_per_second:,.1f} images/s with {self.engine}" if self.engine else "nothing to do"
        return f"# {self.model}\n\n`{self.out}`\n\n| files | |\n|---|--:|\n{table}\n\n{rate}\n"

    def check_failures(self) -> None:
        """Raise TooManyFailed when more files have no tags than allowed, those of earlier runs included."""
        failed = Counter(self.failed) + Counter(self.failed_before)
        if self.found and failed.total() > self.failures_allowed:
            raise TooManyFailed(
                f"{self.out}: {failed.total():,} of {self.found:,} files failed ({counts_text(dict(failed))}) and "
                f"{self.failures_allowed:,} are allowed; their rows are written, see `tagger query {self.out}`"
            )


def summarise(plan: Plan, counts: ShardCounts) -> Summary:
    """Put a plan and what its shards came to side by side."""
    allowed = plan.config.failures_allowed(plan.found)
    handled = sum(counts.statuses.values())
    return Summary(
        out=plan.out,
        run_id=plan.run_id,
        model=plan.model,
        model_id=plan.model_id,
        engine=counts.engine,
        found=plan.found,
        done_before=plan.done,
        tagged=counts.statuses.get("ok", 0),
        failed=_not_ok(counts.statuses),
        failed_before=_not_ok(plan.standing),
        reasons=plan.reasons,
        skipped=plan.skipped,
        damaged_parts=list(plan.damaged),
        parts=counts.parts,
        seconds=round(counts.seconds, 3),
        images_per_second=round(handled / counts.seconds, 1) if counts.seconds else 0.0,
        failures_allowed=max(plan.found - 1, 0) if allowed is None else allowed,
    )


def _not_ok(statuses: dict[str, int]) -> dict[str, int]:
    return {status: count for status, count in statuses.items() if status != "ok"}
