"""Several processes do a share each of one plan."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from pictures import MODEL, photo
from processes import finish, started, wait_for_parts
from test_s3 import bucket, client, server  # noqa: F401
from test_tagging import assert_same_table, run

import tagger
from tagger import storage
from tagger.errors import UsageError, WriteError
from tagger.tagging.config import TagConfig

Run = Callable[..., subprocess.CompletedProcess[str]]
COUNT = 3


def command(source: object, out: object, number: int, *options: object) -> tuple[object, ...]:
    model = ("--model", MODEL, "--out", out, "--slice", f"{number}/{COUNT}", "--shard-size", 2, "--json")
    return ("tagger.cli", "tag", source, *model, *options)


@pytest.fixture
def many(photos: Path) -> Path:
    for index in range(20, 50):
        photo(index, (400, 300)).save(photos / f"{index}.jpg", quality=92)
    return photos


def test_processes_that_start_together_do_one_plan_between_them(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ExitStack() as stack:
        processes = [stack.enter_context(started(*command(many, out, number))) for number in (1, 2, 3)]
        summaries = [json.loads(finish(process)) for process in processes]
    assert len({summary["run_id"] for summary in summaries}) == 1
    assert [summary["tagged"] for summary in summaries] == [12, 12, 12]
    assert len(tagger.read_results(out, latest=False)) == 36
    run(many, tmp_path / "alone")
    assert_same_table(out, tmp_path / "alone")
    assert len(list((out / "_runs").glob("*-slice-*-of-3.json"))) == 3


def test_a_slice_that_is_killed_and_started_again_does_what_is_missing(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(*command(many, out, 2, "--batch-size", 1)) as process:
        wait_for_parts(out, 1, process)
        process.kill()
        process.wait()
    before = len(tagger.read_results(out))
    photo(99).save(many / "later.jpg")
    with started(*command(many, out, 2)) as process:
        assert json.loads(finish(process))["found"] == 36, "the plan is frozen"
    for number in (1, 3):
        assert slice_of(many, out, number, shard_size=2).tagged == 12
    assert before < len(tagger.read_results(out)) == len(tagger.read_results(out, latest=False)) == 36
    tagged = [slice_of(many, out, number, shard_size=2).tagged for number in (1, 2, 3)]
    assert tagged == [1, 0, 0], "the next plan has the new file"
    assert len(tagger.read_results(out)) == 37


def slice_of(source: Path, out: Path, number: int, **options: int) -> tagger.Summary:
    return tagger.tag(source, MODEL, out, TagConfig(slice=f"{number}/{COUNT}", **{"shard_size": 1, **options}))


def test_the_share_of_a_machine_that_is_gone_is_done_by_the_others_in_their_next_run(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert [slice_of(photos, out, number).tagged for number in (1, 3)] == [2, 2]
    photo(99).save(photos / "later.jpg")
    assert slice_of(photos, out, 1).tagged == 2, "the share of slice 2"
    assert [slice_of(photos, out, number).tagged for number in (2, 1, 3)] == [0, 1, 0]
    assert len(tagger.read_results(out, latest=False)) == 7


def test_more_slices_than_shards_and_nothing_to_do_end_well(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert [slice_of(photos, out, number, shard_size=100).tagged for number in (3, 2, 1)] == [0, 0, 6]
    for number in (1, 2, 3):
        assert "0 images decoded" in slice_of(photos, out, number, shard_size=100).text()
    assert [path.name for path in (out / "_plans").glob("slices-*") if "done" not in path.name] == ["slices-00000001"]


@pytest.mark.parametrize(
    ("options", "named"),
    [({"top_k": 3}, "top-k 5, but this slice has 3"), ({"shard_size": 2}, "shard-size 1, but this slice has 2")],
)
def test_slices_with_other_options_are_refused(
    photos: Path, tmp_path: Path, options: dict[str, int], named: str
) -> None:
    slice_of(photos, tmp_path / "out", 1)
    with pytest.raises(UsageError, match=f"--slice 2/3: the plan in .*_plans is frozen with {named}"):
        slice_of(photos, tmp_path / "out", 2, **options)
    with pytest.raises(UsageError, match="slices 3, but this slice has 4"):
        tagger.tag(photos, MODEL, tmp_path / "out", TagConfig(slice="2/4", shard_size=1))
    assert slice_of(photos, tmp_path / "out", 2, batch_size=2).tagged == 2, "options of the machine may differ"


@pytest.mark.parametrize("given", ["21/20", "0/3", "3", "a/b", "-1/2", "1/0", ""])
def test_a_slice_that_does_not_exist_is_one_clear_line(given: str, run_tagger: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--slice {given}: expected I/N with I from 1 to N"):
        TagConfig(slice=given)
    if given == "21/20":
        ran = run_tagger("tag", tmp_path, "--slice", given)
        assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("remote", [False, True])
def test_of_several_writers_of_a_new_file_one_succeeds(
    remote: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = f"s3://{request.getfixturevalue('bucket')}" if remote else str(tmp_path)
    uri = f"{folder}/_plans/slices-00000001"
    assert storage.write_new(uri, b"first")
    assert not storage.write_new(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert storage.names_in(f"{folder}/_plans") == ["slices-00000001"]


def test_a_failed_write_to_a_folder_called_412_is_not_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "412").write_bytes(b"a file")
    with pytest.raises(WriteError, match="cannot write"):
        storage.write_new(str(tmp_path / "412" / "plan"), b"first")


def test_slices_share_a_plan_in_a_bucket(photos: Path, bucket: str) -> None:  # noqa: F811
    out = f"s3://{bucket}/results"
    tagged = [tagger.tag(photos, MODEL, out, TagConfig(slice=f"{number}/2", shard_size=2)).tagged for number in (2, 1)]
    assert tagged == [2, 4]
    assert len(tagger.read_results(out, latest=False)) == 6
