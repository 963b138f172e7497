"""Processes that read and decode: the same table as with threads, whatever becomes of them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pictures import MODEL, photo
from test_tagging import assert_same_table, plant_bad_files, rows, run

from tagger import schema

DEADLY_CODEC = """
import os
from PIL import JpegImagePlugin
load = JpegImagePlugin.JpegImageFile.load
def crash(image):
    if image.size == (13, 13):
        os.abort()
    return load(image)
JpegImagePlugin.JpegImageFile.load = crash
"""


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder with 120 photographs and files that are none."""
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(120):
        photo(index, (200 + index, 150)).save(folder / f"{index:03d}.jpg")
    plant_bad_files(folder)
    return folder


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tagger.cli", "tag", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    found = " ".join((task / "children").read_text() for task in tasks.iterdir()) if tasks.is_dir() else ""
    return [int(child) for child in found.split() if "tagger.inference.workers" in command_of(int(child))]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_for(condition: object, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 3])
def test_processes_give_the_table_of_threads(many: Path, tmp_path: Path, workers: int) -> None:
    threads = run(many, tmp_path / "threads", workers=0)
    processes = run(many, tmp_path / "processes", workers=workers)
    assert (threads.tagged, threads.failed) == (processes.tagged, processes.failed)
    assert_same_table(tmp_path / "threads", tmp_path / "processes")
    assert run(many, tmp_path / "processes", workers=0).reasons == {"unreadable before": 2}, "workers are no setting"


def test_more_workers_than_files(photos: Path, tmp_path: Path) -> None:
    assert run(photos, tmp_path / "out", workers=9).tagged == 6


def test_a_file_that_kills_its_decoder_fails_alone(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY_CODEC)
    monkeypatch.syspath_prepend(tmp_path / "site")
    photo(0, (13, 13)).save(many / "050b.jpg")
    summary = run(many, tmp_path / "out", workers=2)
    assert summary.failed["failed"] == 1
    table = rows(tmp_path / "out")
    assert "signal 6" in table["050b.jpg"]["error"]
    assert sum(row["status"] in schema.TAGGED for row in table.values()) == summary.tagged >= 120


@pytest.mark.slow
def test_files_of_a_killed_process_are_read_again(many: Path, tmp_path: Path) -> None:
    photo(0, (3000, 2000)).save(tmp_path / "big.png")
    for index in range(50):
        os.link(tmp_path / "big.png", many / f"big{index}.png")
    process = start(many, "--model", MODEL, "--out", tmp_path / "out", "--workers", 2)
    wait_for(lambda: len(children(process.pid)) == 2)
    time.sleep(1)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "signal 9" in errors
    run(many, tmp_path / "threads", workers=0)
    assert_same_table(tmp_path / "out", tmp_path / "threads")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_processes_end_with_the_run(many: Path, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    photo(0, (3000, 2000)).save(tmp_path / "big.png")
    for index in range(300):
        os.link(tmp_path / "big.png", many / f"big{index}.png")
    process = start(many, "--model", MODEL, "--out", tmp_path / "out", "--workers", 2)
    wait_for(lambda: len(children(process.pid)) == 2)
    time.sleep(1)
    workers = children(process.pid)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    wait_for(lambda: not any("tagger.inference.workers" in command_of(pid) for pid in workers), 10)


def test_without_shared_memory_threads_decode(many: Path, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))

    options = ["--model", MODEL, "--out", tmp_path / "out", "--workers", 2, "--batch-size", 256]
    process = start(many, *options, preexec_fn=small_files)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "decoding in threads instead of processes" in errors
    run(many, tmp_path / "threads", workers=0)
    assert_same_table(tmp_path / "out", tmp_path / "threads")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_takes_too_long_fails_alone(many: Path, tmp_path: Path, workers: int) -> None:
    (many / "050b.ppm").write_text(
        "P3\n3000 3000\n255\n" + "9 9 9\n" * 9_000_000
    )  # Pillow parses the numbers in Python
    process = start(many, "--model", MODEL, "--out", tmp_path / "out", "--workers", workers, "--decode-timeout", 0.5)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    table = rows(tmp_path / "out")
    assert table["050b.ppm"]["status"] == "failed"
    assert table["050b.ppm"]["error"] == "decoding takes longer than 0.5 s (see --decode-timeout)"
    assert sum(row["status"] in schema.TAGGED for row in table.values()) >= 120
