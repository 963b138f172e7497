"""Archives and tables as sources: the tags of the unpacked files, a row for whatever is wrong, nothing left out."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import MODEL, photo
from test_tagging import run

import tagger
from tagger import storage
from tagger.errors import SourceError, TableError, UsageError

COUNT = 40
KINDS = ("x.tar", "x.tar.gz", "x.tar.zst", "x.tar.bz2", "x.zip", "x.parquet", "x.arrow", "stream.arrow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs in two folders, one of them damaged."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(COUNT):
        path = folder / ("a", "b c")[index % 2] / f"{index:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        photo(index, (120 + index, 90)).save(path)
    (folder / "a" / "00.jpg").write_bytes(b"no image")
    return folder


def names_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))


def pack(folder: Path, archive: Path) -> Path:
    """Write the files of a folder into an archive or table."""
    names, name = names_of(folder), archive.name
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive, "w") as into:
            for index, each in enumerate(names):
                method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)[index % 3]
                into.write(folder / each, each, method)
    elif ".tar" in name:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as into_tar:
            into_tar.add(folder, "./")
        codec = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}.get(name.rpartition(".")[2])
        with pa.output_stream(str(archive), compression=codec) as out:
            out.write(sink.getvalue())
    else:
        images = [{"bytes": (folder / each).read_bytes(), "path": each} for each in names]
        table = pa.table({"label": list(range(len(names))), "image": images})
        if name.endswith(".parquet"):
            pq.write_table(table, archive, row_group_size=7)
        else:
            new = pa.ipc.new_stream if name.startswith("stream") else pa.ipc.new_file
            with new(str(archive), table.schema) as writer:
                writer.write_table(table, 9)
    return archive


def by_image(out: Path) -> list[tuple[object, ...]]:
    table = tagger.read_results(out)
    columns = table[["image_id", "status", "width", "top_tag"]].astype(str)
    return sorted(columns.itertuples(index=False, name=None), key=repr)


@pytest.fixture(scope="module")
def unpacked(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    out = tmp_path_factory.mktemp("unpacked") / "out"
    run(folder, out)
    return by_image(out)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_gives_the_rows_of_its_files(
    folder: Path, unpacked: list[tuple[object, ...]], tmp_path: Path, kind: str, workers: int
) -> None:
    archive, out = pack(folder, tmp_path / kind), tmp_path / "out"
    summary = run(archive, out, workers=workers, shard_size=8)
    assert (summary.found, summary.tagged) == (COUNT, COUNT - 1)
    assert by_image(out) == unpacked
    uris = set(tagger.read_results(out)["uri"])
    names = names_of(folder) if "tar" in kind or "zip" in kind else [str(number) for number in range(COUNT)]
    assert uris == {f"{archive}::{name}" for name in names}
    assert run(archive, out, workers=0).tagged == 0, "nothing has changed"


def test_archives_in_a_folder_and_in_a_glob_and_in_a_range_of_numbers(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    for index in range(3):
        pack(folder, tmp_path / "mixed" / f"shard-{index:02d}.tar")
    photo(0, (64, 64)).save(tmp_path / "mixed" / "one.jpg")
    pq.write_table(pa.table({"name": ["no images here"]}), tmp_path / "mixed" / "notes.parquet")
    assert run(tmp_path / "mixed", tmp_path / "out").found == 3 * COUNT + 1
    assert run(tmp_path / "mixed" / "shard-*.tar", tmp_path / "out2").found == 3 * COUNT
    assert run(tmp_path / "mixed" / "shard-{00..01}.tar", tmp_path / "out3").found == 2 * COUNT
    with pytest.raises(UsageError, match="must have 1 to 100,000 numbers, got 0"):
        run(tmp_path / "mixed" / "shard-{05..01}.tar", tmp_path / "out4")


@pytest.mark.parametrize("kind", ["x.tar", "x.tar.gz", "x.zip"])
def test_a_cut_archive_gives_rows_for_what_is_there_and_one_error(folder: Path, tmp_path: Path, kind: str) -> None:
    archive, out = pack(folder, tmp_path / kind), tmp_path / "out"
    os.truncate(archive, archive.stat().st_size // 2)
    summary = run(archive, out)
    table = tagger.read_results(out).set_index("uri")
    assert table.loc[str(archive), "status"] == "unreadable"
    assert "damaged or truncated after" in table.loc[str(archive), "error"]
    assert summary.tagged >= (10 if "tar" in kind else 0)
    assert sum(summary.failed.values()) <= 3


def damage_header(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    place = content.index(b"b c/11.jpg")
    content[place + 150] ^= 1
    archive.write_bytes(content)


def test_a_damaged_header_is_not_the_end_of_a_tar(folder: Path, tmp_path: Path) -> None:
    archive, out = pack(folder, tmp_path / "x.tar"), tmp_path / "out"
    damage_header(archive)
    run(archive, out)
    assert (
        "damaged or truncated after 25 images" in tagger.read_results(out).set_index("uri").loc[str(archive), "error"]
    )


def test_a_cut_table_is_one_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    archive = pack(folder, tmp_path / "folder" / "x.parquet")
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises(TableError, match="not a readable Parquet file"):
        run(archive, tmp_path / "out")
    assert run(archive.parent, tmp_path / "out", max_failed="100%").failed == {"unreadable": 1}


def test_a_damaged_member_of_a_zip_fails_alone(folder: Path, tmp_path: Path) -> None:
    archive, out = pack(folder, tmp_path / "x.zip"), tmp_path / "out"
    content = bytearray(archive.read_bytes())
    content[content.index(b"a/02.jpg") + 200] ^= 1
    archive.write_bytes(content)
    run(archive, out)
    table = tagger.read_results(out).set_index("uri")
    assert table.loc[f"{archive}::a/02.jpg", "status"] == "unreadable"
    assert (table["status"] == "ok").sum() == COUNT - 2


def test_names_that_leave_an_archive_and_archives_inside_are_refused_by_name(tmp_path: Path) -> None:
    image = io.BytesIO()
    photo(0, (64, 64)).save(image, "JPEG")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("good.jpg", "../../evil.jpg", "/etc/evil.jpg", "inner.tar", ".hidden.jpg", "notes.txt"):
            archive.writestr(name, image.getvalue())
    summary = run(tmp_path / "x.zip", tmp_path / "out")
    assert summary.found == 1
    assert summary.skipped == {
        "path outside its archive ('../../evil.jpg')": 1,
        "path outside its archive ('/etc/evil.jpg')": 1,
        "archive in an archive ('inner.tar')": 1,
        "hidden": 1,
        "not an image": 1,
    }


def test_a_member_is_predicted_by_its_name(folder: Path, tmp_path: Path) -> None:
    archive = pack(folder, tmp_path / "x.tar")
    command = [sys.executable, "-m", "tagger.cli", "predict", "--model", MODEL, f"{archive}::a/02.jpg"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    with pytest.raises(SourceError, match=r"has no member a/99\.jpg"):
        storage.read_bytes(f"{archive}::a/99.jpg")


def test_a_changed_archive_is_tagged_again(folder: Path, tmp_path: Path) -> None:
    archive, out = pack(folder, tmp_path / "x.tar"), tmp_path / "out"
    run(archive, out)
    os.utime(archive, (1, 1))
    assert run(archive, out).tagged == COUNT - 1


@pytest.mark.parametrize("kind", ["x.tar", "x.tar.gz", "x.zip", "x.parquet", "x.arrow"])
def test_a_replaced_archive_is_read_anew_by_the_same_process(tmp_path: Path, kind: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for night in range(2):
        for index in range(3):
            photo(10 * night + index, (64, 64)).save(images / f"{index}.png")
        archive = pack(images, tmp_path / kind)
        os.utime(archive, (night, night))
        assert run(archive, tmp_path / "out").tagged == 3
        expected = {hashlib.sha256((images / f"{index}.png").read_bytes()).hexdigest() for index in range(3)}
        assert set(tagger.read_results(tmp_path / "out")["image_id"]) == expected
        member = "0.png" if "tar" in kind or "zip" in kind else "0"
        assert storage.read_bytes(f"{archive}::{member}") == (images / "0.png").read_bytes()


@pytest.mark.parametrize("bomb", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_member_that_unpacks_to_more_than_it_says_fails(tmp_path: Path, bomb: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", bomb) as archive:
        archive.writestr("bomb.jpg", bytes(50_000_000))
    content = (
        (tmp_path / "x.zip").read_bytes().replace((50_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    )
    (tmp_path / "x.zip").write_bytes(content)
    run(tmp_path / "x.zip", tmp_path / "out")
    row = tagger.read_results(tmp_path / "out").iloc[0]
    assert (row["status"], row["error"]) == ("unreadable", f"{tmp_path}/x.zip: a member is damaged")


def rows_without_bytes(archive: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "a.jpg"}, {"bytes": b"no", "path": "b"}]}), archive)


def test_a_row_without_an_image_is_a_row(tmp_path: Path) -> None:
    rows_without_bytes(tmp_path / "x.parquet")
    run(tmp_path / "x.parquet", tmp_path / "out", max_failed="100%")
    table = tagger.read_results(tmp_path / "out")
    assert list(table["status"]) == ["unreadable", "unsupported"]
    assert "the row has no image" in table["error"][0]
