"""The same labels written in every format that is read, for tests that hold for all of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pyarrow as pa
import pyarrow.parquet as pq
from pictures import photo

import tagger
from tagger.data.labels.source import Ingested

CLASSES = ("bird", "cat", "dög")
Row = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Writer:
    """One way of writing rows (path, labels) into a file."""

    format: str
    name: str
    write: Callable[[Sequence[Row]], str | bytes]
    several: bool = True
    """Can hold several labels per image."""
    none: bool = True
    """Can say that an image is known to have none."""
    paths: bool = True
    """Holds paths; otherwise stems or ids."""


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def parquet(columns: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def one_hot(rows: Sequence[Row]) -> str:
    cells = [[path, *(f" {int(name in labels)}" for name in CLASSES)] for path, labels in rows]
    return table(["filename", *(f" {name}" for name in CLASSES)], cells)


def jsonl(rows: Sequence[Row]) -> str:
    return "".join(json.dumps({"file_name": p, "labels": x}, ensure_ascii=False) + "\n" for p, x in rows) + "\n"


def coco(rows: Sequence[Row]) -> str:
    images = [{"id": 10 * i, "file_name": path, "width": 1, "height": 1} for i, (path, _) in enumerate(rows)]
    given = [(10 * i, 7 + CLASSES.index(name)) for i, (_, labels) in enumerate(rows) for name in labels]
    annotations = [{"id": n, "image_id": i, "category_id": c, "bbox": [0, 0, 1, 1]} for n, (i, c) in enumerate(given)]
    categories = [{"id": 7 + at, "name": name} for at, name in enumerate(CLASSES)]
    document = {"info": {"year": 2024}, "images": images, "annotations": annotations, "categories": categories}
    return json.dumps(document, ensure_ascii=False)


def choices(labels: Sequence[str]) -> list[dict[str, Any]]:
    return [{"type": "choices", "from_name": "kind", "to_name": "image", "value": {"choices": list(labels)}}]


def label_studio(rows: Sequence[Row]) -> str:
    tasks = [
        {"id": at, "data": {"image": path}, "annotations": [{"result": choices(labels), "was_cancelled": False}]}
        for at, (path, labels) in enumerate(rows)
    ]
    return json.dumps(tasks, ensure_ascii=False)


def json_min(rows: Sequence[Row]) -> str:
    tasks = [
        {"id": at, "image": path, "annotator": 1, "annotation_id": at, "lead_time": 1.5,
         "kind": labels[0] if len(labels) == 1 else {"choices": labels}}
        for at, (path, labels) in enumerate(rows)
    ]  # fmt: skip
    return json.dumps(tasks, ensure_ascii=False)


def label_studio_csv(rows: Sequence[Row]) -> str:
    cells = [
        [path, at, labels[0] if len(labels) == 1 else json.dumps({"choices": labels}, ensure_ascii=False), 1, at, 1.5]
        for at, (path, labels) in enumerate(rows)
    ]
    return table(["image", "id", "choice", "annotator", "annotation_id", "lead_time"], cells, "\t")


def cvat_xml(rows: Sequence[Row]) -> str:
    images = "".join(
        f'<image id="{at}" name={quoteattr(path)} width="1" height="1">'
        + "".join(f'<tag label="{name}" source="manual"></tag>' for name in labels)
        + "</image>"
        for at, (path, labels) in enumerate(rows)
    )
    return f"<annotations><version>1.1</version>{images}</annotations>"


def fiftyone(rows: Sequence[Row]) -> str:
    labels = (
        f"{json.dumps(path.rpartition('.')[0])}: {json.dumps([CLASSES.index(name) for name in labels])}"
        for path, labels in rows
    )
    return f'{{"labels": {{{", ".join(labels)}}}, "classes": {json.dumps(CLASSES, ensure_ascii=False)}}}'


def azure(rows: Sequence[Row]) -> str:
    return json.dumps(
        [
            {"id": Path(path).stem, "created": "2024", "width": 1, "height": 1, "originalImageUri": "https://x/y?sig=1",
             "tags": [{"tagId": name, "tagName": name, "created": "2024"} for name in labels or ("Negative",)]}
            for path, labels in rows
        ], ensure_ascii=False,
    )  # fmt: skip


def ids(labels: Sequence[str]) -> list[str]:
    return [str(CLASSES.index(name)) for name in labels]


def paths(rows: Sequence[Row]) -> list[str]:
    return [path for path, _ in rows]


def side_by_side(*columns: Sequence[Any]) -> list[tuple[Any, ...]]:
    return list(zip(*columns, strict=True))


def first_labels(rows: Sequence[Row]) -> list[str]:
    return [labels[0] for _, labels in rows]


def lists(rows: Sequence[Row]) -> list[list[str]]:
    return [list(labels) for _, labels in rows]


def path_and_label(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    return side_by_side(paths(rows), first_labels(rows))


def label_first(rows: Sequence[Row]) -> str:
    return table(["label", "path"], side_by_side(first_labels(rows), paths(rows)), "\t")


def as_json(rows: Sequence[Row]) -> list[str]:
    return [json.dumps(labels, ensure_ascii=False) for labels in lists(rows)]


def cvat_text(rows: Sequence[Row]) -> str:
    return "".join(f"{json.dumps(p) if ' ' in p else p} {' '.join(ids(labels))}\n" for p, labels in rows)


def delimited(rows: Sequence[Row]) -> str:
    return table(["image_name", "tags"], [(path, "|".join(labels)) for path, labels in rows])


def open_images(rows: Sequence[Row]) -> str:
    cells = [(Path(path).stem, "verification", label, 1) for path, labels in rows for label in labels]
    return table(["ImageID", "Source", "LabelName", "Confidence"], cells)


def celeba(rows: Sequence[Row]) -> str:
    lines = (f"{path}  {'  '.join('1' if name in labels else '-1' for name in CLASSES)}" for path, labels in rows)
    return "\n".join([str(len(rows)), " ".join(CLASSES), *lines]) + "\n"


def sagemaker(rows: Sequence[Row]) -> str:
    metadata = {"class-map": {str(at): name for at, name in enumerate(CLASSES)}, "human-annotated": "yes",
                "type": "groundtruth/image-classification-multilabel"}  # fmt: skip
    lines = [{"source-ref": p, "kind": [int(i) for i in ids(x)], "kind-metadata": metadata} for p, x in rows]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def vertex(rows: Sequence[Row]) -> str:
    lines = [{"imageGcsUri": p, "classificationAnnotations": [{"displayName": name} for name in x]} for p, x in rows]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def via_attributes(labels: Sequence[str]) -> dict[str, Any]:
    return {"kind": {name: name in labels for name in CLASSES}}


def via(rows: Sequence[Row]) -> str:
    images = {f"{path}{at}": {"filename": path, "size": 1, "regions": [], "file_attributes": via_attributes(labels)}
              for at, (path, labels) in enumerate(rows)}  # fmt: skip
    return json.dumps({"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {}}, ensure_ascii=False)


def via_csv(rows: Sequence[Row]) -> str:
    cells = [[path, 1, json.dumps(via_attributes(labels), ensure_ascii=False), 0] for path, labels in rows]
    return table(["filename", "file_size", "file_attributes", "region_count"], cells)


def automl(rows: Sequence[Row]) -> str:
    return "".join(f"UNASSIGNED,{','.join((path, *labels))}\n" for path, labels in rows)


def one(format: str, name: str, write: Callable[[Sequence[Row]], str | bytes]) -> Writer:
    return Writer(format, name, write, several=False, none=False)


WRITERS = {
    f"{writer.format}: {writer.name}": writer
    for writer in (
        one("single-label", "l.csv", lambda rows: table(["path", "label"], path_and_label(rows))),
        one("single-label", "l.tsv", label_first),
        one("single-label", "bare.csv", lambda rows: "".join(f"{p},{x[0]}\n" for p, x in rows)),
        one("single-label", "l.parquet", lambda rows: parquet({"path": paths(rows), "label": first_labels(rows)})),
        one("cntk-map", "map.txt", lambda rows: "".join(f"{p}\t{ids(x)[0]}\n" for p, x in rows)),
        Writer("delimited", "l.csv", delimited, none=False),
        Writer("open-images", "l.csv", open_images, none=False, paths=False),
        Writer("automl", "l.csv", automl, none=False),
        Writer("cvat-imagenet", "default.txt", cvat_text, none=False),
        one("text-list", "val.txt", lambda rows: "".join(f"{p} {x[0]}\n" for p, x in rows)),
        Writer("celeba", "list_attr_celeba.txt", celeba),
        Writer("sagemaker", "output.manifest", sagemaker),
        Writer("vertex", "import.jsonl", vertex),
        Writer("via", "via.json", via),
        Writer("via", "via.csv", via_csv),
        Writer("cvat-xml", "annotations.xml", cvat_xml, none=False),
        Writer("one-hot", "_classes.csv", one_hot),
        Writer("huggingface", "metadata.csv",
               lambda rows: table(["file_name", "labels"], side_by_side(paths(rows), as_json(rows)))),
        Writer("huggingface", "metadata.jsonl", jsonl),
        Writer("huggingface", "metadata.parquet",
               lambda rows: parquet({"file_name": paths(rows), "labels": lists(rows)})),
        Writer("parquet-list", "l.parquet", lambda rows: parquet({"uri": paths(rows), "labels": lists(rows)})),
        Writer("coco", "_annotations.coco.json", coco),
        Writer("label-studio", "tasks.json", label_studio),
        Writer("label-studio-rows", "min.json", json_min),
        Writer("label-studio-rows", "l.csv", label_studio_csv),
        Writer("fiftyone", "labels.json", fiftyone, paths=False),
        Writer("azure-custom-vision", "page.json", azure, paths=False),
    )
}  # fmt: skip
"""`format: file name` -> writer"""


def write(folder: Path, writer: Writer, rows: Sequence[Row], encoding: str = "utf-8") -> tuple[Path, list[str]]:
    """Write rows; return the label file and the options that it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    content = writer.write(rows)
    path = folder / writer.name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    if writer.format == "cvat-imagenet":
        (folder / "synsets.txt").write_text("\n".join(CLASSES) + "\n")
    (folder / "names").mkdir(exist_ok=True)
    names = folder / "names" / "classes.txt"
    names.write_text("\n".join(CLASSES) + "\n")
    return path, [str(names)] if writer.format == "cntk-map" else []


def write_images(root: Path, names: Sequence[str]) -> Path:
    """Write a tiny image under each name."""
    for index, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(index, (8, 8)).save(path)
    return root


def ingest(source: Path, file: Path | None = None, content: Any = None, **options: Any) -> Ingested:
    if file is not None and content is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    found = tagger.ingest(str(source), str(source.parent / "m.parquet"), None if file is None else str(file), **options)
    assert isinstance(found, Ingested)
    return found


def by_name(found: Ingested) -> dict[str, list[str] | None]:
    """Labels by file name, unlabelled files left out."""
    rows = found.table.select(["uri", "labels"]).to_pylist()
    return {Path(row["uri"]).name: row["labels"] for row in rows if row["labels"] is not None}


def splits(found: Ingested) -> dict[str, str]:
    rows = found.table.select(["uri", "split"]).to_pylist()
    return {Path(row["uri"]).name: row["split"] for row in rows if row["split"]}


def notes_of(found: Ingested) -> str:
    return "\n".join(found.notes.lines())
