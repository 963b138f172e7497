"""SageMaker Ground Truth manifests: JSON lines with `source-ref`, and `JOB` next to `JOB-metadata` for each job."""

from __future__ import annotations

from collections.abc import Iterator

from tagger.data.labels import tables
from tagger.data.labels.record import Fields, Format, LabelFile, Notes, Options, Record, unique

SOURCE = "source-ref"
_METADATA = "-metadata"
_VERIFICATION = "label-verification"


def matches(file: LabelFile) -> bool:
    """Return whether these are JSON lines with a source."""
    return file.kind == "jsonl" and SOURCE in file.columns


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield a record per line; raises UsageError for several classification jobs without --label-field."""
    fields = Fields(file.uri, options.fields, notes)
    for name, row in tables.json_images(file, SOURCE, notes):
        found = [labels for job in _jobs(row) if (labels := _answers(row, job, notes)) is not None and fields.take(job)]
        yield Record(name, unique(label for labels in found for label in labels) if found else None)


def _jobs(row: dict[str, object]) -> list[str]:
    return [key for key in row if f"{key}{_METADATA}" in row]


def _answers(row: dict[str, object], job: str, notes: Notes) -> tuple[str, ...] | None:
    """Return the classes that a job assigned to an image; None for a job of another kind, or a failed one."""
    value, metadata = row[job], row[f"{job}{_METADATA}"]
    if not isinstance(metadata, dict) or "failure-reason" in metadata:
        notes.add("jobs that failed, ignored", f"{row[SOURCE]}: {job}")
        return None
    names = metadata.get("class-map")
    if _VERIFICATION not in str(metadata.get("type")):
        if "class-name" in metadata:
            return (str(metadata["class-name"]),)
        if isinstance(value, list) and isinstance(names, dict):
            return unique(str(names.get(str(label_id), label_id)) for label_id in value)
    notes.add("jobs that do not classify images, ignored", f"{job} ({metadata.get('type')})")
    return None


FORMAT = Format("sagemaker", "JSON lines with source-ref and JOB-metadata", matches, read, "jsonl", has_fields=True)
