"""Behaviour that all label formats share."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from pathlib import Path
from typing import Any

import label_files
import pytest
from label_files import WRITERS, Row, Writer, write_images

import tagger
from tagger.data.config import LabelOptions
from tagger.data.labels.finding import LabelSource, find
from tagger.data.labels.formats import FORMATS
from tagger.data.labels.joining import class_counts, join
from tagger.data.labels.record import Notes, Options
from tagger.data.labels.source import Ingested, read_records
from tagger.errors import TableError, UsageError

NAMES = ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4 x.jpg", "5.jpg", "b/6.jpg")
ONE_EACH: list[Row] = [
    (name, (label,)) for name, label in zip(NAMES[:5], ("cat", "dög", "cat", "bird", "cat"), strict=True)
]
SEVERAL: list[Row] = [("a/1.jpg", ("cat", "dög")), ("a/2.jpg", ("dög",)), ("b/3.jpg", ("bird", "cat", "dög")),
                      ("b/4 x.jpg", ("bird",)), ("5.jpg", ("cat", "dög"))]  # fmt: skip

every_writer = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
text_writers = pytest.mark.parametrize(
    "writer", [pytest.param(writer, id=name) for name, writer in WRITERS.items() if not name.endswith("parquet")]
)
path_writers = pytest.mark.parametrize(
    "writer", [pytest.param(writer, id=name) for name, writer in WRITERS.items() if writer.paths]
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("source"), NAMES)


def ingest(source: Path, file: Path, names: list[str], **options: Any) -> Ingested:
    found = tagger.ingest(
        str(source), str(file.parent / "m.parquet"), str(file), label_names=names[0] if names else None, **options
    )
    assert isinstance(found, Ingested)
    return found


def labels_of(found: Ingested, source: Path) -> dict[str, list[str] | None]:
    rows = found.table.select(["uri", "labels"]).to_pylist()
    return {Path(row["uri"]).relative_to(source).as_posix(): row["labels"] for row in rows}


def expected(rows: list[Row], **but: list[str] | None) -> dict[str, list[str] | None]:
    return dict.fromkeys(NAMES) | {path: sorted(labels) for path, labels in rows} | but


def notes_of(found: Ingested) -> str:
    return "\n".join(found.notes.lines())


def test_every_format_is_written_by_these_tests() -> None:
    of_several_files = {"class-folders", "cub", "labelme", "sidecar-text", "voc", "xmp"}
    assert {writer.format for writer in WRITERS.values()} == set(FORMATS) - of_several_files - {
        "named-columns",
        "tagger-review",
    }


@every_writer
def test_the_same_labels_in_any_format_give_the_same_rows(source: Path, tmp_path: Path, writer: Writer) -> None:
    found = ingest(source, *label_files.write(tmp_path, writer, ONE_EACH))
    assert found.label_source
    assert found.label_source.format.name == writer.format
    assert labels_of(found, source) == expected(ONE_EACH)
    assert found.counts()["labels"]["classes"] == {"cat": 3, "bird": 1, "dög": 1}
    assert (found.counts()["labels"]["labelled"], found.counts()["labels"]["unlabelled"]) == (5, 1)
    assert "single-label" in found.text()


@pytest.mark.parametrize("writer", [pytest.param(w, id=name) for name, w in WRITERS.items() if w.several])
def test_several_labels_in_any_format_give_the_same_rows(source: Path, tmp_path: Path, writer: Writer) -> None:
    found = ingest(source, *label_files.write(tmp_path, writer, SEVERAL))
    assert labels_of(found, source) == expected(SEVERAL)
    assert "multi-label" in found.text()


@pytest.mark.parametrize("writer", [pytest.param(w, id=name) for name, w in WRITERS.items() if w.none])
def test_known_to_have_none_is_not_unlabelled(source: Path, tmp_path: Path, writer: Writer) -> None:
    found = ingest(source, *label_files.write(tmp_path, writer, [*ONE_EACH[:4], ("5.jpg", ())]))
    assert labels_of(found, source)["5.jpg"] == []
    assert labels_of(found, source)["b/6.jpg"] is None
    assert "4 labelled, 1 known to have none, 1 unlabelled" in found.text()


@every_writer
def test_the_format_can_be_named_and_switched_off(source: Path, tmp_path: Path, writer: Writer) -> None:
    file, names = label_files.write(tmp_path, writer, ONE_EACH)
    found = ingest(source, file, names, label_format=writer.format)
    assert labels_of(found, source) == expected(ONE_EACH)
    with pytest.raises(UsageError, match="use one of them"):
        ingest(source, file, names, label_format="none")
    with pytest.raises(UsageError, match="expected auto, none or one of"):
        ingest(source, file, names, label_format="yolo")


@text_writers
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_any_usual_encoding_is_read(source: Path, tmp_path: Path, writer: Writer, encoding: str) -> None:
    if writer.format == "cvat-xml" and encoding in ("utf-16-le", "latin-1"):
        pytest.skip("XML says its own encoding")
    found = ingest(source, *label_files.write(tmp_path, writer, ONE_EACH, encoding))
    assert labels_of(found, source) == expected(ONE_EACH)
    ids_only = writer.format in ("cntk-map", "cvat-imagenet")
    assert ("read as Latin-1" in notes_of(found)) == (encoding == "latin-1" and not ids_only)


def test_xml_in_latin_1_says_so_itself(source: Path, tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!-- by hand -->' + label_files.cvat_xml(ONE_EACH)
    (tmp_path / "a.xml").write_text(text, encoding="latin-1")
    assert labels_of(ingest(source, tmp_path / "a.xml", []), source) == expected(ONE_EACH)


@every_writer
def test_rows_that_agree_are_merged_and_counted(source: Path, tmp_path: Path, writer: Writer) -> None:
    found = ingest(source, *label_files.write(tmp_path, writer, [*ONE_EACH, ONE_EACH[0], ONE_EACH[2]]))
    assert labels_of(found, source) == expected(ONE_EACH)
    assert "further rows for the same image, merged: 2 (" in notes_of(found)


@every_writer
def test_rows_in_conflict_leave_the_image_unlabelled_unless_they_are_one_set(
    source: Path, tmp_path: Path, writer: Writer
) -> None:
    rows: list[Row] = [*ONE_EACH, ("5.jpg", ("bird",))]
    found = ingest(source, *label_files.write(tmp_path, writer, rows))
    if FORMATS[writer.format].merges:
        assert labels_of(found, source) == expected(ONE_EACH, **{"5.jpg": ["bird", "cat"]})
    else:
        assert labels_of(found, source) == expected(ONE_EACH, **{"5.jpg": None})
        assert "images with rows in conflict, left unlabelled (--merge-rows takes all their labels): 1 (" in notes_of(
            found
        )
        merged = ingest(source, *label_files.write(tmp_path, writer, rows), merge_rows=True)
        assert labels_of(merged, source) == expected(ONE_EACH, **{"5.jpg": ["bird", "cat"]})
        assert "5.jpg (cat against bird)" in notes_of(found)


@pytest.mark.parametrize("writer", [pytest.param(w, id=name) for name, w in WRITERS.items() if w.none])
def test_a_label_against_known_none_is_a_conflict_in_every_format(source: Path, tmp_path: Path, writer: Writer) -> None:
    found = ingest(source, *label_files.write(tmp_path, writer, [*ONE_EACH, ("5.jpg", ())]))
    assert labels_of(found, source) == expected(ONE_EACH, **{"5.jpg": None})
    assert "(cat against none)" in notes_of(found)


@path_writers
@pytest.mark.parametrize(
    "style", ["absolute", "file url", "url", "other machine", "windows", "windows absolute", "spaces"]
)
def test_paths_as_people_write_them(source: Path, tmp_path: Path, writer: Writer, style: str) -> None:
    if style == "spaces" and writer.format in ("cvat-imagenet",):
        pytest.skip("a space separates its ids")
    styles = {
        "absolute": lambda name: f"{source}/{name}",
        "file url": lambda name: f"file://{source}/{name}".replace(" ", "%20"),
        "url": lambda name: f"gs://some-bucket/data/{name}",
        "other machine": lambda name: f"/home/ann/data/{name}",
        "windows": lambda name: name.replace("/", "\\"),
        "windows absolute": lambda name: "C:\\data\\" + name.replace("/", "\\"),
        "spaces": lambda name: f"{name}  ",
    }
    rows = [(styles[style](name), labels) for name, labels in ONE_EACH]
    if writer.format == "cvat-imagenet":
        rows = [row for row in rows if "\\" not in row[0] or " " not in row[0]]
    found = ingest(source, *label_files.write(tmp_path, writer, rows))
    wanted = expected(ONE_EACH)
    if len(rows) < len(ONE_EACH):
        wanted["b/4 x.jpg"] = None
    assert labels_of(found, source) == wanted


@path_writers
def test_an_ambiguous_name_is_reported_and_not_guessed(tmp_path: Path, writer: Writer) -> None:
    source = write_images(tmp_path / "source", ["a/1.jpg", "b/1.jpg", "b/2.jpg"])
    rows: list[Row] = [("1.jpg", ("cat",)), ("2.jpg", ("cat",)), ("x/b/1.jpg", ("bird",))]
    found = ingest(source, *label_files.write(tmp_path, writer, rows))
    assert labels_of(found, source) == {"a/1.jpg": None, "b/1.jpg": ["bird"], "b/2.jpg": ["cat"]}
    assert "rows whose name matches several files, ignored: 1 (1.jpg (" in notes_of(found)


@every_writer
def test_rows_of_missing_files_are_counted_with_examples(source: Path, tmp_path: Path, writer: Writer) -> None:
    gone: list[Row] = [(f"gone-{index}.jpg", ("cat",)) for index in range(5)]
    found = ingest(source, *label_files.write(tmp_path, writer, [*ONE_EACH, *gone]))
    assert labels_of(found, source) == expected(ONE_EACH)
    assert "rows that name a file not in the source: 5 (" in notes_of(found)
    assert notes_of(found).count("gone-") == 3
    assert "1 unlabelled (such as " in found.text()


@every_writer
def test_an_empty_file_is_one_plain_error(source: Path, tmp_path: Path, writer: Writer) -> None:
    file, names = label_files.write(tmp_path, writer, ONE_EACH)
    for content in (b"", b" \n\n", b"\xef\xbb\xbf"):
        file.write_bytes(content)
        with pytest.raises(TableError, match="label file is empty"):
            ingest(source, file, names)


@every_writer
def test_a_cut_or_broken_file_never_ends_in_a_traceback(source: Path, tmp_path: Path, writer: Writer) -> None:
    file, names = label_files.write(tmp_path, writer, SEVERAL if writer.several else ONE_EACH)
    whole = file.read_bytes()
    rng = random.Random(0)
    for turn in range(30):
        wide = turn % 3 == 0 and not writer.name.endswith("parquet")
        content = bytearray(whole.decode().encode("utf-16") if wide else whole)
        content = content[: rng.randrange(1, len(content))]
        content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(content)
        with contextlib.suppress(tagger.TaggerError):
            ingest(source, file, names)


MISSING_COLUMNS = {
    "a.csv": "path,width,height\nx.jpg,3,4.5\n",
    "b.csv": "label,confidence\ncat,0.5\n",
    "c.jsonl": '{"file_name": "x.jpg", "width": 3, "height": 2}\n{"file_name": "y.jpg", "width": 4, "height": 2}\n',
    "d.json": '{"images": [{"id": 1}], "annotations": []}',
    "e.json": '[{"foo": 1}]',
    "f.xml": "<data><image name='a.jpg'/></data>",
    "g.txt": "hello world\n",
}


@pytest.mark.parametrize("name", MISSING_COLUMNS)
def test_content_that_no_format_takes_is_named_with_what_is_known(source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(MISSING_COLUMNS[name])
    with pytest.raises(TableError) as raised:
        ingest(source, tmp_path / name, [])
    message = str(raised.value)
    assert name in message
    assert len(message) < 600
    near = {"csv": "one-hot", "jsonl": "single-label", "json": "coco", "xml": "cvat-xml", "txt": "cvat-imagenet"}
    assert f"{near[name.partition('.')[2]]} (" in message.partition("Nearest: ")[2]
    assert "cvat-xml" not in message or name == "f.xml"
    assert "file_name" in message.partition("Nearest: ")[2], "a way out"
    shown = {"a.csv": "columns path, width, height", "c.jsonl": "columns file_name, width", "d.json": "keys images",
             "e.json": "keys foo", "g.txt": "first line 'hello world'"}  # fmt: skip
    assert shown.get(name, "") in message


@pytest.mark.parametrize("format", sorted({writer.format for writer in WRITERS.values()}))
def test_a_named_format_that_does_not_fit_says_what_is_missing(source: Path, tmp_path: Path, format: str) -> None:
    for name, content in MISSING_COLUMNS.items():
        (tmp_path / name).write_text(content)
        try:
            found = ingest(source, tmp_path / name, [], label_format=format)
        except tagger.TaggerError:
            continue
        assert not found.counts()["labels"]["matched_rows"], (name, found.text())
        assert found.notes.counts, name


@pytest.mark.parametrize("writer", [WRITERS["single-label: l.csv"], WRITERS["coco: _annotations.coco.json"]])
def test_rows_stream(tmp_path: Path, writer: Writer) -> None:
    count = 30_000
    uris = [f"/data/{index % 1000}/{index}.jpg" for index in range(count)]
    rows: list[Row] = [(f"{index % 1000}/{index}.jpg", (label_files.CLASSES[index % 3],)) for index in range(count)]
    file, _ = label_files.write(tmp_path, writer, rows)
    del rows
    notes = Notes()
    found = find(LabelOptions(labels=str(file)), None, uris, notes)
    assert isinstance(found, LabelSource)
    tracemalloc.start()
    records = sum(1 for _ in read_records(found, Options(), notes))
    _, reading = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert records == count
    assert reading < (25 if writer.format == "coco" else 4) * 2**20, "reading holds the file"
    joined = join(uris, read_records(found, Options(), notes), ["/data"], False, notes)
    assert class_counts(joined.labels).total() == count
    assert joined.labels[4].as_py() == ["cat"]
