"""List a source into a manifest, as a Prefect flow: `python -m flows.ingest SOURCE --out manifest.parquet`."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.states import Completed

from flows import command
from flows.names import run_name
from flows.progress import progress
from flows.retries import retried
from tagger.checkpoint import markdown
from tagger.data.config import DEFAULTS, LabelOptions
from tagger.data.ingest import write_manifest
from tagger.options import ManifestOut, Source


@retried(task_run_name="list")
def list_source(source: str, out: str, options: LabelOptions) -> dict[str, Any]:
    """Write the manifest and return its counts and its report."""
    with progress(f"listing {source}"):
        found = write_manifest(source, out, options)
    return {**found.counts(), "text": found.text()}


@flow(name="ingest", flow_run_name=run_name, persist_result=False)
def ingest(
    source: Source,
    out: ManifestOut,
    options: LabelOptions = DEFAULTS,
) -> State[dict[str, Any]]:
    """List a source into a manifest: one row per image file with its labels."""
    counts = list_source(source, out, options)
    rows = [("found", f"{counts['found']:,}"), *((f"skipped: {why}", f"{n:,}") for why, n in counts["skipped"].items())]
    table = markdown.table(("files", ""), "lr", rows)
    create_markdown_artifact(f"# Manifest\n\n`{out}`\n\n{table}\n\n```\n{counts['text']}\n```\n", key="ingest")
    return Completed(message=f"{counts['found']:,} files found; manifest: {out}", data=counts)


if __name__ == "__main__":
    command.main(ingest)
