"""List a source into a manifest, as a Prefect flow: `python -m flows.ingest SOURCE --out manifest.parquet`."""

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas import State
from prefect.states import Completed

from flows import command
from flows.retries import may_pass
from tagger.data.ingest import ingest as write_manifest


@task(retries=2, retry_delay_seconds=30, retry_condition_fn=may_pass, persist_result=False)
def list_source(source: str, out: str, **labels: Any) -> dict[str, Any]:
    """Write the manifest; return counts and what was said. `labels` as in tagger.ingest."""
    found = write_manifest(source, out, **labels)
    return {**found.counts(), "text": found.text()}


@flow(name="ingest", persist_result=False)
def ingest(
    source: str,
    out: str,
    labels: str | None = None,
    label_format: str = "auto",
    label_delimiter: str | None = None,
    label_names: str | None = None,
    merge_rows: bool = False,
) -> State[dict[str, Any]]:
    """List a source into a manifest: one row per image file with its labels."""
    counts = list_source(
        source, out, labels=labels, label_format=label_format, label_delimiter=label_delimiter,
        label_names=label_names, merge_rows=merge_rows,
    )  # fmt: skip
    rows = [("found", counts["found"]), *((f"skipped: {why}", n) for why, n in counts["skipped"].items())]
    table = "\n".join(f"| {name} | {count:,} |" for name, count in rows)
    said = f"```\n{counts['text']}\n```\n"
    create_markdown_artifact(f"# Manifest\n\n`{out}`\n\n| files | |\n|---|--:|\n{table}\n\n{said}", key="ingest")
    return Completed(message=f"{counts['found']:,} files found; manifest: {out}", data=counts)


def main() -> None:
    """Parse the command line and run the flow."""
    parser = command.parser("ingest", ingest.__doc__)
    parser.add_argument("source", help="folder, file, glob, URL or list of URLs")
    parser.add_argument("--out", required=True, help="manifest to write, NAME.parquet")
    parser.add_argument("--labels", help="label file or folder of them")
    parser.add_argument("--label-format", default="auto", help="auto, none or a format's name")
    parser.add_argument("--label-delimiter", help="between the labels of one cell")
    parser.add_argument("--label-names", help="file of class names: a text list, CSV, JSON or YAML")
    parser.add_argument("--merge-rows", action="store_true", help="take the labels of all rows of an image together")
    command.run(ingest, vars(parser.parse_args()))


if __name__ == "__main__":
    main()
