"""The labels table of `tagger review`: the latest decision per image, identified by the content of its file."""

from __future__ import annotations

from collections.abc import Iterator

from tagger import schema
from tagger.data import decisions
from tagger.data.labels.record import Format, LabelFile, Notes, Options, Record


def matches(file: LabelFile) -> bool:
    """Return whether these are the columns of a labels table."""
    return file.kind == "parquet" and set(schema.LABELS.names) <= {*file.columns}


def read(file: LabelFile, options: Options, notes: Notes) -> Iterator[Record]:
    """Yield the labels of every image, once for each uri with a decision about it."""
    table = decisions.read(file.uri, ours=False)
    counting = decisions.latest(table)
    labels = dict(zip(decisions.image_of(counting).to_pylist(), counting["labels"].to_pylist(), strict=True))
    places = table.select(["uri", "image_id"]).append_column("image", decisions.image_of(table))
    for row in places.group_by(["uri", "image_id", "image"]).aggregate([]).to_pylist():
        if row["image"] in labels:
            yield Record(row["uri"], tuple(labels[row["image"]]), image_id=row["image_id"])


FORMAT = Format("tagger-review", "labels.parquet of `tagger review`", matches, read, "parquet", corrects=True)
