"""The command as a user meets it: real processes, exit codes, what is printed where."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
from pictures import MODEL, ROOT, photo, without_root_powers
from processes import TIMEOUT, forked, wait_for_parts

import tagger
from docs.generate import command_names, help_text, reference

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMANDS = command_names()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_an_example(command: str) -> None:
    text = help_text(command)
    assert f"Example: tagger {command}" in text
    described = text.partition("Example:")[0].splitlines()
    for line, below in itertools.pairwise([*described, ""]):
        if re.match(r"  (-\w, )?--|  [a-z]+ <", line):
            helped = len(line.split("  ")) > 2 or re.match(r" {20,}\S", below)  # a long option has its help below it
            assert helped or "[required]" in line, f"no help: {line}"


def test_the_command_prints_its_help_and_the_version_of_the_package(run_tagger: Run) -> None:
    ran = run_tagger("tag", "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Example: tagger tag" in ran.stdout
    assert run_tagger("--version").stdout.strip() == f"tagger {metadata.version('tagger')}"


def test_the_reference_in_docs_is_what_the_commands_print() -> None:
    assert (ROOT / "docs" / "commands.md").read_text() == reference(), "run `make docs`"


def test_tag_prints_what_it_did_and_query_shows_it(run_tagger: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "notes.txt").write_text("x")
    (photos / "bad.jpg").write_bytes(b"junk")
    ran = run_tagger("tag", photos, "--model", MODEL, "--out", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert not re.search("\x1b|━|tagger:", ran.stderr), "bars are for terminals"
    assert "7 of 7 files to tag (7 new)" in ran.stdout
    assert "7 image files found; skipped 1 not an image" in ran.stdout
    assert "6 tagged, 1 failed (1 unsupported)" in ran.stdout
    assert "images/s" in ran.stdout
    again = run_tagger("tag", photos, "--model", MODEL, "--out", tmp_path / "out")
    assert "nothing to do: 0 images decoded" in again.stdout
    shown = run_tagger("query", tmp_path / "out")
    assert "unsupported" in shown.stdout
    assert "mean_score" in shown.stdout


def test_json_is_one_object_and_quiet_is_silent(run_tagger: Run, photos: Path, tmp_path: Path) -> None:
    ran = run_tagger("tag", photos, "--model", MODEL, "--out", tmp_path / "out", "--json")
    summary = json.loads(ran.stdout)
    assert (summary["found"], summary["tagged"], summary["failed"]) == (6, 6, {})
    assert summary["images_per_second"] > 0
    quiet = run_tagger("tag", photos, "--model", MODEL, "--out", tmp_path / "out", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    listed = run_tagger("ingest", photos, "--out", tmp_path / "m.parquet", "--json")
    expected = {"out": str(tmp_path / "m.parquet"), "found": 6, "skipped": {}, "labels": None, "warnings": []}
    assert json.loads(listed.stdout) == expected
    models = json.loads(run_tagger("models", ROOT / "checkpoints", "--json").stdout)["models"]
    assert "cifar10-speedrun" in [model["name"] for model in models]


def test_query_writes_every_format(run_tagger: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tagger.tag(photos, MODEL, out)
    sql = "SELECT uri, top_tag FROM images ORDER BY uri"
    assert len(list(csv.DictReader(io.StringIO(run_tagger("query", out, sql, "--format", "csv").stdout)))) == 6
    assert len(json.loads(run_tagger("query", out, sql, "--format", "json").stdout)) == 6
    for format in ("csv", "parquet"):
        run_tagger("query", out, sql, "--format", format, "--out", tmp_path / f"x.{format}")
        assert (tmp_path / f"x.{format}").stat().st_size > 0
    assert run_tagger("query", out, sql, "--format", "parquet").returncode == 1
    run_tagger("query", out, sql, "--out", tmp_path / "y.parquet")
    assert len(pd.read_parquet(tmp_path / "y.parquet")) == 6


def test_predict_shows_the_best_tags_of_files(run_tagger: Run, photos: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"junk")
    ran = run_tagger("predict", photos / "0.jpg", photos / "bad.jpg", "--model", MODEL)
    assert ran.returncode == 0, ran.stderr
    assert len(re.findall(r"^ +\d+\.\d%", ran.stdout, re.MULTILINE)) == 5
    assert "unsupported: not in a supported image format" in ran.stdout
    failed = run_tagger("predict", photos / "bad.jpg", "nowhere.jpg", "--model", MODEL, "--json")
    assert failed.returncode == 3
    assert [row["status"] for row in json.loads(failed.stdout)["images"]] == ["unsupported", "unreadable"]


def test_control_characters_of_names_never_reach_the_terminal(run_tagger: Run, photos: Path, tmp_path: Path) -> None:
    name, out = "\x1b[31mred\u202e.jpg", tmp_path / "out"
    (photos / "0.jpg").rename(photos / name)
    (photos / "\x1b]0;bad.jpg").write_bytes(b"junk")
    shown = [
        run_tagger("predict", photos / name, photos / "\x1b]0;bad.jpg", "--model", MODEL),
        run_tagger("tag", photos, "--model", MODEL, "--out", out),
        run_tagger("query", out, "SELECT uri FROM images"),
        run_tagger("tag", "/no/\x1b[2Jsuch", "--model", MODEL, "--out", out),
        run_tagger("query", out, "SELECT '\x1b[2J' FROM nowhere"),
    ]
    assert not [ran for ran in shown if "\x1b" in ran.stdout + ran.stderr or "\u202e" in ran.stdout + ran.stderr]
    assert "\\x1b[31mred" in shown[0].stdout
    assert "\\x1b[31mred" in shown[2].stdout
    assert "/no/\\x1b[2Jsuch: not found" in shown[3].stderr


def test_one_line_of_a_list_that_cannot_be_read_is_a_row(run_tagger: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{photos}/0.jpg\nsftp://host.invalid/a.jpg\n")
    ran = run_tagger("tag", tmp_path / "list.txt", "--model", MODEL, "--out", tmp_path / "out", "--json")
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert (summary["tagged"], summary["failed"]) == (1, {"unreadable": 1})


def test_models_lists_the_good_ones_beside_a_broken_one(run_tagger: Run, tmp_path: Path) -> None:
    shutil.copytree(ROOT / MODEL, tmp_path / "good")
    shutil.copytree(ROOT / MODEL, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    ran = run_tagger("models", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "good" in ran.stdout
    assert f"{tmp_path}/broken: has no model.safetensors" in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["tag", "/no/such", "--model", MODEL, "--out", "{out}"], 1, "/no/such: not found"),
        (["tag", "{photos}", "--model", "nothing", "--out", "{out}"], 1, "nothing: no such checkpoint"),
        (["tag", "foo://x/y", "--model", MODEL, "--out", "{out}"], 1, "unknown scheme foo://"),
        (["tag", "gs://bucket/x", "--model", MODEL, "--out", "{out}"], 1, "pip install 'tagger[gcs]'"),
        (["tag", "{photos}", "--model", MODEL, "--out", "{photos}"], 1, "has other files"),
        (["tag", "{photos}", "--model", MODEL, "--out", "{out}", "--top-k", "0"], 2, "greater than or equal to 1"),
        (["tag", "{photos}", "--model", MODEL, "--out", "{out}", "--max-failed", "many"], 1, "--max-failed many"),
        (["tag", "{photos}", "--model", MODEL, "--out", "{out}", "--top-k", "many"], 2, "--top-k"),
        (["query", "{out}"], 1, "no results here; RESULTS is the folder that"),
        (["predict", "{photos}", "--model", MODEL], 1, "is a folder; use `tagger tag` to tag all its images"),
        (["models", "/no/such"], 1, "no such folder"),
        (["ingest", "{photos}", "--out", "m.csv"], 1, "ends in .parquet"),
        (["train", "{photos}", "--out", "{out}", "--method", "prob"], 2, "'finetune', 'knn', 'scratch'"),
        (
            ["train", "{photos}", "--out", "{out}"],
            1,
            "none of 6 images has a label; put them into two class folders or",
        ),
        (["train", "{empty}", "--out", "{out}"], 1, "no images found; expected a manifest with labels, or a folder of"),
        (
            ["train", "x", "--out", "{out}", "--method", "scratch", "--lr", "1"],
            1,
            "--lr has no effect with --method scratch",
        ),
        (["benchmark", "--out", "{out}", "--models", "cnn", "cifar10"], 1, "--models cnn: unknown"),
        (["tag", "sftp://host/x", "--model", MODEL, "--out", "{out}"], 1, "pip install paramiko"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(
    run_tagger: Run, photos: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    if "gs://bucket/x" in arguments:
        pytest.importorskip("fsspec")
        try:
            import gcsfs  # noqa: F401

            pytest.skip("gcsfs is installed here")
        except ImportError:
            pass
    (tmp_path / "empty").mkdir()
    filled = [argument.format(photos=photos, out=tmp_path / "out", empty=tmp_path / "empty") for argument in arguments]
    ran = run_tagger(*filled)
    assert ran.returncode == code, ran.stderr
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
    if code == 1:
        assert ran.stderr.count("tagger: ") == 1


def test_an_evaluation_lists_the_tags_that_images_have_or_get(run_tagger: Run, photos: Path, tmp_path: Path) -> None:
    for name, path in zip(("cat", "dog"), sorted(photos.glob("*.jpg")), strict=False):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        path.rename(tmp_path / "labelled" / name / path.name)
    ran = run_tagger("evaluate", MODEL, tmp_path / "labelled", "--split", "all")
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"not listed: [678] tags", ran.stdout)
    assert len(re.findall("│ (?:cat|dog) ", ran.stdout)) == 2


def test_more_failures_than_allowed_exit_with_3_after_writing_every_row(
    run_tagger: Run, photos: Path, tmp_path: Path
) -> None:
    (photos / "bad.jpg").write_bytes(b"junk")
    ran = run_tagger("tag", photos, "--model", MODEL, "--out", tmp_path / "out", "--max-failed", "1%")
    assert ran.returncode == 3
    assert "1 of 7 files failed" in ran.stderr
    assert len(tagger.read_results(str(tmp_path / "out"))) == 7


def test_a_file_without_permission_is_a_row(run_tagger: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "0.jpg").chmod(0)
    arguments = ("tag", photos, "--model", MODEL, "--out", tmp_path / "out", "--json")
    ran = run_tagger(*arguments, preexec_fn=without_root_powers)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["failed"] == {"unreadable": 1}
    frame = tagger.read_results(str(tmp_path / "out"))
    assert list(frame[frame["status"] == "unreadable"]["error"]) == ["permission denied"]


def test_ctrl_c_keeps_what_is_committed_and_exits_with_130(run_tagger: Run, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    photo(0, (1200, 900)).save(tmp_path / "big.jpg", quality=95)
    for index in range(200):
        os.link(tmp_path / "big.jpg", many / f"{index:03d}.jpg")
    out = tmp_path / "out"
    command = ("tag", many, "--model", MODEL, "--out", out)
    with forked(*command, "--shard-size", 5) as process:
        wait_for_parts(out, 2, process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert stderr.count("tagger: ") == 1, stderr
    assert "what is written stays" in stderr
    written = len(tagger.read_results(str(out)))
    assert 10 <= written < 200
    assert not list(out.glob("_tmp*"))
    assert json.loads(run_tagger(*command, "--json").stdout)["tagged"] == 200 - written


def test_a_full_disk_is_one_error_and_leaves_no_partial_file(photos: Path, tmp_path: Path, run_tagger: Run) -> None:
    def limit() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))

    out = tmp_path / "out"
    tagger.load(MODEL)  # the converted network is in the cache now
    ran = run_tagger("tag", photos, "--model", MODEL, "--out", out, preexec_fn=limit)
    assert ran.returncode == 1, ran.stdout
    assert "cannot write (file too large)" in ran.stderr.lower()
    assert ran.stderr.count("tagger: ") == 1, ran.stderr
    assert sorted(path.name for path in out.iterdir()) == ["_manifests", "_runs"]
    assert tagger.tag(photos, MODEL, out).tagged == 6


def test_a_terminal_gets_progress_on_stderr(photos: Path, tmp_path: Path) -> None:
    import pty

    for index in range(100, 130):
        photo(index, (2400, 1800)).save(photos / f"{index}.jpg")
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "tagger.cli", "tag", photos, "--model", MODEL, "--out", tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=os.environ | {"TERM": "xterm"})
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    assert process.wait(TIMEOUT) == 0
    assert b"/36" in shown
    assert b"0 failed" in shown


def test_without_model_and_out_imagenet_tags_into_results_beside_where_you_stand(
    run_tagger: Run, photos: Path, tmp_path: Path
) -> None:
    done = run_tagger("tag", photos, "--engine", "eager", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["model"] == "imagenet"
    assert list((tmp_path / "results").glob("*.parquet"))
    inside = run_tagger("tag", ".", cwd=photos)
    assert inside.returncode == 1
    assert "would be inside ." in inside.stderr
    assert not (photos / "results").exists()
