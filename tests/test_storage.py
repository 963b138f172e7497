"""Names survive the round trip, folders are walked as documented, writes are whole or absent."""

from __future__ import annotations

import contextlib
import http.server
import os
import random
import resource
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from pictures import photo, without_root_powers

from tagger import redaction, storage
from tagger.errors import AccessDenied, SourceError, SourceNotFound, UsageError, WriteError
from tagger.inference import batch


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("/a/b.jpg", "/a/b.jpg"),
        ("/a b/ü'\"\n😀.jpg", "/a b/ü'\"\n😀.jpg"),
        ("/100%.jpg", "/100%.jpg"),
        ("/a%41.jpg", "/a%2541.jpg"),
        (os.fsdecode(b"/\xff\xfe.jpg"), "/%FF%FE.jpg"),
        (os.fsdecode(b"/%\xff25.jpg"), "/%%FF25.jpg"),
        ("/%FF.jpg", "/%25FF.jpg"),
    ],
)
def test_local_names_become_uris_and_back(path: str, uri: str) -> None:
    assert storage.local_uri(path) == uri
    assert storage.local_path(uri) == path


def test_any_bytes_survive_as_uri_and_no_two_names_share_one() -> None:
    rng = random.Random(0)
    alphabet = [b"%", b"2", b"5", b"F", b"\xff", b"\x80", b"a", "é".encode()]
    names = {b"/" + b"".join(rng.choices(alphabet, k=rng.randint(1, 7))) for _ in range(3000)}
    uris = {storage.local_uri(os.fsdecode(name)): name for name in names}
    assert len(uris) == len(names)
    for uri, name in uris.items():
        uri.encode()  # a valid UTF-8 string
        assert os.fsencode(storage.local_path(uri)) == name


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://u:secret@h.org/a.jpg", "https://h.org/a.jpg"),
        ("https://secret@h.org/a.jpg", "https://h.org/a.jpg"),
        ("https://u:sec@ret@h.org/a.jpg", "https://h.org/a.jpg"),
        ("https://u:my secret@h.org/a b.jpg", "https://h.org/a b.jpg"),
        ("HTTPS://u:secret@[::1]:8000/a.jpg", "HTTPS://[::1]:8000/a.jpg"),
        ("https://u:secret@[x/a.jpg", "https://[x/a.jpg"),
        ("https://h.org/a.jpg?X-Amz-Signature=secret&X-Amz-Date=1&v=2", "https://h.org/a.jpg?v=2"),
        ("https://h.org/a.jpg?X%2DAmz%2DSignature=secret", "https://h.org/a.jpg"),
        ("https://h.org/a.jpg?sv=2021;sig=secret", "https://h.org/a.jpg"),
        ("https://h.org/a.jpg?my_token_2=secret&id=5", "https://h.org/a.jpg?id=5"),
        ("https://h.org/it's.jpg?sig=secret", "https://h.org/it's.jpg"),
        ("https://h.org/a.jpg#access_token=secret", "https://h.org/a.jpg"),
        ("https://h.org/a.jpg?id=5&photo=17&1234", "https://h.org/a.jpg?id=5&photo=17&1234"),
        ("https://h.org/a.jpg?hush=secret", "https://h.org/a.jpg?hush=~2bb80d53"),
        ("https://h.org/a.jpg?c2VjcmV0IHNlY3JldA==", "https://h.org/a.jpg?~b6b6fd6a"),
        ("https://h.org/a?path=https%3A%2F%2Fu%3Asecret%40h", "https://h.org/a?path=~33272cbe"),
        ("https://archive.org/2020/https://u:secret@h.org/a.jpg", "https://archive.org/2020/https://h.org/a.jpg"),
        ("zip://a@b.jpg::https://u:secret@h.org/a.zip?sig=secret", "zip://a@b.jpg::https://h.org/a.zip"),
        ("s3://bucket/a?b%41#.jpg", "s3://bucket/a?b%41#.jpg"),
        ("s3://bucket/a?X-Amz-Signature=secret", "s3://bucket/a"),
        ("s3://key:secret@bucket/a.jpg", "s3://bucket/a.jpg"),
        ("s3://KEY:sec/ret+x@bucket/a.jpg", "s3://bucket/a.jpg"),
        ("s3://arn:aws:s3:eu:1:accesspoint/n/a@2x.jpg", "s3://arn:aws:s3:eu:1:accesspoint/n/a@2x.jpg"),
        ("abfs://container@account.dfs.core.windows.net/a.jpg", "abfs://container@account.dfs.core.windows.net/a.jpg"),
        ("az://container/a.jpg?sv=2021&sp=r&sig=secret", "az://container/a.jpg"),
        ("memory://a@b/c?sig=1", "memory://a@b/c?sig=1"),
        ("/photos/a@b.jpg?sig=1", "/photos/a@b.jpg?sig=1"),
    ],
)
def test_neither_uris_nor_messages_carry_credentials(url: str, public: str) -> None:
    assert storage.public_uri(url) == public
    assert storage.public_uri(public) == public
    for message in (f"{url}: not found", f"GET '{url}' failed", f"status 403, url=URL('{url}')", f"{url},{url}"):
        shown = str(SourceError(message))
        assert "secret" not in shown
        assert "c2Vj" not in shown


SECRETS = [
    "X-Amz-Signature", "X-Goog-Signature", "AWSAccessKeyId", "access_key", "accessKey", "secret_key", "client_secret",
    "jwt", "hmac", "sas", "sig", "sign", "signature", "token", "access_token", "id_token", "refresh-token", "api_key",
    "apikey", "key", "subscription-key", "password", "passwd", "pwd", "auth", "authorization", "session", "bearer",
    "private_key", "hdnts", "code", "pin", "credential", "Signature%5F", "x-oss-signature", "se",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "shape", ["https://h.org/a.jpg?v=2&{}", "https://h.org/a.jpg#{}", "az://c/a.jpg?v=2;{}", "https://h.org/a.jpg;{}"]
)
def test_a_secret_parameter_of_any_name_is_left_out(shape: str, name: str) -> None:
    url = shape.format(f"{name}=hush-hush")
    assert "hush" not in storage.public_uri(url)
    assert "hush" not in storage.redact(f"it's {url}: refused ({name}=hush-hush)".replace(f"({name}", f"(?{name}"))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://me:hush-hush%21@h.org/a.jpg", "no user hush-hush! here, nor hush-hush%21"),
        ("https://h.org/a.jpg?X-Amz-Signature=hush01&v=2", "SignatureDoesNotMatch: got hush01 for it's"),
        ("s3://AKIAHUSH:hush/hush+x@bucket/a.jpg", "invalid key AKIAHUSH, secret hush/hush+x"),
        ("az://c/a.jpg?sas=hush%3Dhush", "token hush=hush expired"),
    ],
)
def test_a_secret_of_the_url_stands_nowhere_in_its_error(url: str, text: str) -> None:
    for message in (text, f"{url}: {text}"):
        with pytest.raises(SourceError) as caught, storage.stores.named_errors(url):
            raise ValueError(message)
        assert "hush" not in str(caught.value).lower()
        assert text[:3] in str(caught.value)


def test_warnings_of_store_libraries_do_not_reach_the_terminal() -> None:
    script = (
        "import logging, tagger.storage; logging.getLogger('gcsfs.core').error('bucket KEY:SECRET@b', stack_info=True)"
    )
    assert not subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr


def test_control_characters_become_visible() -> None:
    assert redaction.visible("a\x1b[2J\u202eb\rc\udcff\n\t👨\u200d👩é") == "a\\x1b[2J\\u202eb\\rc\\udcff\n\t👨\u200d👩é"


def test_two_images_of_one_address_have_two_uris() -> None:
    uris = {storage.public_uri(f"https://h.org/image?show={name}") for name in ("cat", "dog", "cat")}
    assert len(uris) == 2


def test_text_without_credentials_stays_as_it_is() -> None:
    text = "--out /a b/it's.parquet: see https://h.org/a.jpg?v=2, s3://bucket/x (or http://h:80); write to me@h.org"
    assert storage.redact(text) == text


def found(source: Path | str) -> tuple[list[str], Counter[str]]:
    skipped: Counter[str] = Counter()
    return [entry.uri for entry in storage.find_images(str(source), skipped)], skipped


def test_a_folder_is_walked_sorted_and_skipped_entries_are_counted(tmp_path: Path) -> None:
    for name in (
        "b.JPG",
        "a.png",
        "z/1.webp",
        "z/notes.txt",
        ".hidden.jpg",
        ".git/x.jpg",
        "dir.jpg/inside.gif",
        "noext",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.jpg")
    uris, skipped = found(tmp_path)
    assert uris == [f"{tmp_path}/{name}" for name in ("a.png", "b.JPG", "dir.jpg/inside.gif", "z/1.webp")]
    assert skipped == {"hidden": 2, "not an image": 2, "not a regular file": 1}


def test_links_are_followed_once_and_broken_ones_are_files(tmp_path: Path) -> None:
    folder = tmp_path / "root"
    (folder / "real").mkdir(parents=True)
    photo(1).save(folder / "real" / "a.jpg")
    (folder / "again").symlink_to(folder / "real")
    (folder / "real" / "up").symlink_to(folder)
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "file.jpg").symlink_to("real/a.jpg")
    (tmp_path / "entry").symlink_to(folder)
    uris, _ = found(tmp_path / "entry")
    assert uris == [f"{folder}/{name}" for name in ("broken.jpg", "file.jpg", "loop.jpg", "again/a.jpg")]


def test_folders_of_the_kernel_are_not_walked(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "a.jpg")
    (tmp_path / "process").symlink_to("/proc/self")
    (tmp_path / "system").symlink_to("/sys")
    uris, skipped = found(tmp_path)
    assert uris == [f"{tmp_path}/a.jpg"]
    assert skipped == {"kernel file system": 2}


def test_a_folder_that_cannot_be_listed_is_counted_or_an_error_when_it_is_the_source(tmp_path: Path) -> None:
    script = (
        "import sys; from collections import Counter; from tagger import storage; c = Counter();"
        "print(len(list(storage.find_images(sys.argv[1], c))), dict(c))"
    )
    photo(1).save(tmp_path / "a.jpg")
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    for source, expected in (
        (tmp_path, "1 {'folder that cannot be listed': 1}"),
        (tmp_path / "closed", "AccessDenied"),
    ):
        command = [sys.executable, "-c", script, str(source)]
        ran = subprocess.run(command, capture_output=True, text=True, preexec_fn=without_root_powers)
        assert expected in ran.stdout + ran.stderr


def test_globs_match_relative_absolute_and_recursive(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(found(f"{photos}/*.jpg")[0]) == 3
    assert len(found(f"{photos}/**/*.jpg")[0]) == 6
    assert len(found(f"{photos}/sub/[13].jpg")[0]) == 2
    monkeypatch.chdir(photos)
    assert found("*.jpg")[0] == [f"{photos}/{n}.jpg" for n in (0, 2, 4)]
    (photos / "a[1].jpg").write_bytes(b"x")
    assert found("a[1].jpg")[0] == [f"{photos}/a[1].jpg"], "a file of that very name wins over the pattern"


@pytest.mark.parametrize("source", ["/no/such/folder", "/no/such/*.jpg", "memory://nothing/here"])
def test_a_missing_source_is_an_error_that_names_it(source: str) -> None:
    with pytest.raises(SourceNotFound, match=source.replace("*", r"\*")):
        found(source)


def test_an_unknown_scheme_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"foo://.*s3://"):
        found("foo://bucket/x")


def test_a_store_in_memory_is_walked_like_a_folder() -> None:
    fs = fsspec.filesystem("memory")
    for name in ("a.jpg", "sub/b.PNG", "sub/c.txt", ".hid/d.jpg", "sub/.e.jpg", "sub/we ird%41.jpg"):
        fs.pipe_file(f"/walk/{name}", b"12345")
    uris, skipped = found("memory://walk")
    assert uris == [f"memory://walk/{name}" for name in ("a.jpg", "sub/b.PNG", "sub/we ird%41.jpg")]
    assert skipped == {"hidden": 2, "not an image": 1}
    assert found("memory://walk/sub/*.PNG")[0] == ["memory://walk/sub/b.PNG"]
    assert found("memory://walk/a.jpg")[0] == ["memory://walk/a.jpg"]
    assert storage.read_bytes("memory://walk/sub/we ird%41.jpg") == b"12345"


def test_reading_names_what_is_wrong(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    reasons = {
        "pipe.jpg": "not a regular file",
        "link.jpg": "a broken link",
        "loop.jpg": "symbolic links",
        "gone.jpg": "does not exist",
    }
    for name, reason in reasons.items():
        with pytest.raises(SourceError, match=reason):
            storage.read_bytes(str(tmp_path / name))


def test_a_scheme_without_its_package_is_the_error_of_one_file() -> None:
    pytest.importorskip("fsspec")
    try:
        import paramiko  # noqa: F401

        pytest.skip("paramiko is installed here")
    except ImportError:
        pass
    assert storage.describe("sftp://host/a.jpg").bytes is None
    with pytest.raises(SourceError, match="pip install paramiko"):
        storage.read_bytes("sftp://host/a.jpg")


def test_the_end_of_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "part.parquet")
    with pytest.raises(SourceError, match="not a regular file"):
        storage.read_tail(str(tmp_path / "part.parquet"), 8)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    fsspec.filesystem("memory").pipe_file("/listed/a", b"x")
    for folder in (str(tmp_path), "memory://listed"):
        assert storage.names_in(folder) == ["a"]
        assert storage.names_in(f"{folder}/none") is None
        with pytest.raises(SourceError, match="not a"):
            storage.names_in(f"{folder}/a")


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    script = "import sys; from tagger import storage; storage.write_atomic(sys.argv[1], b'x' * 50_000)"
    target = tmp_path / "out" / "part.parquet"
    ran = subprocess.run([sys.executable, "-c", script, target], capture_output=True, text=True, preexec_fn=limit)
    assert "WriteError" in ran.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = str(tmp_path / "a" / "b.json")
    storage.write_atomic(target, b"one")
    storage.write_atomic(target, b"two")
    assert storage.read_bytes(target) == b"two"
    assert storage.names_in(str(tmp_path / "a")) == ["b.json"]


def test_a_file_whose_folder_is_moved_while_it_is_written_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, folder = os.fsync, tmp_path / "out"

    def move_first(descriptor: int) -> None:
        sync(descriptor)
        if not (tmp_path / "moved").exists():
            folder.rename(tmp_path / "moved")

    monkeypatch.setattr(os, "fsync", move_first)
    storage.write_atomic(str(folder / "part.parquet"), b"rows")
    assert (folder / "part.parquet").read_bytes() == b"rows"


def test_writing_below_a_file_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="cannot write"):
        storage.write_atomic(str(tmp_path / "file" / "x.parquet"), b"")


def test_the_end_of_a_file_is_read_from_disks_and_stores(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    fsspec.filesystem("memory").pipe_file("/tail/a", b"0123456789")
    for uri in (str(tmp_path / "a"), "memory://tail/a"):
        assert storage.read_tail(uri, 4) == b"6789"
        assert storage.read_tail(uri, 99) == b"0123456789"
    with pytest.raises(SourceError):
        storage.read_tail(str(tmp_path / "none"), 4)


def test_the_name_of_a_file_says_nothing_about_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")

    def read(error: Exception, uri: str) -> bool:
        def refuse(*given: object, **named: object) -> bytes:
            raise error

        monkeypatch.setattr(type(store), "cat_file", refuse)
        with pytest.raises(AccessDenied) as caught:
            storage.read_bytes(uri)
        return storage.is_credential_error(caught.value)

    assert not read(PermissionError("/shots/ExpiredToken.png: Forbidden"), "memory://shots/ExpiredToken.png")
    assert read(PermissionError("/shots/1.png: the provided token has expired"), "memory://shots/1.png")
    expired = ValueError("403, message='Forbidden'")
    expired.status = 403  # type: ignore[attr-defined]
    assert not read(expired, "memory://shots/1.png")


def test_a_file_of_the_far_future_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(1).save(tmp_path / "a.jpg")
    honest = os.stat
    late = 300_000_000_000 * 10**9  # ns: some file systems know the year 11476

    def stat(path: object) -> os.stat_result:
        info = honest(str(path))
        return os.stat_result([*info[:10]], {"st_mtime_ns": late}) if str(path).endswith("a.jpg") else info

    monkeypatch.setattr(storage.listing.os, "stat", stat)
    (entry,) = storage.find_images(str(tmp_path))
    assert entry.uri == str(tmp_path / "a.jpg")
    assert entry.modified_at.year == 9999


# --- sources that never answer, or never stop -------------------------------------------------------------------------


@pytest.fixture
def odd_server() -> Iterator[str]:
    """A web server whose files never come, never end, drip, or send the browser in circles."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                getattr(self, self.path.strip("/").removesuffix(".jpg"))()

        def silent(self) -> None:
            time.sleep(20)

        def endless(self) -> None:
            self._start()
            while True:
                self.wfile.write(bytes(1 << 20))

        def bomb(self) -> None:
            self._start(("Content-Encoding", "gzip"))
            packer = zlib.compressobj(9, wbits=31)
            for _ in range(300):
                self.wfile.write(packer.compress(bytes(1 << 20)))
            self.wfile.write(packer.flush())

        def drip(self) -> None:
            self._start()
            for _ in range(200):
                self.wfile.write(b"\xff")
                time.sleep(0.1)

        def circle(self) -> None:
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()

        def away(self) -> None:
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()

        def _start(self, *headers: tuple[str, str]) -> None:
            self.send_response(200)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("silent", "no response within 1 s"), ("drip", "no response within 1 s"), ("endless", "larger than 256 MB"),
        ("bomb", "larger than 256 MB"), ("circle", "redirect"),
        ("away", "file:///etc/passwd is not a valid http"),
    ],
)  # fmt: skip
def test_a_web_server_that_misbehaves_costs_one_error(odd_server: str, name: str, expected: str) -> None:
    pytest.importorskip("aiohttp")
    started = time.monotonic()
    with pytest.raises(SourceError, match=f"(?i){expected}"):
        storage.read_bytes(f"{odd_server}/{name}.jpg", timeout=1 if expected.startswith("no") else 30)
    assert time.monotonic() - started < 60


def test_a_server_that_does_not_answer_does_not_hold_up_a_list(odd_server: str) -> None:
    pytest.importorskip("aiohttp")
    started = time.monotonic()
    entry = storage.describe(f"{odd_server}/silent.jpg", timeout=1)
    assert (entry.uri, entry.bytes) == (f"{odd_server}/silent.jpg", None)
    assert time.monotonic() - started < 10


def test_a_body_over_the_limit_is_a_too_large_row(odd_server: str) -> None:
    pytest.importorskip("aiohttp")
    failure = batch.read(f"{odd_server}/bomb.jpg", 30).content
    assert failure == batch.Failure("too_large", "is larger than 256 MB")


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="no /proc")
def test_pipes_and_files_of_the_kernel_are_never_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "kernel.jpg").symlink_to("/proc/kmsg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "kernel.jpg", "zero.jpg"):
        with pytest.raises(SourceError, match="not a regular file"):
            storage.read_bytes(storage.local_uri(str(tmp_path / name)))
        with pytest.raises(SourceError, match="not a regular file"), storage.open_input(str(tmp_path / name)):
            pass
