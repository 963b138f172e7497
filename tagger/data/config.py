"""Options for reading labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tagger.options import FORM, Option


@dataclass(frozen=True)
class LabelOptions:
    """Options for finding and reading the labels of a source."""

    __pydantic_config__ = FORM

    labels: Annotated[str | None, Option("Label file, or folder of label files [default: detected in SOURCE].")] = None
    label_format: Annotated[str, Option("auto, none, or a name in docs/labels.md.")] = "auto"
    file_column: Annotated[str | None, Option("Column of files in a table of labels.")] = None
    label_column: Annotated[
        tuple[str, ...], Option("Column of labels in a table; for several, repeat it or separate names by commas.")
    ] = ()
    split_column: Annotated[str | None, Option("Column of splits in a table of labels.")] = None
    label_field: Annotated[
        tuple[str, ...],
        Option("Annotation to read, of several: Label Studio control, SageMaker job, VIA attribute."),
    ] = ()
    label_delimiter: Annotated[str | None, Option("Separator of the labels in a cell; '' if a cell is one label.")] = (
        None
    )
    label_names: Annotated[str | None, Option("File of class names by id: a text list, CSV, JSON or YAML.")] = None
    merge_rows: Annotated[bool, Option("The table has one row per label: combine the rows of each image.")] = False

    def __post_init__(self) -> None:
        """Convert a single name to a tuple."""
        for name in ("label_column", "label_field"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, (value,))


DEFAULTS = LabelOptions()
