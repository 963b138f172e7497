"""The Prefect artifact of a tagging run, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tagger.checkpoint.markdown import code, escape
from tagger.redaction import public_uri
from tagger.reporting import pages
from tagger.reporting.formatting import count, percent
from tagger.tagging.aggregates import TAGGED, Row, open_table
from tagger.tagging.summary import ModelSummary, Summary

EXAMPLES = 5
"""Maximum number of files listed per status."""


def markdown(summary: Summary) -> str:
    """Return counts, the limit on failures, examples of files that failed, and the rate."""
    sections = [_model(summary, model) for model in summary.models]
    if summary.damaged_parts:
        sections.append(f"Damaged parts, set aside and tagged again: {escape(', '.join(summary.damaged_parts))}")
    return "\n\n".join(["# Tags", code(summary.out), *sections, "## Run", code_block(summary.text())]) + "\n"


def code_block(text: str) -> str:
    """Return text as a Markdown code block."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _model(summary: Summary, model: ModelSummary) -> str:
    failed = Counter(model.failed) + Counter(model.failed_before)
    share = percent(failed.total() / summary.found) if summary.found else "–"
    limit = f"{summary.failures_allowed:,} of {summary.found:,}"
    rows = [
        ("files in the source", count(summary.found)),
        ("tagged before", count(model.done_before - sum(model.failed_before.values()))),
        ("tagged", count(model.tagged)),
        *([] if model.unknown is None else [("unknown", count(model.unknown))]),
        *([("without a tag", count(model.untagged))] if model.untagged else []),
        *((f"failed: {status}", count(files)) for status, files in model.failed.items()),
        *((f"failed before: {status}", count(files)) for status, files in model.failed_before.items()),
        ("share failed", share),
        ("failures allowed", limit),
    ]
    return "\n\n".join([pages.table((model.model, "files"), "lr", rows), *_examples(summary, model, failed.total())])


def _examples(summary: Summary, model: ModelSummary, failed: int) -> list[str]:
    """Return a section with some of the files that failed; nothing if none did."""
    if not failed:
        return []
    rows = [
        (row["status"], public_uri(each["uri"]), each["error"] or "")
        for row in failures(summary.out, model.model)
        for each in row["examples"]
    ]
    return [
        f"## Failed: {pages.counted(failed, 'file')}",
        pages.table(("status", "file", "error"), "lll", rows),
        f"At most {EXAMPLES} of each status; all of them:",
        code_block(f'tagger query {summary.out} "SELECT uri, status, error FROM images WHERE tags IS NULL"'),
    ]


def failures(url: str, model: str) -> Sequence[Row]:
    """Return status, files and examples (uri, error) of the files of a model that failed, by their latest rows."""
    with open_table(url, model) as table:
        table.create_latest(["uri", "status", "error"])
        return table.rows(
            f"""
            SELECT status, count(*) AS files, min({{'uri': uri, 'error': error}}, {EXAMPLES}) AS examples
            FROM latest WHERE NOT {TAGGED} GROUP BY ALL ORDER BY files DESC, status
            """
        )
