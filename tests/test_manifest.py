"""Every kind of source gives one row per file, and counts what it skips."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import MODEL

import tagger
from tagger import schema
from tagger.data import dataset, manifest
from tagger.errors import SourceNotFound, TableError, UsageError
from tagger.tagging import plan, run

Run = Callable[..., subprocess.CompletedProcess[str]]


def uris(source: object) -> list[str]:
    listed: list[str] = manifest.read_source(str(source)).table["uri"].to_pylist()
    return listed


def test_ingest_writes_a_manifest_that_reads_back_the_same(photos: Path, tmp_path: Path) -> None:
    (photos / "notes.txt").write_text("x")
    out = str(tmp_path / "m" / "manifest.parquet")
    written = tagger.ingest(str(photos), out)
    assert written.skipped == {"not an image": 1}
    read = manifest.read_source(out)
    assert read.table.equals(written.table)
    assert len(read) == 6
    table = pq.read_table(out)
    assert table.schema.names == ["uri", "bytes", "modified_at", "etag", "location", "labels", "split"]
    assert schema.footer_of(table.schema) == {"table": "manifest", "schema": str(schema.VERSION)}
    first = table.slice(0, 1).to_pylist()[0]
    stat = Path(first["uri"]).stat()
    assert first["bytes"] == stat.st_size
    assert int(first["modified_at"].timestamp() * 1e6) == stat.st_mtime_ns // 1000


def test_ingest_replaces_a_manifest_but_nothing_else(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    tagger.ingest(str(photos), str(out))
    tagger.ingest(str(photos), str(out))
    pd.DataFrame({"mine": [1]}).to_parquet(tmp_path / "precious.parquet")
    (tmp_path / "text.parquet").write_text("precious")
    for name in ("precious.parquet", "text.parquet"):
        with pytest.raises(TableError, match="nothing was overwritten"):
            tagger.ingest(str(photos), str(tmp_path / name))
    with pytest.raises(UsageError, match=r"\.parquet"):
        tagger.ingest(str(photos), str(tmp_path / "m.csv"))


def test_lists_of_files_in_text_csv_and_parquet(photos: Path) -> None:
    names = ["0.jpg", "sub/1.jpg", str(photos / "2.jpg"), "missing.jpg"]
    expected = [str(photos / name) for name in names]
    (photos / "list.txt").write_text("# mine\n" + "\n".join([*names, "", "./0.jpg"]))
    (photos / "list.csv").write_text("id, path \n" + "".join(f"{i},{name}\n" for i, name in enumerate(names)))
    (photos / "bare.csv").write_text("\n".join(names))
    (photos / "list.tsv").write_text("uri\tx\n" + "".join(f"{name}\t1\n" for name in names))
    pd.DataFrame({"url": [*names, None], "other": 1}).to_parquet(photos / "list.parquet")
    for name in ("list.txt", "list.csv", "bare.csv", "list.tsv", "list.parquet"):
        assert uris(photos / name) == expected, name
    listed = manifest.read_source(str(photos / "list.txt"))
    assert listed.skipped == {"listed twice": 1}
    assert listed.table["bytes"].to_pylist()[-1] is None


def test_a_list_with_byte_order_mark_or_utf16_is_read(photos: Path) -> None:
    (photos / "bom.csv").write_text("file_name\n0.jpg\n", encoding="utf-8-sig")
    (photos / "wide.txt").write_text("0.jpg\n", encoding="utf-16")
    assert uris(photos / "bom.csv") == uris(photos / "wide.txt") == [str(photos / "0.jpg")]


@pytest.mark.parametrize(
    "content",
    [
        "path;label\n{0};cat, big\n{1};dog\n", "label|path\ncat|{0}\ndog|{1}\n", "x\tfile_name\n1\t{0}\n1\t{1}\n",
        "sep=;\nuri;x\n{0};1\n{1};2\n", "{0};cat\n{1};dog\n", "cat,{0}\ndog,{1}\n", "sep=;\n{0}\n{1}\n",
        'id, "path"\n1, "{0}"\n \n2, "{1}"\n',
    ],
)  # fmt: skip
def test_lists_are_read_in_the_dialects_of_label_files(photos: Path, content: str) -> None:
    (photos / "list.csv").write_text(content.format("0.jpg", "2.jpg"))
    assert uris(photos / "list.csv") == [str(photos / "0.jpg"), str(photos / "2.jpg")]


@pytest.mark.parametrize("line", ["/a/b;c.jpg", "/a|b/c.jpg", "/a;b/c"])
def test_a_separator_inside_a_name_is_part_of_it(photos: Path, line: str) -> None:
    (photos / "list.csv").write_text(f"{line}\n")
    assert uris(photos / "list.csv") == [line]


def test_categories_of_pandas_are_text(photos: Path) -> None:
    frame = pd.DataFrame({"path": ["0.jpg", "2.jpg"], "label": ["cat", "dog"]}, dtype="category")
    frame.to_parquet(photos / "list.parquet")
    found = tagger.ingest(str(photos / "list.parquet"), str(photos / "m.parquet"), str(photos / "list.parquet"))
    assert found.table["uri"].to_pylist() == [str(photos / "0.jpg"), str(photos / "2.jpg")]
    assert found.table["labels"].to_pylist() == [["cat"], ["dog"]]


def test_a_parquet_or_csv_without_files_names_its_columns(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1], "b": ["x"]}).to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("a,b\n1,x\n")
    (tmp_path / "junk.parquet").write_text("junk")
    with pytest.raises(TableError, match="has the columns a, b"):
        uris(tmp_path / "t.parquet")
    with pytest.raises(TableError, match="has the columns a, b"):
        uris(tmp_path / "t.csv")
    with pytest.raises(TableError, match="not a readable Parquet"):
        uris(tmp_path / "junk.parquet")
    with pytest.raises(SourceNotFound):
        uris(tmp_path / "none.parquet")


def test_results_are_not_taken_for_a_manifest_and_newer_schemas_are_refused(tmp_path: Path) -> None:
    results = schema.serialise(schema.RESULTS.empty_table(), "results")
    (tmp_path / "r.parquet").write_bytes(results)
    with pytest.raises(TableError, match="results table"):
        uris(tmp_path / "r.parquet")
    newer = schema.MANIFEST.empty_table().replace_schema_metadata({"tagger.table": "manifest", "tagger.schema": "9"})
    pq.write_table(newer, tmp_path / "n.parquet")
    with pytest.raises(TableError, match="upgrade tagger"):
        uris(tmp_path / "n.parquet")


def test_an_older_manifest_reads_with_nulls(tmp_path: Path) -> None:
    older = pa.table({"uri": ["/a.jpg"]}).replace_schema_metadata({"tagger.table": "manifest", "tagger.schema": "1"})
    pq.write_table(older, tmp_path / "old.parquet")
    read = manifest.read_source(str(tmp_path / "old.parquet")).table
    assert read.to_pylist() == [dict.fromkeys(schema.MANIFEST.names) | {"uri": "/a.jpg"}]


def test_an_empty_folder_is_an_empty_manifest(tmp_path: Path) -> None:
    assert len(manifest.read_source(str(tmp_path))) == 0


def test_one_strange_entry_does_not_stop_a_list(photos: Path, tmp_path: Path) -> None:
    lines = [b"0.jpg", b"HTP://host/a.jpg", b"https://[x/a.jpg", "https://h/caf\xe9.jpg".encode("latin-1"), b"a\0b.jpg"]
    (photos / "list.txt").write_bytes(b"\n".join(lines))
    found = uris(photos / "list.txt")
    assert len(found) == len(lines)
    assert "https://h/caf%E9.jpg" in found
    tagger.tag(str(photos / "list.txt"), MODEL, str(tmp_path / "out"))
    frame = tagger.read_results(str(tmp_path / "out")).set_index("uri")
    assert frame["status"].to_dict() == {uri: "ok" if uri.endswith("/0.jpg") else "unreadable" for uri in found}


def test_a_list_is_read_from_a_folder_with_brackets(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "[2020]").mkdir()
    (tmp_path / "[2020]" / "list.csv").write_text(f"path\n{photos / '0.jpg'}\n")
    assert uris(tmp_path / "[2020]" / "list.csv") == [str(photos / "0.jpg")]


def test_uris_of_our_own_tables_name_the_same_files_in_a_list(photos: Path) -> None:
    os.rename(photos / "0.jpg", photos / "a%20b.jpg")
    found = uris(photos)
    assert f"{photos}/a%2520b.jpg" in found
    pd.DataFrame({"uri": found}).to_parquet(photos / "again.parquet")
    assert uris(photos / "again.parquet") == found
    (photos / "names.txt").write_text("a%20b.jpg\n")
    assert uris(photos / "names.txt") == [f"{photos}/a%2520b.jpg"]


SECRET = "let-me/in/"


class Gate(SimpleHTTPRequestHandler):
    """Serve a folder to those who know the token."""

    def send_head(self) -> object:  # type: ignore[override]
        if f"token={SECRET}" in self.path:
            return super().send_head()
        return self.send_error(403)

    def log_message(self, *about: object) -> None:
        """Stay silent."""


@pytest.fixture
def signed(photos: Path) -> Iterator[str]:
    """The URL of a served list of signed URLs, with a label each; one of them is refused."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Gate, directory=str(photos)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    names = ["0.jpg", "2.jpg", "sub/1.jpg", "sub/3.jpg"]
    lines = [f"{url}/{name}?token={SECRET},{'odd' if 'sub' in name else 'even'}" for name in names]
    (photos / "list.csv").write_text("\n".join(["url,label", *lines, f"{url}/4.jpg?token=wrong-one,even"]))
    yield f"{url}/list.csv?token={SECRET}"
    server.shutdown()


def test_a_manifest_of_signed_urls_is_tagged_by_another_process_and_shows_no_signature(
    run_tagger: Run, signed: str, tmp_path: Path
) -> None:
    listed, out = tmp_path / "m.parquet", tmp_path / "out"
    ingested = run_tagger("ingest", signed, "--labels", signed, "--out", listed, "--json")
    tagged = run_tagger("tag", listed, "--model", MODEL, "--out", out, "--json")
    assert '"failed": {"unreadable": 1}' in tagged.stdout, tagged.stderr
    shown = [ingested.stdout, ingested.stderr, tagged.stdout, tagged.stderr, tagger.read_results(str(out)).to_string()]
    written = [path.read_bytes().decode("latin-1") for path in out.rglob("*") if path.is_file()]
    assert not any(secret in text for text in [*shown, *written] for secret in ("let-me", "wrong-one"))
    assert all(SECRET in place or "wrong-one" in place for place in manifest.locations(pq.read_table(listed)))
    found = dataset.read_dataset(str(listed), multilabel=False)
    images, _ = dataset.scan(str(listed), found)
    assert (len(images), images.label_names) == (4, ("even", "odd"))


def test_a_saved_plan_reads_signed_urls(signed: str, tmp_path: Path) -> None:
    saved = plan.save_plan(run.prepare(signed, MODEL, str(tmp_path / "out"), tagger.TagConfig()))
    counts = run.run_shards(plan.load_plan(saved), [0])
    assert counts.statuses == [{"ok": 4, "unreadable": 1}]


def test_a_prediction_does_not_show_the_signature(signed: str) -> None:
    (row,) = tagger.predict([signed.replace("list.csv", "0.jpg")], MODEL)
    assert row["status"] == "ok"
    assert "let-me" not in str(row)
