"""The ladder trains every model on the same images, goes on after a kill, and its models tag."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

import tagger
from tagger import checkpoint
from tagger.benchmark import Climb, LadderConfig, climb, plan, rungs, transfer
from tagger.benchmark.recipes import STEPS
from tagger.data import cifar10
from tagger.errors import SourceError, TaggerError, UsageError

OWN = ("knn", "linear", "mlp", "convnet", "resnet20", "speedrun")


def write_stripes(folder: Path, count: int, seed: int = 0) -> None:
    """Three classes a net can tell apart: stripes across, stripes down, and none."""
    rng = np.random.default_rng(seed)
    for label in ("across", "down", "plain"):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            wave = 128 + 90 * np.sin(np.arange(32) * rng.uniform(0.8, 1.6) + rng.uniform(0, 6))
            picture = {
                "across": np.tile(wave[:, None], 32),
                "down": np.tile(wave, (32, 1)),
                "plain": np.full((32, 32), 128.0),
            }
            noisy = picture[label][..., None] + rng.normal(0, 30, (32, 32, 3))
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / label / f"{index}.png")


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stripes") / "data"
    write_stripes(folder / "train", 60)
    write_stripes(folder / "test", 20, seed=1)
    return folder


@pytest.fixture(scope="module")
def climbed(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    climb(Climb(str(stripes), str(out), LadderConfig(OWN, "12s")))
    return out


def test_every_model_has_a_row_with_its_numbers(climbed: Path) -> None:
    frame = pd.read_parquet(climbed / "results.parquet")
    assert list(frame["model"]) == list(OWN)
    assert frame["accuracy"].between(0.3, 1).all()
    assert frame.set_index("model").loc["speedrun", "accuracy"] > 0.9
    for column in ("parameters", "flops", "infer_one_core", "infer_all_cores", "memory_bytes", "train_seconds"):
        assert (frame[column].fillna(0)[frame["model"] != "knn"] > 0).all(), column
    assert (frame["accuracy_low"] <= frame["accuracy"]).all()
    varied = frame["model"].isin(["convnet-aug", "convnet-lrn", "resnet20", "speedrun"])
    assert (frame["accuracy_tta"].notna() == varied).all(), "only nets that learn from shifted images are shown them"
    assert (frame["accuracy"] <= frame["accuracy_high"] + 1e-9).all()


@pytest.mark.parametrize("model", OWN)
def test_every_rung_is_a_checkpoint_that_tags(climbed: Path, stripes: Path, tmp_path: Path, model: str) -> None:
    folder = climbed / "models" / f"{model}-0"
    tagger.tag(str(stripes / "test"), str(folder), str(tmp_path / "results"))
    frame = tagger.read_results(str(tmp_path / "results"))
    right = frame["top_tag"] == frame["uri"].str.split("/").str[-2]
    said = json.loads((folder / "tagger.json").read_text())["ladder"]["accuracy"]
    assert right.mean() == pytest.approx(said, abs=0.04)
    assert checkpoint.describe(str(folder)).label_names == ("across", "down", "plain")


def test_the_report_shows_every_model_and_its_pictures(climbed: Path) -> None:
    page, text = (climbed / "report.html").read_text(), (climbed / "report.md").read_text()
    for title in ("k nearest neighbours", "Linear, softmax", "MLP, ReLU", "CNTK ConvNet_CIFAR10", "ResNet-20"):
        assert title in page
        assert title in text.replace("\\_", "_")
    assert page.count("data:image/png;base64,") > 10
    assert "<script" not in page.lower()
    frame = pd.read_parquet(climbed / "results.parquet").set_index("model")
    assert f"tagger tag FOLDER --model models/{frame['accuracy'].idxmax()}-0 --out RESULTS" in text


def test_the_same_seed_gives_the_same_scores(stripes: Path, tmp_path: Path) -> None:
    some = ("linear", "mlp", "speedrun")
    for name in ("first", "again"):
        climb(Climb(str(stripes), str(tmp_path / name), LadderConfig(some, "4s")))
    for model in some:
        first, again = (
            np.load(tmp_path / name / "models" / f"{model}-0" / "scores.npy") for name in ("first", "again")
        )
        assert np.array_equal(first, again), model


def test_what_is_done_stays_and_other_options_train_again(stripes: Path, climbed: Path) -> None:
    said: list[str] = []
    assert plan(Climb(str(stripes), str(climbed), LadderConfig(OWN, "12s")), said.append) == []
    assert said == ["6 of 6 models are there from before, 0 to train"]
    more = Climb(str(stripes), str(climbed), LadderConfig(OWN, "12s", seeds=2))
    assert ("resnet20", 0) in plan(more)  # twice as many share the budget: fewer epochs each
    assert ("linear", 0) not in plan(more)  # it has time for all of them
    assert ("knn", 1) not in plan(more)


def test_a_killed_benchmark_trains_only_what_is_missing(stripes: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tagger.cli", "benchmark", str(stripes), "--out", str(tmp_path / "report")]
    command += ["--models", "linear,mlp,speedrun", "--budget", "12s"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "report" / "models" / "linear-0" / "scores.npy").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    assert len(pd.read_parquet(tmp_path / "report" / "results.parquet")) == 3


def test_a_net_that_was_killed_goes_on_after_its_last_epoch(stripes: Path, tmp_path: Path) -> None:
    config = "LadderConfig(('resnet20',), budget='full')"
    code = f"""
from tagger.ladder import Climb, LadderConfig, climb
from tagger.training import unfinished
unfinished.EVERY = 0
climb(Climb({str(stripes)!r}, {str(tmp_path / "report")!r}, {config}), lambda line: print(line, flush=True))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 5/164" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    kept = tmp_path / "report" / "models" / "_resnet20-0.safetensors"
    assert kept.exists()
    assert not kept.with_name("resnet20-0").exists()
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if "/164" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        climb(Climb(str(stripes), str(tmp_path / "report"), LadderConfig(("resnet20",), budget="full")), stop)
    done = re.fullmatch(r"resnet20 \(seed 0\) goes on after epoch (\d+)", lines[-2])
    assert done
    assert f"epoch {int(done[1]) + 1}/164" in lines[-1]


def test_mistakes_are_errors_that_say_what_to_do(stripes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose among knn, linear"):
        LadderConfig(("resnet19",))
    with pytest.raises(UsageError, match="a time above 0 such as 10m or 90s, or full"):
        LadderConfig(budget="soon")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes").touch()
    with pytest.raises(UsageError, match="holds notes"):
        plan(Climb(str(stripes), str(tmp_path / "foreign"), LadderConfig(("linear",))))
    with pytest.raises(UsageError, match="preparation 'grey' is not known"):
        climb(Climb(str(stripes), str(tmp_path / "a"), LadderConfig(("linear",), preparation="grey")))
    write_stripes(tmp_path / "lacking" / "train", 10)
    write_stripes(tmp_path / "lacking" / "test", 10)
    for path in (tmp_path / "lacking" / "test" / "plain").iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="no test image of plain"):
        climb(Climb(str(tmp_path / "lacking"), str(tmp_path / "b"), LadderConfig(("linear",))))


def test_what_would_stop_a_model_later_stops_before_anything_is_trained(stripes: Path, tmp_path: Path) -> None:
    for config, message in (
        (LadderConfig(("knn",), preparation="grey"), "preparation 'grey' is not known"),
        (LadderConfig(("knn",), preparation="mean-file:none.xml"), "mean-file:none.xml: no such file"),
        (LadderConfig(("knn", "probe"), backbone="local-dir:/no/where"), r"--backbone .*no such.*leave probe out"),
        (LadderConfig(("knn",), device="gpu"), "--device gpu: expected one of auto, cpu, cuda"),
    ):
        with pytest.raises(TaggerError, match=message):
            plan(Climb(str(stripes), str(tmp_path / "out"), config))
    with pytest.raises(UsageError, match="says where CIFAR-10 is"):
        Climb(str(stripes), str(tmp_path / "out"), data="somewhere")
    with pytest.raises(UsageError, match="linear: named more than once"):
        LadderConfig(("linear", "knn", "linear"))
    assert not (tmp_path / "out").exists()


def test_the_command_of_a_report_holds_no_password() -> None:
    todo = Climb("https://me:secret@host/m.parquet?token=abc", "s3://key:pw@bucket/r", LadderConfig(("knn",), seeds=2))
    assert todo.command == "tagger benchmark https://host/m.parquet --out s3://bucket/r --models knn --seeds 2"


def test_a_damaged_model_is_trained_again_and_old_plots_go(stripes: Path, tmp_path: Path) -> None:
    todo = Climb(str(stripes), str(tmp_path / "report"), LadderConfig(("knn", "linear"), "12s"))
    first = climb(todo)
    folder = tmp_path / "report" / "models"
    for name, file in (("knn-0", "tagger.json"), ("linear-0", "scores.npy"), ("linear-0", "model.safetensors")):
        content = (folder / name / file).read_bytes()
        (folder / name / file).write_bytes(content[:50])
        lines: list[str] = []
        again = climb(todo, lines.append)
        assert [row["accuracy"] for row in again] == [row["accuracy"] for row in first]
        assert any("damaged" in line and name.removesuffix("-0") in line for line in lines), lines
    scaled = LadderConfig(("linear",), "12s", preparation="scale")
    fewer = climb(Climb(todo.dataset, todo.out, scaled), lines.append)
    assert [row["model"] for row in fewer] == ["linear"]
    assert any("has other options" in line for line in lines)
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(f"plots/{path.name}" in text for path in (tmp_path / "report" / "plots").iterdir())
    assert f"tagger benchmark {stripes} --out {todo.out} --models linear --budget 12s --preparation scale" in text
    card = (folder / "linear-0" / "README.md").read_text()
    assert f"tagger benchmark {stripes} --out {todo.out} --models linear --budget 12s --preparation scale" in card


def test_transfer_rungs_learn_from_the_same_images(stripes: Path, timm_folder: Path, tmp_path: Path) -> None:
    config = LadderConfig(("knn-features", "probe", "finetune"), "12s", backbone=f"local-dir:{timm_folder}")
    lines: list[str] = []
    rows = climb(Climb(str(stripes), str(tmp_path / "report"), config), lines.append)
    assert [row["model"] for row in rows] == ["knn-features", "probe", "finetune"]
    assert any(line.startswith("finetune (seed 0): epoch 2/2: loss") for line in lines)
    assert all(row["accuracy"] > 0.4 for row in rows)


def write_cifar(folder: Path, test_brightness: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10's unpacked folder, with its checksums in torchvision: every class a colour."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    files: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    batches = [(f"data_batch_{number}", "train_list", 22, 100) for number in range(1, 6)]
    for name, split, count, brightness in [*batches, ("test_batch", "test_list", 6, test_brightness)]:
        labels = np.repeat(np.arange(10), count)
        colours = brightness + 60 * np.stack([labels % 2, labels // 2 % 2, labels // 4 % 3 / 2], axis=1)
        pixels = np.clip(rng.normal(colours[:, :, None], 25, (len(labels), 3, 1024)), 0, 255).astype(np.uint8)
        content = pickle.dumps({"data": pixels.reshape(-1, 3072), "labels": labels.tolist()})
        (folder / name).write_bytes(content)
        files[split].append([name, hashlib.md5(content).hexdigest()])
    meta = pickle.dumps({"label_names": list(cifar10.LABEL_NAMES)})
    (folder / "batches.meta").write_bytes(meta)
    for key, value in {**files, "meta": CIFAR10.meta | {"md5": hashlib.md5(meta).hexdigest()}}.items():
        monkeypatch.setattr(CIFAR10, key, value)


def test_cifar10_is_trained_and_evaluated_on_as_files_too(
    timm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rungs, "_QUICK_QUERIES", 40)
    asked: list[set[int]] = []
    accuracies = rungs.neighbours.accuracies
    monkeypatch.setattr(
        rungs.neighbours,
        "accuracies",
        lambda queries, *rest: asked.append(set(queries[1].tolist())) or accuracies(queries, *rest),
    )
    found = {}
    (tmp_path / "cache").mkdir()
    (tmp_path / "link").symlink_to("cache")
    monkeypatch.setenv("TAGGER_CACHE", str(tmp_path / "link"))
    for name, brightness in (("same", 100), ("darker", 40)):
        data = tmp_path / f"data-{name}" / "cifar-10-batches-py"
        data.parent.mkdir()
        write_cifar(data, brightness, monkeypatch)
        config = LadderConfig(("knn", "probe"), "60s", backbone=f"local-dir:{timm_folder}")
        todo = Climb("cifar10", str(tmp_path / name), config, data=str(data))
        found[name] = {row["model"]: row["accuracy"] for row in climb(todo)}
    assert len(asked[0]) > 7, "k is chosen on images of all classes"
    assert found["same"]["knn"] > 0.8
    assert found["same"]["probe"] > 0.4
    assert found["darker"]["probe"] < found["same"]["probe"], "evaluated on the test images of this folder"
    table = pd.read_parquet(tmp_path / "same" / "models" / "probe-0" / "dataset.parquet")
    assert table["split"].value_counts().to_dict() == {"train": 990, "val": 110, "test": 60}
    held_out = table[table["split"] == "val"]["labels"].str[0]
    assert set(held_out.value_counts()) == {11}


def test_no_seed_learns_from_the_images_that_all_are_judged_on(timm_folder: Path, tmp_path: Path) -> None:
    write_stripes(tmp_path / "unsplit", 40)
    out = tmp_path / "report"
    backbone = f"local-dir:{timm_folder}"
    climb(Climb(str(tmp_path / "unsplit"), str(out), LadderConfig(("finetune",), "12s", 2, backbone=backbone)))
    tested = []
    for seed in (0, 1):
        table = pd.read_parquet(out / "models" / f"finetune-{seed}" / "dataset.parquet")
        tested.append(set(table["uri"][table["split"] == "test"]))
    assert tested[0] == tested[1] != set()
    frame = pd.read_parquet(out / "results.parquet")
    assert frame["seed"].tolist() == [0, 1]


@pytest.mark.parametrize("count", [3, 857, 6_703, 49_999])
def test_part_of_the_images_is_drawn_evenly_whatever_the_number(count: int) -> None:
    rows = [{"labels": [str(index % 10)], "split": "train"} for index in range(50_000)]
    kept = transfer._some(pa.Table.from_pylist([*rows, {"labels": ["0"], "split": "test"}]), count)
    per_class = Counter(row["labels"][0] for row in kept.to_pylist() if row["split"] == "train")
    assert set(per_class.values()) == {-(-count // 10)}
    assert kept["split"].to_pylist().count("test") == 1


def test_a_model_that_diverges_does_not_keep_the_others_from_the_report(stripes: Path, tmp_path: Path) -> None:
    config = LadderConfig(("linear-squared", "convnet", "speedrun"), "12s", preparation="none")
    with pytest.raises(TaggerError, match=r"not trained: .*convnet \(seed 0\): training diverged.*another --prepar"):
        climb(Climb(str(stripes), str(tmp_path / "report"), config))
    frame = pd.read_parquet(tmp_path / "report" / "results.parquet")
    assert "speedrun" in set(frame["model"])
    assert frame["accuracy"].notna().all()
    assert not list((tmp_path / "report" / "models").glob("_*"))
    with pytest.raises(TaggerError, match="not trained: convnet"):
        climb(Climb(str(stripes), str(tmp_path / "none"), LadderConfig(("convnet",), "12s", preparation="none")))
    assert (tmp_path / "none" / "report.html").exists()


def test_the_speed_run_net_keeps_its_own_way_where_a_mean_image_is_asked_for(stripes: Path, tmp_path: Path) -> None:
    config = LadderConfig(("linear", "speedrun"), "8s", preparation="pixel-mean")
    rows = climb(Climb(str(stripes), str(tmp_path / "report"), config))
    assert "standardise, for it takes no mean image" in rows[1]["note"]
    assert "mean image" not in rows[0]["note"]


def test_another_budget_trains_only_what_comes_out_differently(stripes: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "report")
    models = ("knn", "linear", "resnet20")
    climb(Climb(str(stripes), out, LadderConfig(models, "2s")))
    assert plan(Climb(str(stripes), out, LadderConfig(models, "4s"))) == [("resnet20", 0)]
    assert plan(Climb(str(stripes), out, LadderConfig(("linear",), "2s"))) == []


def test_images_that_have_changed_are_read_again(tmp_path: Path) -> None:
    write_stripes(tmp_path / "data" / "train", 20)
    write_stripes(tmp_path / "data" / "test", 10, seed=1)
    todo = Climb(str(tmp_path / "data"), str(tmp_path / "report"), LadderConfig(("knn",), "12s"))
    climb(todo)
    assert plan(todo) == []
    (tmp_path / "data" / "train" / "plain" / "0.png").rename(tmp_path / "data" / "train" / "down" / "moved.png")
    assert plan(todo) == [("knn", 0)]


def test_images_with_several_labels_are_refused_in_words_of_the_ladder(stripes: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file_name,label\n1.png,a|b\n2.png,b\n")
    for name in ("1.png", "2.png"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    tagger.ingest(str(tmp_path), str(tmp_path / "m.parquet"), labels=str(tmp_path / "labels.csv"), label_delimiter="|")
    with pytest.raises(UsageError, match="that are compared give an image one label"):
        plan(Climb(str(tmp_path / "m.parquet"), str(tmp_path / "out"), LadderConfig(("knn",))))


def test_a_larger_image_costs_more_of_the_budget() -> None:
    recipe, count = STEPS["resnet20"].within(10, 50_000)
    larger, as_many = STEPS["resnet20"].within(10, 50_000, side=64)
    assert (recipe.epochs, count) == (12, 50_000)
    assert (larger.epochs, as_many) == (3, 50_000)


KILLED_WHILE = {
    "the checkpoint is written": "from tagger.training import bundle as holder; name = '_tagger_json'",
    "the test images are scored": "from tagger.benchmark import transfer as holder; name = 'scores_of'",
}


@pytest.mark.parametrize("what", KILLED_WHILE)
def test_fine_tuning_that_was_killed_after_its_last_epoch_is_not_repeated(
    stripes: Path, timm_folder: Path, tmp_path: Path, what: str
) -> None:
    config = f"LadderConfig(('finetune',), '12s', backbone='local-dir:{timm_folder}')"
    code = f"""
import os, signal
from tagger.ladder import Climb, LadderConfig, climb
{KILLED_WHILE[what]}
setattr(holder, name, lambda *given, **named: os.kill(os.getpid(), signal.SIGKILL))
climb(Climb({str(stripes)!r}, {str(tmp_path / "report")!r}, {config}))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == -signal.SIGKILL
    lines: list[str] = []
    todo = Climb(
        str(stripes), str(tmp_path / "report"), LadderConfig(("finetune",), "12s", backbone=f"local-dir:{timm_folder}")
    )
    rows = climb(todo, lines.append)
    assert any("goes on after the last epoch that was kept" in line for line in lines), lines
    assert not any("epoch 1/2" in line or "epoch 2/2" in line for line in lines), lines
    assert rows[0]["accuracy"] > 0.4
    assert not list((tmp_path / "report" / "models" / "finetune-0").glob("_*"))


def test_the_command_prints_one_json_object(stripes: Path, tmp_path: Path, run_tagger: Callable[..., Any]) -> None:
    options = ("--models", "linear", "--out", tmp_path / "report", "--budget", "12s", "--json")
    ran = run_tagger("benchmark", stripes, *options)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["models"][0]["model"] == "linear"
    unknown = run_tagger("benchmark", stripes, "--models", "cnn", "--out", tmp_path / "other")
    assert unknown.returncode == 1
    assert "choose among knn" in unknown.stderr
