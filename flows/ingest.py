"""List a source into a manifest, as a Prefect flow: `python -m flows.ingest SOURCE --out manifest.parquet`."""

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.states import Completed

from flows import command
from flows.retries import may_pass
from tagger import options
from tagger.checkpoint import markdown
from tagger.data.ingest import ingest as write_manifest


@task(retries=2, retry_delay_seconds=30, retry_condition_fn=may_pass, persist_result=False)
def list_source(source: str, out: str, **labels: Any) -> dict[str, Any]:
    """Write the manifest; return its counts and its report. `labels` as in tagger.ingest."""
    found = write_manifest(source, out, **labels)
    return {**found.counts(), "text": found.text()}


@flow(name="ingest", persist_result=False)
def ingest(
    source: options.Source,
    out: options.ManifestOut,
    labels: options.Labels = None,
    label_format: options.LabelFormat = "auto",
    label_delimiter: options.LabelDelimiter = None,
    label_names: options.LabelNames = None,
    merge_rows: options.MergeRows = False,
) -> State[dict[str, Any]]:
    """List a source into a manifest: one row per image file with its labels."""
    counts = list_source(
        source, out, labels=labels, label_format=label_format, label_delimiter=label_delimiter,
        label_names=label_names, merge_rows=merge_rows,
    )  # fmt: skip
    rows = [("found", f"{counts['found']:,}"), *((f"skipped: {why}", f"{n:,}") for why, n in counts["skipped"].items())]
    table = markdown.table(("files", ""), "lr", rows)
    create_markdown_artifact(f"# Manifest\n\n`{out}`\n\n{table}\n\n```\n{counts['text']}\n```\n", key="ingest")
    return Completed(message=f"{counts['found']:,} files found; manifest: {out}", data=counts)


if __name__ == "__main__":
    command.main(ingest)
