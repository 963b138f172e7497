"""The flows do what the library does, with few tasks, honest states and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pictures import MODEL, ROOT, photo
from processes import TIMEOUT, started, wait_for_parts

import tagger
from tagger.tagging.config import TagConfig

if TYPE_CHECKING:
    from prefect import Flow


def artifact(key: str) -> str:
    from prefect.artifacts import Artifact

    found = Artifact.get(key)
    assert found is not None
    return str(found.data)


def test_the_tag_flow_writes_the_same_table_and_an_artifact(photos: Path, tmp_path: Path) -> None:
    from flows.tag import tag

    (photos / "bad.jpg").write_bytes(b"junk")
    options = TagConfig(shard_size=2, batch_size=2)
    state = tag(str(photos), str(tmp_path / "flow"), [MODEL], options, return_state=True)
    assert state.is_completed()
    assert "6 tagged, 1 failed" in state.message
    tagger.tag(str(photos), MODEL, str(tmp_path / "library"), options)
    columns = ["uri", "status", "top_tag", "image_id", "model_id", "settings_id"]
    by_flow, by_library = (tagger.read_results(str(tmp_path / name))[columns] for name in ("flow", "library"))
    assert by_flow.equals(by_library)
    assert "| tagged | 6 |" in artifact("tag")
    assert not list((tmp_path / "flow" / "_plans").glob("*"))
    again = tag(str(photos), str(tmp_path / "flow"), [MODEL], options, return_state=True)
    assert "0 images decoded" in again.message


def test_a_flow_run_has_at_most_twenty_tasks_and_loads_its_model_once_whatever_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client

    from flows.tag import tag
    from tagger.inference import engines

    loaded: list[str] = []
    load = engines.load
    monkeypatch.setattr(engines, "load", lambda info, *options: loaded.append(info.name) or load(info, *options))

    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(40):
        photo(index).save(folder / f"{index}.jpg")
    state = tag(str(folder), str(tmp_path / "out"), [MODEL], TagConfig(shard_size=1), return_state=True)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 40
    assert loaded == ["cifar10-speedrun"]
    from prefect.client.schemas.filters import FlowRunFilter

    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [state.state_details.flow_run_id]}))
    assert 3 <= len(runs) <= 20


def test_too_many_failures_are_a_failed_run_whose_rows_are_written(photos: Path, tmp_path: Path) -> None:
    from flows.tag import tag

    (photos / "bad.jpg").write_bytes(b"junk")
    state = tag(str(photos), str(tmp_path / "out"), [MODEL], TagConfig(max_failed="0"), return_state=True)
    assert state.is_failed()
    assert len(tagger.read_results(str(tmp_path / "out"))) == 7


def test_the_ingest_flow_writes_a_manifest(photos: Path, tmp_path: Path) -> None:
    from flows.ingest import ingest

    state = ingest(str(photos), str(tmp_path / "m.parquet"), return_state=True)
    assert state.is_completed()
    assert state.result()["found"] == 6
    assert "| found | 6 |" in artifact("ingest")


def test_the_compact_flow_merges_the_parts(photos: Path, tmp_path: Path) -> None:
    from flows.compact import compact

    tagger.tag(photos, MODEL, tmp_path / "out", TagConfig(shard_size=2))
    state = compact(str(tmp_path / "out"), 0, return_state=True)
    assert state.is_completed()
    assert "3 of 3 parts merged into 1 (6 rows)" in state.message
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1


def test_the_form_of_the_flow_describes_its_options() -> None:
    from flows.tag import tag

    schema = tag.parameters.model_dump()
    assert set(schema["properties"]) == {"source", "model", "out", "options", "runner", "address", "max_hours"}
    assert schema["properties"]["runner"]["enum"] == ["local", "ray", "dask"]
    options = next(iter(schema["definitions"].values()))
    assert options["additionalProperties"] is False
    for described in (*schema["properties"].values(), *options["properties"].values()):
        assert described.get("description") or "$ref" in described
    assert options["properties"]["top_k"] | {"default": 5, "minimum": 1} == options["properties"]["top_k"]
    with pytest.raises(Exception, match="top-k must be at least 1"):
        tag.validate_parameters({"source": "a", "model": "b", "out": "c", "options": {"top_k": 0}})


def exit_code(flow: Flow[..., Any], *arguments: object) -> int:
    """Run a flow's command line in this process, on the test server."""
    from flows import command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["flow", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command.main(flow)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_flows_have_the_commands_options_and_exit_codes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.ingest import ingest
    from flows.tag import tag

    options = ("--model", MODEL, "--out", tmp_path / "out")
    assert exit_code(tag, photos, *options, "--shard-size", "3") == 0
    assert "6 tagged, 0 failed" in capsys.readouterr().out
    assert exit_code(tag, "/no/such", *options) == 1
    assert "tagger: /no/such: not found" in capsys.readouterr().err
    assert exit_code(tag, photos, *options, "--top-k", "0") == 2
    assert exit_code(ingest, photos, "--out", tmp_path / "m.parquet") == 0


@pytest.mark.slow
def test_a_flow_runs_from_the_shell_without_a_server(photos: Path, tmp_path: Path, shell: dict[str, str]) -> None:
    (photos / "bad.jpg").write_bytes(b"junk")
    options = ("--model", MODEL, "--out", str(tmp_path / "out"), "--max-failed", "0")
    process = [sys.executable, "-m", "flows.tag", str(photos), *options]
    ran = subprocess.run(process, capture_output=True, text=True, cwd=ROOT, env=shell, timeout=TIMEOUT)
    assert ran.returncode == 3, ran.stderr
    assert "1 of 7 files failed" in ran.stderr
    assert len(tagger.read_results(str(tmp_path / "out"))) == 7


@pytest.fixture
def shell() -> dict[str, str]:
    """A shell that knows no Prefect server."""
    return {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}


@pytest.fixture
def on_server(shell: dict[str, str], prefect_server: str) -> dict[str, str]:
    """A shell whose flows and commands use the test server."""
    return shell | {"PREFECT_API_URL": prefect_server}


def test_a_killed_flow_run_never_blocks_the_next_one(tmp_path: Path, on_server: dict[str, str]) -> None:
    from flows.tag import tag

    folder, out = tmp_path / "many", tmp_path / "out"
    folder.mkdir()
    photo(0, (1600, 1200)).save(tmp_path / "big.jpg", quality=95)
    for index in range(200):
        os.link(tmp_path / "big.jpg", folder / f"{index:03d}.jpg")
    arguments = (folder, "--model", MODEL, "--out", out, "--shard-size", "4")
    with started("flows.tag", *arguments, cwd=ROOT, env=on_server) as process:
        wait_for_parts(out, 3, process)
        process.kill()
    written = len(tagger.read_results(str(out)))
    assert 12 <= written < 200
    state = tag(str(folder), str(out), [MODEL], TagConfig(shard_size=4), return_state=True)
    assert f"{200 - written} tagged" in state.message
    assert len(tagger.read_results(str(out))) == 200


def test_prefect_yaml_deploys_every_flow_with_parameters_that_it_takes() -> None:
    from flows import deployments

    declared = deployments.read(ROOT / "prefect.yaml")
    verbs = {path.stem for path in (ROOT / "flows").glob("*.py") if "@flow(" in path.read_text()}
    assert {each["entrypoint"] for each in declared} == {f"flows/{verb}.py:{verb}" for verb in verbs}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"options": {"top_kk": 3}}, "top_kk"),
        ({"options": {"top_k": 0}}, "top-k must be at least 1"),
        ({"sourc": "photos"}, "sourc"),
        ({"model": []}, "model"),
        ({"max_hours": "long"}, "max_hours"),
        ({"model": None}, "model"),
        ({}, None),
    ],
)
def test_deploying_checks_parameters(
    given: dict[str, Any], why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import deployments
    from tagger.errors import UsageError

    deployed = {"name": "nightly", "entrypoint": str(ROOT / "flows/nightly.py:nightly")}
    right = {"source": "photos", "out": "results"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.yaml").write_text(json.dumps({"deployments": [{**deployed, "parameters": right | given}]}))
    if why is None:
        deployments.check()
        return
    with pytest.raises(UsageError, match=f"deployment nightly: .*{why}"):
        deployments.check()


def test_flows_tag_with_the_model_of_the_command_unless_one_is_named() -> None:
    from flows.nightly import nightly
    from flows.tag import tag
    from tagger.options import IMAGENET

    for each in (tag, nightly):
        assert each.parameters.properties["model"]["default"] == [IMAGENET]
        assert each.parameters.required == ["source", "out"]


def test_deploying_refuses_keys_that_prefect_ignores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import deployments
    from tagger.errors import UsageError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.yaml").write_text("deployments: [{name: nightly, concurency_limit: 1}]")
    with pytest.raises(UsageError, match="unknown key concurency_limit"):
        deployments.check()


def test_the_train_flow_writes_a_checkpoint_and_leaves_its_card(tmp_path: Path, timm_folder: Path) -> None:
    from flows.train import train
    from tagger import checkpoint
    from tagger.training.config import TrainConfig

    for number, name in enumerate(("left", "right")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(12):
            photo(100 * number + index).save(tmp_path / "data" / name / f"{index}.png")
    options = TrainConfig(backbone=f"local-dir:{timm_folder}", method="probe")
    state = train(str(tmp_path / "data"), str(tmp_path / "made"), options, return_state=True)
    assert state.is_completed()
    assert checkpoint.describe(str(tmp_path / "made")).label_names == ("left", "right")
    assert "left" in artifact("train")
    again = train(str(tmp_path / "data"), str(tmp_path / "made"), options, return_state=True)
    assert again.is_failed()
    assert "not empty" in str(again.result(raise_on_failure=False))


def test_the_benchmark_flow_trains_every_model_and_leaves_the_report(tmp_path: Path) -> None:
    from flows.benchmark import benchmark
    from tagger.benchmark.config import BenchmarkConfig

    for split, count in (("train", 12), ("test", 6)):
        for number, name in enumerate(("left", "right")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(count):
                photo(100 * number + 10 * (split == "test") + index).save(
                    tmp_path / "data" / split / name / f"{index}.png"
                )
    options = BenchmarkConfig(("linear", "mlp"), "2s")
    state = benchmark(str(tmp_path / "data"), str(tmp_path / "report"), options, return_state=True)
    assert state.is_completed()
    assert "2 models; best" in state.message
    assert (tmp_path / "report" / "report.html").exists()
    assert "data:image/png;base64," in artifact("benchmark")


@pytest.mark.parametrize(
    "wrong",
    [{"options": {"threshold": 7}}, {"options": {"engine": "warp"}}, {"options": {"max_faild": "1%"}}, {"model": []}],
)
def test_parameters_that_are_not_allowed_are_refused_when_a_run_is_created(wrong: dict[str, Any]) -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.tag import tag

    right = {"source": "photos", "model": ["m"], "out": "results", "options": {}}
    assert tag.validate_parameters(right)["model"] == ["m"]
    with pytest.raises(ParameterTypeError):
        tag.validate_parameters(right | wrong)
