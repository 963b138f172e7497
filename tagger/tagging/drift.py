"""Drift of a results table: two periods compared, from the Parquet alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from tagger import schema
from tagger.errors import DriftFound, TableError, UsageError, first_line
from tagger.evaluation import drift as tests
from tagger.evaluation.metrics import Array
from tagger.storage import StrPath
from tagger.tagging.aggregates import GENERATION, RANK, TAGGED, Row, Table, open_table

LIMIT = 0.05
"""Effect from which a figure counts as drift, without --fail-over."""
LEVEL = 0.005
"""Chance of a false alarm, all tests of a comparison together."""
SAMPLE, EMBEDDED = 200_000, 3_000
"""Rows, and embeddings, that are drawn of each period at most."""
TELLING = 9
"""Images of each period that the classifier tells apart best."""

_COLUMNS = "uri, status, format, width, height, bytes, top_tag, top_score, unknown::VARCHAR AS unknown"
_DAY = r"\d{4}(-\d\d){1,2}"
_HASHES = 2**64


@dataclass(frozen=True)
class Period:
    """Rows of one side of the comparison."""

    name: str
    condition: str
    """SQL over `mine`, with $first and $last."""
    first: str
    last: str


@dataclass(frozen=True)
class Figure:
    """One comparison: a row of the table of figures."""

    figure: str
    """best score, score, tags, unknown, status, formats, megapixels, bytes per pixel, embeddings, or unlike the
    reference"""
    tag: str | None
    reference_images: int
    current_images: int
    reference_mean: float | None
    """Mean of numbers, share of unknown images; null for counts."""
    current_mean: float | None
    effect: float
    p_value: float
    drifted: bool = False
    reference_bins: list[int] = field(default_factory=list)
    current_bins: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Drift:
    """Two periods of a results table, compared."""

    url: str
    model: str
    reference: Period
    current: Period
    reference_rows: int
    current_rows: int
    sampled: bool
    limit: float
    figures: list[Figure]
    shares: list[Row]
    """tag, reference, current: shares of the tagged images"""
    statuses: list[Row]
    formats: list[Row]
    tag_distance: float
    """Jensen-Shannon distance of the mixes of best tags."""
    telling: dict[str, list[Row]]
    """novel -> the images of the current period least like the reference; reference and current -> those of each
    period that the domain classifier is most sure of: uri, score (distance, or how sure)"""

    @property
    def drifted(self) -> list[Figure]:
        """Return the figures over the limit, the largest effect first."""
        return sorted((each for each in self.figures if each.drifted), key=lambda each: -each.effect)

    def check(self) -> None:
        """Raise DriftFound when a figure is over the limit."""
        if found := self.drifted:
            worst = found[0]
            name = worst.figure + (f" of {worst.tag}" if worst.tag else "")
            raise DriftFound(
                f"{self.url}: drift of {worst.effect:.3f} in {name}, over the limit of {self.limit:g} "
                f"({len(found)} of {len(self.figures)} figures are over it); see the page for the images"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return counts and figures as plain values."""
        periods = {"reference": self.reference.name, "current": self.current.name}
        counts = {name: getattr(self, name) for name in ("model", "reference_rows", "current_rows", "limit")}
        return {**periods, **counts, "drifted": bool(self.drifted), "figures": [_plain(each) for each in self.figures]}

    def table(self) -> pa.Table:
        """Return the figures as a table."""
        periods = {"model": self.model, "reference": self.reference.name, "current": self.current.name}
        return schema.from_rows([{**periods, "limit": self.limit, **_plain(each)} for each in self.figures], "drift")


def _plain(figure: Figure) -> Row:
    return {name: value for name, value in asdict(figure).items() if not name.endswith("_bins")}


def compare(
    url: StrPath,
    reference: str | None = None,
    current: str | None = None,
    model: str | None = None,
    limit: float = LIMIT,
) -> Drift:
    """Compare two periods of a results table, by default the last run with all runs before it.

    A period is a run_id, the number of a run, or days: 2026-11-30, 2026-11, or 2026-11-01..2026-11-30 (UTC, of
    `tagged_at`). Raises UsageError for a period without rows, or of another version of the model.
    """
    if not 0 <= limit <= 1:
        raise UsageError(f"--fail-over must be between 0 and 1, got {limit:g}")
    with open_table(url, model) as table:
        now = _current(table, current)
        _keep_version(table, now)
        then = _reference(table, reference, now)
        rows = [_count(table, period) for period in (then, now)]
        samples = [_sample(table, period, count) for period, count in zip((then, now), rows, strict=True)]
        embedded = [_embedded(table, period, count) for period, count in zip((then, now), rows, strict=True)]
    of_embeddings, telling = _of_embeddings(*embedded)
    figures = _figures(*samples) + of_embeddings
    alarms = tests.significant([each.p_value for each in figures], LEVEL)
    marked = [replace(each, drifted=alarm and each.effect > limit) for each, alarm in zip(figures, alarms, strict=True)]
    tags = [_counts(each, "top_tag", tagged=True) for each in samples]
    return Drift(
        url=str(url), model=table.model, reference=then, current=now, reference_rows=rows[0], current_rows=rows[1],
        sampled=max(rows) > SAMPLE, limit=limit, figures=marked, shares=_shares(*tags),
        statuses=_shares(*(_counts(each, "status") for each in samples)),
        formats=_shares(*(_counts(each, "format") for each in samples)),
        tag_distance=tests.jensen_shannon(*_aligned(*tags)), telling=telling,
    )  # fmt: skip


# --- periods ----------------------------------------------------------------------------------------------------------


def period(option: str, text: str) -> Period:
    """Return the rows that a period's name stands for; raises UsageError for one that is none."""
    first, dots, last = text.partition("..")
    if re.fullmatch(_DAY, first) and (not dots or re.fullmatch(_DAY, last)):
        condition = "strftime(tagged_at, '%Y-%m-%d') BETWEEN $first AND $last"
        return Period(text, condition, first, (last if dots else first) + "~")  # ~ is after any day of a month
    if re.fullmatch(r"\d{1,8}", text):
        return Period(f"run {int(text)}", f"{GENERATION} BETWEEN $first AND $last", text.zfill(8), text.zfill(8))
    if re.fullmatch(r"\d{8}-\w+", text):
        return Period(f"run {text}", "run_id BETWEEN $first AND $last", text, text)
    raise UsageError(
        f"--{option} {text}: expected a run_id, the number of a run, or days such as 2026-11-30, 2026-11 or "
        "2026-11-01..2026-11-30"
    )


def _current(table: Table, text: str | None) -> Period:
    if text is not None:
        return period("current", text)
    last = table.row(f"SELECT max({GENERATION}) AS last FROM mine")["last"]
    return period("current", str(int(last)))


def _reference(table: Table, text: str | None, current: Period) -> Period:
    """Return the reference, by default all runs before the current period."""
    if text is not None:
        return period("reference", text)
    first = table.row(f"SELECT min({GENERATION}) AS first FROM versioned WHERE {current.condition}", **_ends(current))[
        "first"
    ]
    found = Period(f"all runs before {int(first)}", f"{GENERATION} >= $first AND {GENERATION} < $last", "", first)
    if not table.row(f"SELECT count(*) AS rows FROM versioned WHERE {found.condition}", **_ends(found))["rows"]:
        raise UsageError(
            f"{table.url}: no earlier run of this version of {table.model} to compare {current.name} with; name two "
            "periods with --reference and --current, such as two days"
        )
    return found


def _ends(period: Period) -> dict[str, object]:
    return {"first": period.first, "last": period.last}


def _no_rows(table: Table, period: Period) -> UsageError:
    return UsageError(
        f"{table.url}: no rows of {table.model} in {period.name}, or only of another version or other settings than in "
        f"the current period; see `tagger status {table.url}`"
    )


def _count(table: Table, period: Period) -> int:
    counted = table.row(f"SELECT count(*) AS rows FROM versioned WHERE {period.condition}", **_ends(period))["rows"]
    if not counted:
        raise _no_rows(table, period)
    return int(counted)


def _keep_version(table: Table, current: Period) -> None:
    """Narrow `mine` to the version of the model and the settings of the current period: scores of others differ."""
    found = table.rows(
        f"SELECT model_id, settings_id FROM mine WHERE {current.condition} ORDER BY run_id DESC LIMIT 1",
        **_ends(current),
    )
    if not found:
        raise _no_rows(table, current)
    same = " AND ".join(f"{name} = '{value}'" for name, value in found[0].items())
    table.rows(f"CREATE TEMP VIEW versioned AS SELECT * FROM mine WHERE {same}")


# --- samples ----------------------------------------------------------------------------------------------------------


def _drawn(period: Period, columns: str, share: float, extra: str = "true") -> str:
    """Return the SQL of a period's latest row per file, of a share of the files drawn by a hash of their names."""
    below = min(int(share * _HASHES), _HASHES - 1)
    return (
        f"SELECT {columns} FROM versioned WHERE {period.condition} AND {extra} AND hash(uri) <= {below}::UBIGINT "
        f"QUALIFY {RANK} = 1 ORDER BY image_id, uri"  # by content: shuffles then do not depend on the names
    )


def _sample(table: Table, period: Period, rows: int) -> pa.Table:
    return _arrow(table, _drawn(period, _COLUMNS, SAMPLE / rows), period)


def _embedded(table: Table, period: Period, rows: int) -> pa.Table:
    extra = f"embedding IS NOT NULL AND {TAGGED}"
    return _arrow(table, _drawn(period, "uri, embedding", EMBEDDED / rows, extra), period)


def _arrow(table: Table, sql: str, period: Period) -> pa.Table:
    import duckdb

    try:
        return table.connection.sql(sql, params=_ends(period)).to_arrow_table()
    except duckdb.Error as error:
        raise TableError(f"{table.url}: cannot be read ({first_line(error)})") from error


def _matrix(rows: pa.Table) -> Array:
    """Return embeddings (N, D)."""
    lists = rows["embedding"].combine_chunks()
    return np.asarray(lists.flatten()).reshape(len(lists), -1) if len(lists) else np.empty((0, 0))


# --- figures ----------------------------------------------------------------------------------------------------------


def _figures(reference: pa.Table, current: pa.Table) -> list[Figure]:
    """Return the figures of two samples; those with too few images are left out."""
    then, now = _values(reference), _values(current)
    made: list[Figure | None] = [
        _of_values("best score", then.scores, now.scores, unit=True),
        _of_counts("tags", *(_counts(each, "top_tag", tagged=True) for each in (reference, current))),
        _of_unknown(*(_counts(each, "unknown", tagged=True) for each in (reference, current))),
        _of_counts("status", *(_counts(each, "status") for each in (reference, current))),
        _of_counts("formats", *(_counts(each, "format") for each in (reference, current))),
        _of_values("megapixels", then.megapixels, now.megapixels),
        _of_values("bytes per pixel", then.density, now.density),
        *_of_tags(then, now),
    ]
    return [each for each in made if each is not None]


@dataclass(frozen=True)
class _Values:
    """Numbers of the tagged images of a sample."""

    scores: Array
    by_tag: dict[str, Array]
    """Scores of the images whose best tag it is, of tags with enough of them."""
    megapixels: Array
    density: Array
    """Bytes per pixel."""


def _values(rows: pa.Table) -> _Values:
    frame = rows.to_pandas()
    frame = frame[frame["status"].isin(schema.TAGGED) & frame["top_score"].notna()]
    groups = frame.groupby("top_tag")["top_score"]
    pixels = frame["width"].to_numpy(dtype=np.float64) * frame["height"].to_numpy(dtype=np.float64)
    density = frame["bytes"].to_numpy(dtype=np.float64) / pixels
    return _Values(
        scores=frame["top_score"].to_numpy(),
        by_tag={tag: scores.to_numpy() for tag, scores in groups if len(scores) >= tests.LEAST},
        megapixels=pixels[np.isfinite(pixels)] / 1e6,
        density=density[np.isfinite(density)],
    )


def _of_tags(reference: _Values, current: _Values) -> Iterator[Figure | None]:
    """Yield the scores of each tag where it is the best one."""
    for tag in sorted(reference.by_tag.keys() & current.by_tag.keys()):
        yield _of_values("score", reference.by_tag[tag], current.by_tag[tag], tag, unit=True)


def _of_values(
    name: str, reference: Array, current: Array, tag: str | None = None, unit: bool = False
) -> Figure | None:
    difference = tests.compare_values(reference, current)
    if difference is None:
        return None
    means = {"reference_mean": float(reference.mean()), "current_mean": float(current.mean())}
    bins = [np.histogram(each, _BINS, (0, 1))[0].tolist() if unit else [] for each in (reference, current)]
    return _figure(
        name, len(reference), len(current), difference, tag=tag, reference_bins=bins[0], current_bins=bins[1], **means
    )


_BINS = 20


def _of_counts(name: str, reference: Counter[str], current: Counter[str]) -> Figure | None:
    difference = tests.compare_counts(*_aligned(reference, current))
    return None if difference is None else _figure(name, reference.total(), current.total(), difference)


def _of_unknown(reference: Counter[str], current: Counter[str]) -> Figure | None:
    """Return the figure of unknown images; its means are their shares."""
    found = _of_counts("unknown", reference, current)
    means = [each["true"] / (each.total() or 1) for each in (reference, current)]
    return found and replace(found, reference_mean=means[0], current_mean=means[1])


def _figure(name: str, reference: int, current: int, difference: tests.Difference, **values: Any) -> Figure:
    fields = {"tag": None, "reference_mean": None, "current_mean": None, **values}
    return Figure(
        figure=name, reference_images=reference, current_images=current, effect=difference.effect,
        p_value=difference.p_value, **fields,
    )  # fmt: skip


def _of_embeddings(reference: pa.Table, current: pa.Table) -> tuple[list[Figure], dict[str, list[Row]]]:
    """Return the figures of embeddings, and the images that are unlike the reference or typical of one period."""
    before, now = _matrix(reference), _matrix(current)
    classified, novel = tests.classify_domains(before, now), tests.find_novel(before, now)
    if classified is None or novel is None:
        return [], {}
    scores, sizes = classified[1], (len(before), len(now))
    telling = {
        "novel": _highest(current, novel[1]),
        "current": _highest(current, scores[len(before) :]),
        "reference": _highest(reference, -scores[: len(before)]),
    }
    return [_figure("embeddings", *sizes, classified[0]), _figure("unlike the reference", *sizes, novel[0])], telling


def _highest(rows: pa.Table, ranks: Array) -> list[Row]:
    """Return the images with the highest ranks."""
    order = np.argsort(-ranks, kind="stable")[:TELLING]
    uris = rows["uri"].take(pa.array(order)).to_pylist()
    return [{"uri": uri, "score": float(ranks[place])} for uri, place in zip(uris, order, strict=True)]


def _counts(rows: pa.Table, column: str, tagged: bool = False) -> Counter[str]:
    statuses = rows["status"].to_pylist()
    values = rows[column].to_pylist()
    return Counter(
        value
        for value, status in zip(values, statuses, strict=True)
        if value is not None and (not tagged or status in schema.TAGGED)
    )


def _aligned(reference: Counter[str], current: Counter[str]) -> tuple[Array, Array]:
    names = sorted(reference.keys() | current.keys())
    return np.array([reference[name] for name in names]), np.array([current[name] for name in names])


def _shares(reference: Counter[str], current: Counter[str]) -> list[Row]:
    """Return each category's shares, the largest difference first."""
    rows = [
        {
            "name": name,
            "reference": reference[name] / (reference.total() or 1),
            "current": current[name] / (current.total() or 1),
        }
        for name in reference.keys() | current.keys()
    ]
    return sorted(rows, key=lambda row: (-abs(row["current"] - row["reference"]), row["name"]))
