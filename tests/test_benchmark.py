"""A benchmark trains every model on the same images, continues after a kill, and its models tag."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pictures import write_stripes
from PIL import Image
from processes import forked, wait_until

import tagger
from tagger import checkpoint
from tagger.benchmark import run
from tagger.benchmark.budget import Budget, fit_into
from tagger.benchmark.config import BenchmarkConfig
from tagger.benchmark.run import Benchmark
from tagger.data import cifar10
from tagger.errors import SourceError, TaggerError, UsageError

OWN = ("knn", "linear", "mlp", "convnet", "resnet20", "speedrun")


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stripes") / "data"
    write_stripes(folder / "train", 40)
    write_stripes(folder / "test", 16, seed=1)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images to fine-tune a backbone on."""
    folder = tmp_path_factory.mktemp("few") / "data"
    write_stripes(folder / "train", 16)
    write_stripes(folder / "test", 8, seed=1)
    return folder


def again(todo: Benchmark, say: Callable[[str], object] = lambda line: None) -> Benchmark:
    """The same command, called once more."""
    return Benchmark(todo.dataset, todo.out, todo.config, todo.place, say)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(stripes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    Benchmark(str(stripes), str(out), BenchmarkConfig(OWN, "3s")).run()
    return out


def test_every_model_has_a_row_with_its_numbers(trained: Path) -> None:
    frame = pd.read_parquet(trained / "results.parquet")
    assert list(frame["model"]) == list(OWN)
    assert frame["accuracy"].between(0.3, 1).all()
    assert frame["cut"][frame["model"] == "knn"].tolist() == [""], "it has no epochs to cut"
    for column in ("parameters", "flops", "infer_one_core", "infer_all_cores", "memory_bytes", "train_seconds"):
        assert (frame[column].fillna(0)[frame["model"] != "knn"] > 0).all(), column
    assert (frame["accuracy_low"] <= frame["accuracy"]).all()
    varied = frame["model"].isin(["convnet-aug", "convnet-lrn", "resnet20", "speedrun"])
    assert (frame["accuracy_tta"].notna() == varied).all(), "only nets that learn from shifted images are shown them"
    assert (frame["accuracy"] <= frame["accuracy_high"] + 1e-9).all()


@pytest.mark.parametrize("model", ["knn", "linear", "speedrun"])
def test_every_model_is_a_checkpoint_that_tags(trained: Path, stripes: Path, tmp_path: Path, model: str) -> None:
    folder = trained / "models" / f"{model}-0"
    tagger.tag(str(stripes / "test"), str(folder), str(tmp_path / "results"))
    frame = tagger.read_results(str(tmp_path / "results"))
    right = frame["top_tag"] == frame["uri"].str.split("/").str[-2]
    expected = json.loads((folder / "tagger.json").read_text())["benchmark"]["accuracy"]
    assert right.mean() == pytest.approx(expected, abs=0.04)
    assert checkpoint.describe(str(folder)).label_names == ("across", "down", "plain")


def test_the_report_shows_every_model_and_its_plots(trained: Path) -> None:
    page, text = (trained / "report.html").read_text(), (trained / "report.md").read_text()
    for title in ("k nearest neighbours", "Linear, softmax", "MLP, ReLU", "CNTK ConvNet_CIFAR10", "ResNet-20"):
        assert title in page
        assert title in text.replace("\\_", "_")
    assert page.count("data:image/png;base64,") > 10
    assert "<script" not in page.lower()
    frame = pd.read_parquet(trained / "results.parquet").set_index("model")
    assert f"tagger tag FOLDER --model models/{frame['accuracy'].idxmax()}-0 --out RESULTS" in text


def test_the_same_seed_gives_the_same_scores_at_full_budget(stripes: Path, tmp_path: Path) -> None:
    for name in ("first", "again"):
        Benchmark(str(stripes), str(tmp_path / name), BenchmarkConfig(("linear",), "full")).run()
    first, second = (np.load(tmp_path / name / "models" / "linear-0" / "scores.npy") for name in ("first", "again"))
    assert np.array_equal(first, second)


def test_what_was_trained_stays_and_what_was_cut_is_trained_again_with_another_budget(
    stripes: Path, trained: Path
) -> None:
    lines: list[str] = []
    assert Benchmark(str(stripes), str(trained), BenchmarkConfig(OWN, "3s"), say=lines.append).missing() == []
    assert "6 of 6 models are already trained, 0 to train" in lines
    frame = pd.read_parquet(trained / "results.parquet").set_index("model")
    whole = set(frame.index[frame["cut"] == ""])
    assert "knn" in whole
    assert frame.loc["resnet20", "cut"].endswith("of 164 epochs")
    more = {model for model, _ in Benchmark(str(stripes), str(trained), BenchmarkConfig(OWN, "4s")).missing()}
    assert more == set(OWN) - whole


def test_a_budget_is_spent_by_the_clock_and_goes_to_what_is_left() -> None:
    assert Budget(None).share(1, [1]) is None
    budget = Budget(100)
    assert budget.share(1, [3]) == pytest.approx(25, abs=0.1)
    assert budget.share(1, []) == pytest.approx(100, abs=0.1), "nothing was used, so the last model has all of it"


@pytest.mark.parametrize(
    ("seconds", "epochs", "images", "text"),
    [
        (None, 10, 5000, ""),
        (51, 10, 5000, ""),
        (25, 5, 5000, "5 of 10 epochs"),
        (3, 1, 3000, "1 of 10 epochs, 3,000 of 5,000 training images"),
        (0, 1, 1000, "1 of 10 epochs, 1,000 of 5,000 training images"),
    ],
)
def test_a_budget_cuts_epochs_first_and_images_last(seconds: float | None, epochs: int, images: int, text: str) -> None:
    cut = fit_into(seconds, 10, 5000, 0.001)
    assert (cut.epochs, cut.images, cut.text) == (epochs, images, text)


@pytest.mark.slow
def test_a_killed_benchmark_trains_only_what_is_missing(stripes: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "report", "--models", "linear,mlp", "--budget", "3s")
    with forked("benchmark", stripes, *options) as process:
        wait_until(lambda: "mlp: epoch " in process.stderr, process)
        process.kill()
    lines: list[str] = []
    rows = Benchmark(str(stripes), str(tmp_path / "report"), BenchmarkConfig(("linear", "mlp"), "3s"), say=lines.append)
    assert [row["model"] for row in rows.run()] == ["linear", "mlp"]
    assert "1 of 2 models are already trained, 1 to train" in lines


def test_a_net_that_was_killed_goes_on_after_its_last_epoch(stripes: Path, tmp_path: Path) -> None:
    code = f"""
from tagger.benchmark import run
from tagger.benchmark.config import BenchmarkConfig
run.SAVED_EVERY = 0
config = BenchmarkConfig(('speedrun',), 'full')
run.Benchmark({str(stripes)!r}, {str(tmp_path / "report")!r}, config, say=lambda line: print(line, flush=True)).run()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 3/14" in line:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=60)
    state = tmp_path / "report" / "models" / "_speedrun-0.pt"
    assert state.exists()
    assert not state.with_name("speedrun-0").exists()
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if "/14" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Benchmark(str(stripes), str(tmp_path / "report"), BenchmarkConfig(("speedrun",), "full"), say=stop).run()
    assert "speedrun: continues after the last saved epoch" in lines
    assert int(lines[-1].partition("epoch ")[2].partition("/")[0]) >= 3


def test_mistakes_are_errors_that_say_what_to_do(stripes: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose from knn, linear"):
        BenchmarkConfig(("resnet19",))
    with pytest.raises(UsageError, match="a time such as 10m or 90s, or full"):
        BenchmarkConfig(budget="soon")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes").touch()
    with pytest.raises(UsageError, match="has other files"):
        Benchmark(str(stripes), str(tmp_path / "foreign"), BenchmarkConfig(("linear",))).missing()
    with pytest.raises(UsageError, match="--normalisation grey is unknown"):
        Benchmark(str(stripes), str(tmp_path / "a"), BenchmarkConfig(("linear",), normalisation="grey")).run()
    write_stripes(tmp_path / "lacking" / "train", 10)
    write_stripes(tmp_path / "lacking" / "test", 10)
    for path in (tmp_path / "lacking" / "test" / "plain").iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="no test image of plain"):
        Benchmark(str(tmp_path / "lacking"), str(tmp_path / "b"), BenchmarkConfig(("linear",))).run()


def test_what_would_stop_a_model_later_stops_before_anything_is_trained(stripes: Path, tmp_path: Path) -> None:
    for config, message in (
        (BenchmarkConfig(("knn",), normalisation="grey"), "--normalisation grey is unknown"),
        (BenchmarkConfig(("knn",), normalisation="mean-file:none.xml"), "mean-file:none.xml: no such file"),
        (BenchmarkConfig(("knn", "probe"), backbone="local-dir:/no/where"), r"--backbone .*no such.*remove probe from"),
    ):
        with pytest.raises(TaggerError, match=message):
            Benchmark(str(stripes), str(tmp_path / "out"), config).missing()
    with pytest.raises(UsageError, match="is the location of CIFAR-10"):
        Benchmark(str(stripes), str(tmp_path / "out"), data="somewhere")
    with pytest.raises(UsageError, match="--device gpu: expected one of auto, cpu, cuda"):
        BenchmarkConfig(device="gpu")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="linear: given twice"):
        BenchmarkConfig(("linear", "knn", "linear"))
    assert not (tmp_path / "out").exists()


def test_the_command_of_a_report_holds_no_password() -> None:
    todo = Benchmark(
        "https://me:secret@host/m.parquet?token=abc", "s3://key:pw@bucket/r", BenchmarkConfig(("knn",), seeds=2)
    )
    assert todo.command == "tagger benchmark https://host/m.parquet --out s3://bucket/r --models knn --seeds 2"


@pytest.mark.slow
def test_a_damaged_model_is_trained_again_and_old_plots_go(stripes: Path, tmp_path: Path) -> None:
    todo = Benchmark(str(stripes), str(tmp_path / "report"), BenchmarkConfig(("knn", "linear"), "full"))
    first = again(todo).run()
    folder = tmp_path / "report" / "models"
    lines: list[str] = []
    for path in (folder / "knn-0" / "tagger.json", folder / "linear-0" / "scores.npy"):
        path.write_bytes(path.read_bytes()[:50])
    second = again(todo, lines.append).run()
    assert [row["accuracy"] for row in second] == [row["accuracy"] for row in first]
    for model in ("knn", "linear"):
        assert any("damaged" in line and model in line for line in lines), lines
    weights = folder / "linear-0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    assert again(todo).missing() == [("linear", 0)]
    scaled = BenchmarkConfig(("linear",), "full", normalisation="scale")
    fewer = Benchmark(todo.dataset, todo.out, scaled, say=lines.append).run()
    assert [row["model"] for row in fewer] == ["linear"]
    assert any("trained with other options" in line for line in lines)
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(f"plots/{path.name}" in text for path in (tmp_path / "report" / "plots").iterdir())
    assert f"tagger benchmark {stripes} --out {todo.out} --models linear --budget full --normalisation scale" in text
    card = (folder / "linear-0" / "README.md").read_text()
    assert f"tagger benchmark {stripes} --out {todo.out} --models linear --budget full --normalisation scale" in card


@pytest.mark.slow
def test_models_on_a_backbone_learn_from_the_same_images_and_decode_them_once(
    few: Path, timm_folder: Path, tmp_path: Path
) -> None:
    config = BenchmarkConfig(("knn-features", "probe", "finetune"), "10m", backbone=f"local-dir:{timm_folder}")
    lines: list[str] = []
    rows = Benchmark(str(few), str(tmp_path / "report"), config, say=lines.append).run()
    assert [row["model"] for row in rows] == ["knn-features", "probe", "finetune"]
    assert [line for line in lines if "read and decoded" in line] == ["72 images read and decoded, 0 cached"]
    assert any(line.startswith("finetune: epoch 10/10: loss") for line in lines)
    assert all(row["accuracy"] > 0.4 for row in rows)
    assert [row["cut"] for row in rows] == ["", "", ""], "what fits into the budget is trained in full"


def test_a_small_budget_never_cuts_the_probe_and_says_what_it_cut(
    stripes: Path, timm_folder: Path, tmp_path: Path
) -> None:
    config = BenchmarkConfig(("resnet20", "probe"), "2s", backbone=f"local-dir:{timm_folder}")
    rows = {row["model"]: row for row in Benchmark(str(stripes), str(tmp_path / "report"), config).run()}
    assert rows["probe"]["cut"] == ""
    assert rows["resnet20"]["cut"].endswith("of 164 epochs")
    card = (tmp_path / "report" / "models" / "resnet20-0" / "README.md").read_text()
    assert f"trained on less than the recipe: {rows['resnet20']['cut']}" in card


def write_cifar(folder: Path, test_brightness: int) -> None:
    """CIFAR-10 as class folders: every class a colour."""
    rng = np.random.default_rng(0)
    for split, count, brightness in (("train", 50, 100), ("test", 6, test_brightness)):
        for label, name in enumerate(cifar10.LABEL_NAMES):
            colour = brightness + 60 * np.array([label % 2, label // 2 % 2, label // 4 % 3 / 2])
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(rng.normal(colour, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")


@pytest.mark.slow
def test_cifar10_is_learnt_from_in_memory_and_evaluated_on_its_own_test_images(
    timm_folder: Path, tmp_path: Path
) -> None:
    found = {}
    for name, brightness in (("same", 100), ("darker", 40)):
        write_cifar(tmp_path / f"data-{name}", brightness)
        config = BenchmarkConfig(("knn", "probe"), "60s", backbone=f"local-dir:{timm_folder}")
        todo = Benchmark("cifar10", str(tmp_path / name), config, data=str(tmp_path / f"data-{name}"))
        found[name] = {row["model"]: row["accuracy"] for row in todo.run()}
    assert found["same"]["knn"] > 0.8
    assert found["same"]["probe"] > 0.4
    assert found["darker"]["probe"] < found["same"]["probe"]
    table = pd.read_parquet(tmp_path / "same" / "models" / "probe-0" / "dataset.parquet")
    assert table["split"].value_counts().to_dict() == {"train": 450, "val": 50, "test": 60}
    held_out = table[table["split"] == "val"]["labels"].str[0]
    assert set(held_out.value_counts()) == {5}


def test_no_seed_learns_from_the_test_images_of_another(timm_folder: Path, tmp_path: Path) -> None:
    write_stripes(tmp_path / "unsplit", 20)
    out = tmp_path / "report"
    backbone = f"local-dir:{timm_folder}"
    Benchmark(str(tmp_path / "unsplit"), str(out), BenchmarkConfig(("finetune",), "3s", 2, backbone=backbone)).run()
    tested = []
    for seed in (0, 1):
        table = pd.read_parquet(out / "models" / f"finetune-{seed}" / "dataset.parquet")
        tested.append(set(table["uri"][table["split"] == "test"]))
    assert tested[0] == tested[1] != set()
    frame = pd.read_parquet(out / "results.parquet")
    assert frame["seed"].tolist() == [0, 1]


def test_a_model_that_diverges_does_not_stop_the_others(stripes: Path, tmp_path: Path) -> None:
    config = BenchmarkConfig(("linear-squared", "convnet", "speedrun"), "3s", normalisation="none")
    with pytest.raises(TaggerError, match=r"not trained: .*convnet \(seed 0\): training diverged"):
        Benchmark(str(stripes), str(tmp_path / "report"), config).run()
    frame = pd.read_parquet(tmp_path / "report" / "results.parquet")
    assert "speedrun" in set(frame["model"])
    assert frame["accuracy"].notna().all()
    assert not list((tmp_path / "report" / "models").glob("_*"))
    with pytest.raises(TaggerError, match="not trained: convnet"):
        Benchmark(str(stripes), str(tmp_path / "none"), BenchmarkConfig(("convnet",), "1s", normalisation="none")).run()
    assert (tmp_path / "none" / "report.html").exists()


def test_the_speed_run_network_keeps_its_normalisation_where_a_mean_image_is_chosen(
    stripes: Path, tmp_path: Path
) -> None:
    config = BenchmarkConfig(("linear", "speedrun"), "1s", normalisation="pixel-mean")
    rows = Benchmark(str(stripes), str(tmp_path / "report"), config).run()
    assert "standardise: this network cannot subtract a mean image" in rows[1]["note"]
    assert "mean image" not in rows[0]["note"]


def test_images_that_have_changed_are_read_again(tmp_path: Path) -> None:
    write_stripes(tmp_path / "data" / "train", 20)
    write_stripes(tmp_path / "data" / "test", 10, seed=1)
    todo = Benchmark(str(tmp_path / "data"), str(tmp_path / "report"), BenchmarkConfig(("knn",), "12s"))
    again(todo).run()
    assert again(todo).missing() == []
    (tmp_path / "data" / "train" / "plain" / "0.png").rename(tmp_path / "data" / "train" / "down" / "moved.png")
    assert again(todo).missing() == [("knn", 0)]


def test_images_with_several_labels_are_refused(stripes: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file_name,label\n1.png,a|b\n2.png,b\n")
    for name in ("1.png", "2.png"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    tagger.ingest(str(tmp_path), str(tmp_path / "m.parquet"), labels=str(tmp_path / "labels.csv"), label_delimiter="|")
    with pytest.raises(UsageError, match="a benchmark takes one label per image"):
        Benchmark(str(tmp_path / "m.parquet"), str(tmp_path / "out"), BenchmarkConfig(("knn",))).missing()


def test_fine_tuning_that_was_stopped_continues(
    few: Path, timm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SAVED_EVERY", 0)
    config = BenchmarkConfig(("finetune",), "full", backbone=f"local-dir:{timm_folder}")

    def stop(line: str) -> None:
        if "epoch 10/10" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Benchmark(str(few), str(tmp_path / "report"), config, say=stop).run()
    lines: list[str] = []
    rows = Benchmark(str(few), str(tmp_path / "report"), config, say=lines.append).run()
    assert "finetune: continues after the last saved epoch" in lines
    assert not any("epoch 9/10" in line for line in lines), lines
    assert rows[0]["accuracy"] > 0.4
    assert not list((tmp_path / "report" / "models").glob("_*"))


def test_the_command_prints_one_json_object(stripes: Path, tmp_path: Path, run_tagger: Callable[..., Any]) -> None:
    options = ("--models", "linear", "--out", tmp_path / "report", "--budget", "12s", "--json")
    ran = run_tagger("benchmark", stripes, *options)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["models"][0]["model"] == "linear"
    unknown = run_tagger("benchmark", stripes, "--models", "cnn", "--out", tmp_path / "other")
    assert unknown.returncode == 1
    assert "choose from knn" in unknown.stderr
