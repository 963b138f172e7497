"""Labels in, a checkpoint out: probe, fine-tuning, calibration, resuming, and what users get wrong."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pictures import backbone, photo
from PIL import Image
from safetensors.numpy import load_file

import tagger
from tagger import checkpoint, training
from tagger.errors import SourceError, UsageError
from tagger.images.transforms import Preprocessing
from tagger.options import command
from tagger.tagging.config import TagConfig
from tagger.training import Reports, TrainConfig, finetune, neighbours
from tagger.training.config import differences
from tagger.training.loading import Pictures

Run = Callable[..., subprocess.CompletedProcess[str]]
COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}


def picture(seed: int, colour: tuple[int, int, int], size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A smooth picture, all its own, with a colour cast."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 110, (6, 8, 3)) + np.array(colour) - 60
    return Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    """Three class folders of 24 pictures each."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        (tmp_path / "coloured" / name).mkdir(parents=True)
        for index in range(24):
            picture(1000 * number + index, colour).save(tmp_path / "coloured" / name / f"{index}.png")
    return tmp_path / "coloured"


@pytest.fixture
def config(timm_folder: Path) -> Callable[..., TrainConfig]:
    def make(**options: Any) -> TrainConfig:
        defaults = {
            "backbone": f"local-dir:{timm_folder}",
            "method": "probe",
            "epochs": 2,
            "batch_size": 16,
            "lr": 3e-3,
        }
        return TrainConfig(**{**defaults, **options})

    return make


def test_a_backbone_that_would_be_another_network_at_a_size_is_refused(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    swin = backbone(tmp_path / "swin", "swin_tiny_patch4_window7_224", 224)
    with pytest.raises(UsageError, match="swin_tiny_patch4_window7_224 would be another network at that size"):
        training.train(str(coloured), str(tmp_path / "made"), config(backbone=f"local-dir:{swin}", image_size=192))


def arguments(config: TrainConfig) -> list[str]:
    return command("train", "DATA", config, out="OUT").split()[5:]


def heard() -> tuple[list[str], Reports]:
    lines: list[str] = []
    return lines, Reports(say=lines.append)


# --- probe -----------------------------------------------------------------------------------------------------------


def test_a_probe_becomes_a_checkpoint_that_tags_and_that_timm_loads(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    import timm
    import torch

    out = tmp_path / "made" / "colours"
    info = training.train(str(coloured), str(out), config())
    assert info.label_names == ("blue", "green", "red")
    assert info.metrics["test"]["accuracy"]["accuracy"] > 0.8
    card = (out / "README.md").read_text()
    assert "tagger train" in card
    for plot in ("reliability", "precision-recall", "confusion"):
        assert f"plots/{plot}.png" in card
        Image.open(out / "plots" / f"{plot}.png").verify()
    net = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    summary = tagger.tag(str(coloured), str(out), str(tmp_path / "results"))
    assert summary.tagged == 72
    frame = tagger.read_results(str(tmp_path / "results"))
    right = (frame["uri"].str.split("/").str[-2] == frame["top_tag"]).mean()
    assert right > 0.8


def test_neighbours_by_features_are_those_a_brute_force_search_finds(
    coloured: Path, config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, data = str(tmp_path / "made"), str(coloured)
    info = training.train(data, out, config(method="knn"))
    chosen = info.model_args
    card = (tmp_path / "made" / "README.md").read_text()
    assert f"A vote of the {chosen['k']} nearest of {chosen['examples']} labelled images, by the frozen feat" in card
    assert "timm.create_model" not in card  # timm has no such network
    found = training.evaluate(out, data, "test").evaluation.accuracy
    assert found is not None
    assert found.accuracy == info.metrics["test"]["accuracy"]["accuracy"] > 0.8

    tagger.tag(data, out, str(tmp_path / "results"), TagConfig(embeddings=True))
    assert "OpenVINO" not in caplog.text
    rows = tagger.read_results(str(tmp_path / "results"))
    table = pq.read_table(tmp_path / "made" / "dataset.parquet").to_pandas().set_index("uri")
    split, label = (rows["uri"].map(table[column]) for column in ("split", "labels"))
    features = np.stack(rows["embedding"].to_list()).astype(np.float64)
    if chosen["metric"] == "cosine":
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    known, asked = features[split == "train"], features[split == "test"]
    nearest = ((asked[:, None] - known[None]) ** 2).sum(axis=2).argsort(axis=1, kind="stable")[:, : chosen["k"]]
    names = label[split == "train"].str[0].to_numpy()[nearest]
    votes = np.stack([(names == name).sum(axis=1) for name in info.label_names], axis=1)
    given = rows["top_tag"][split == "test"].map(info.label_names.index).to_numpy()
    assert (votes[np.arange(len(votes)), given] == votes.max(axis=1)).all()


@pytest.mark.parametrize("method", ["probe", "knn", "finetune"])
def test_any_backbone_learns_at_another_image_size(
    coloured: Path, config: Any, other_backbone: Path, tmp_path: Path, method: str
) -> None:
    out = str(tmp_path / "made")
    options = config(backbone=f"local-dir:{other_backbone}", image_size=96, method=method, epochs=1)
    info = training.train(str(coloured), out, options)
    assert info.preprocessing.size == (96, 96)
    found = training.evaluate(out, str(coloured), "val").evaluation
    assert found.accuracy is not None
    assert found.accuracy.accuracy == info.metrics["val"]["accuracy"]["accuracy"]


def test_known_negatives_have_no_vote() -> None:
    features = np.array([[0, 0], [1, 1], [9, 9], [9, 8]], dtype=np.float32)
    truth = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], dtype=np.float32)
    found = neighbours.fit(features, truth, features + 0.1, truth)
    assert found.labels.tolist() == [0, 1, 1]
    assert found.examples.tolist() == features[[0, 2, 3]].tolist()
    assert (found.k, found.accuracy) == (1, 1.0)
    with pytest.raises(SourceError, match="0 training and 0 held-out"):
        neighbours.fit(features, 0 * truth, features, 0 * truth)


def test_evaluate_reproduces_the_numbers_of_the_card(coloured: Path, config: Any, tmp_path: Path) -> None:
    out = str(tmp_path / "made")
    info = training.train(str(coloured), out, config())
    for split in ("val", "test"):
        found = training.evaluate(out, str(coloured), split).evaluation
        stored = info.metrics[split]
        assert found.accuracy is not None
        assert found.accuracy.accuracy == stored["accuracy"]["accuracy"]
        assert found.log_loss == pytest.approx(stored["log_loss"], abs=1e-3)
        for tag, kept in zip(found.tags, stored["tags"], strict=True):
            assert (tag.precision, tag.recall, tag.images) == (kept["precision"], kept["recall"], kept["images"])
    everything = training.evaluate(out, str(coloured), "all")
    assert everything.evaluation.images == 72
    assert re.fullmatch(r"\d+ of 72 images were there when it was trained, which flatters it", everything.notes[-1])


def test_a_second_run_decodes_nothing_and_makes_the_same_checkpoint(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    training.train(str(coloured), str(tmp_path / "one"), config())
    moved = coloured.rename(tmp_path / "moved")
    lines, reports = heard()
    training.train(str(moved), str(tmp_path / "two"), config(), reports=reports)
    assert "features: 0 images decoded, 72 known from before" in lines
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_thresholds_learnt_on_validation_decide_which_tags_are_given(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    out = tmp_path / "made"
    info = training.train(str(coloured), str(out), config())
    bundle = json.loads((out / "tagger.json").read_text())
    assert info.thresholds == tuple(bundle["thresholds"][name] for name in info.label_names)
    assert {tag["status"] for tag in bundle["calibration"]["tags"]} == {"too few"}
    assert "too few" in (out / "README.md").read_text()
    tagger.tag(str(coloured), str(out), str(tmp_path / "results"))
    for row in tagger.read_results(str(tmp_path / "results")).to_dict("records"):
        passed = {pair["tag"] for pair in row["tags"]}
        by_score = {pair["tag"]: pair["score"] for pair in row["candidates"]}
        limits = dict(zip(info.label_names, info.thresholds, strict=True))
        assert passed == {tag for tag, score in by_score.items() if np.float32(score) >= np.float32(limits[tag])}


def test_multilabel_learns_several_tags_and_known_negatives(config: Any, tmp_path: Path) -> None:
    rows = []
    for index in range(90):
        rng = np.random.default_rng(index)
        labels = [name for name in ("red", "blue") if rng.random() < 0.5]
        canvas = picture(index, (120, 120, 120))
        for place, name in enumerate(labels):
            canvas.paste(picture(index + 500, COLOURS[name], (40, 60)), (40 * place, 0))
        canvas.save(tmp_path / f"{index}.png")
        rows.append({"image_name": f"{index}.png", "red": int("red" in labels), "blue": int("blue" in labels)})
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    tagger.ingest(str(tmp_path), str(tmp_path / "data.parquet"), labels=str(tmp_path / "labels.csv"))
    out = tmp_path / "made"
    info = training.train(str(tmp_path / "data.parquet"), str(out), config(multilabel=True))
    assert info.task == "multilabel"
    assert info.metrics["test"]["mean_average_precision"] > 0.6
    assert info.metrics["val"]["negatives"] > 0
    with pytest.raises(UsageError, match="--multilabel"):
        training.train(str(tmp_path / "data.parquet"), str(tmp_path / "other"), config())


# --- fine-tuning ------------------------------------------------------------------------------------------------------


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def same(one: Path, two: Path) -> bool:
    first, second = weights(one), weights(two)
    return all(np.array_equal(first[name], second[name]) for name in first.keys() | second.keys())


def test_fine_tuning_is_deterministic_and_never_validates_below_the_probe(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    options = config(method="finetune", mixup=0.2, ema=0.9)
    curves = []
    for name in ("one", "two"):
        training.train(str(coloured), str(tmp_path / name), options)
        about = json.loads((tmp_path / name / "tagger.json").read_text())["training"]
        curves.append([{k: v for k, v in entry.items() if k != "seconds"} for entry in about["curve"]])
        assert about["candidates"]["finetune"] >= about["candidates"]["probe"]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 2
    assert same(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "plots" / "learning.png").exists()
    assert not (tmp_path / "one" / "_training.safetensors").exists()


@pytest.mark.parametrize(("options", "kept"), [({}, True), ({"freeze_norms": False}, False)])
def test_batch_norm_statistics_stay_the_backbones_unless_asked_for(
    coloured: Path, config: Any, timm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any], kept: bool,
) -> None:  # fmt: skip
    scores = iter((0.1, 0.9))  # the probe, and the epoch that is then kept
    monkeypatch.setattr(finetune.Trainer, "_validate", lambda self, net: (0.5, next(scores)))
    training.train(str(coloured), str(tmp_path / "made"), config(method="finetune", epochs=1, ema=0.0, **options))
    about = json.loads((tmp_path / "made" / "tagger.json").read_text())["training"]
    assert about["method"] == "finetune"
    assert ("--no-freeze-norms" in about["command"]) != kept
    backbone, made = weights(timm_folder), weights(tmp_path / "made")
    statistics = [name for name in backbone if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(np.array_equal(made[name], backbone[name]) for name in statistics) == kept


def start(coloured: Path, out: Path, config: TrainConfig, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tagger.cli", "train", str(coloured), "--out", str(out), *arguments(config), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if file.exists() or process.poll() is not None:
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_training_resumes_and_ends_with_the_weights_of_one_that_was_not(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    options = config(method="finetune", epochs=6, optimizer="sgd", lr=0.02)
    training.train(str(coloured), str(tmp_path / "whole"), options)
    out = tmp_path / "killed"
    process = start(coloured, out, options)
    wait_for(out / "_training.safetensors", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (out / "_training.safetensors").exists()
    assert not (out / "tagger.json").exists()
    with pytest.raises(UsageError, match="--resume"):
        training.train(str(coloured), str(out), options)
    with pytest.raises(UsageError, match=r"--lr 0\.02 -> 0\.5"):
        training.train(
            str(coloured), str(out), config(method="finetune", epochs=6, optimizer="sgd", lr=0.5), resume=True
        )
    resumed = start(coloured, out, options, "--resume")
    _, stderr = resumed.communicate()
    assert resumed.returncode == 0, stderr
    assert same(tmp_path / "whole", out)


@pytest.mark.slow
def test_ctrl_c_leaves_a_state_and_one_line(coloured: Path, config: Any, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = start(coloured, out, config(method="finetune", epochs=50, patience=50))
    wait_for(out / "_training.safetensors", process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "interrupted" in stderr.strip().splitlines()[-1]
    assert os.listdir(out) == ["_training.safetensors"]


def test_a_loss_that_is_not_a_number_stops_with_the_best_weights_so_far(
    coloured: Path, config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = finetune.Trainer._loss
    calls = []

    def breaks_later(self: Any, logits: Any, target: Any) -> Any:
        calls.append(1)
        return honest(self, logits, target) * (float("nan") if len(calls) > 5 else 1)

    monkeypatch.setattr(finetune.Trainer, "_loss", breaks_later)
    info = training.train(str(coloured), str(tmp_path / "made"), config(method="finetune", epochs=4))
    assert "not a number in epoch 2" in caplog.text
    assert info.metrics["test"]["accuracy"]["accuracy"] > 0.6
    assert all(np.isfinite(values).all() for values in weights(tmp_path / "made").values())


def test_a_loss_that_is_never_a_number_leaves_the_probe_and_valid_json(
    coloured: Path, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = finetune.Trainer._loss
    monkeypatch.setattr(finetune.Trainer, "_loss", lambda self, *given: honest(self, *given) * float("nan"))
    training.train(str(coloured), str(tmp_path / "made"), config(method="finetune", epochs=4))
    text = (tmp_path / "made" / "tagger.json").read_text()
    about = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))["training"]
    assert (about["method"], about["candidates"]["finetune"]) == ("probe", 0.0)


def test_out_of_memory_in_training_halves_the_piece_and_goes_on(
    coloured: Path, config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    honest = finetune.Trainer._loss

    def small_device(self: Any, logits: Any, target: Any) -> Any:
        if len(logits) > 4:
            raise torch.OutOfMemoryError("the device is full")
        return honest(self, logits, target)

    monkeypatch.setattr(finetune.Trainer, "_loss", small_device)
    training.train(str(coloured), str(tmp_path / "made"), config(method="finetune", epochs=1))
    assert "4 images at a time from here on" in caplog.text


@pytest.mark.parametrize(("counts", "expected"), [((96, 4), 0.95), ((96, 0), 0.95)])
def test_class_weights_do_not_draw_the_other_images_to_the_rare_label(counts: tuple[int, int], expected: float) -> None:
    truth = torch.zeros(sum(counts), 2)
    truth[: counts[0], 0], truth[counts[0] :, 1] = 1, 1
    trainer = object.__new__(finetune.Trainer)
    trainer.config, trainer.task = TrainConfig(class_weights=True), SimpleNamespace(truth=truth)
    trainer.net, trainer._weighted = torch.nn.Identity(), True
    logits = torch.tensor([[expected, 1 - expected]]).log().requires_grad_()
    trainer._loss(logits, truth[:1]).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(1, 2), atol=1e-6, rtol=0)


def test_options_of_a_training_begun_before_they_existed_had_their_defaults() -> None:
    before = dataclasses.asdict(TrainConfig(lr=0.1))
    del before["hflip"]
    assert differences(before, TrainConfig(lr=0.2, device="cpu"), ignoring=["device"]) == ["--lr 0.1 -> 0.2"]
    assert differences(before, TrainConfig(lr=0.1, hflip=0.0)) == ["--hflip 0.5 -> 0.0"]
    for augment in ("rand-mstd1-tweights", "augmix-m5-w4-d2", "original", "rand-m9-n3-mstd0.5-inc1"):
        TrainConfig(augment=augment)


def test_pictures_are_mirrored_unless_left_and_right_matter(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, :32] = 255
    Image.fromarray(pixels).save(tmp_path / "left.png")
    for hflip, mirrored in ((0.5, True), (0.0, False)):
        config = TrainConfig(hflip=hflip, augment="none", crop_scale=1.0)
        pictures = Pictures([str(tmp_path / "left.png")], Preprocessing(size=(64, 64)), config, "cpu")
        seen = torch.stack([pictures[epoch, 0] for epoch in range(20)])
        assert (seen[..., :8].mean(dim=(1, 2, 3)) < seen[..., -8:].mean(dim=(1, 2, 3))).any() == mirrored


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "randaugment"}, "timm's RandAugment as rand-m9"),
        ({"augment": "rand-m9.5"}, "timm's RandAugment"), ({"mixup": -1.0}, "--mixup must not be"),
        ({"seed": -1}, "--seed must not be"), ({"crop_scale": 0.0}, "--crop-scale must be between"),
        ({"hflip": 1.5}, "--hflip must be between"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_right_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


def test_one_label_in_train_is_an_error_that_says_so(tmp_path: Path, config: Any) -> None:
    for split, label in (("train", "good"), ("val", "good"), ("val", "bad"), ("test", "good")):
        (tmp_path / "data" / split / label).mkdir(parents=True)
        for index in range(4):
            photo(index).save(tmp_path / "data" / split / label / f"{split}{label}{index}.jpg")
    with pytest.raises(SourceError, match="training images have one label, good, of 2"):
        training.train(str(tmp_path / "data"), str(tmp_path / "made"), config())


@pytest.mark.parametrize(
    "options",
    [
        {"fit": "letterbox", "optimizer": "sgd", "schedule": "0.01x1,0.001x1"},
        {"fit": "squash", "accumulate": 2, "class_weights": True, "l1": 1e-6, "image_size": 48},
        {"batch_size": 4, "dropout": 0.1, "augment": "none", "cutmix": 0.5, "freeze_norms": False},
    ],
)
def test_every_option_trains(coloured: Path, config: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    info = training.train(str(coloured), str(tmp_path / "made"), config(method="finetune", **options))
    candidates = json.loads((tmp_path / "made" / "tagger.json").read_text())["training"]["candidates"]
    assert info.metrics["val"]["accuracy"]["accuracy"] == pytest.approx(max(candidates.values()))
    if "fit" in options:
        assert info.preprocessing.crop_mode == {"letterbox": "border", "squash": "squash"}[options["fit"]]
    if "image_size" in options:
        assert info.preprocessing.size == (48, 48)


def test_auto_keeps_the_probe_where_fine_tuning_would_take_too_long(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    lines, reports = heard()
    training.train(str(coloured), str(tmp_path / "made"), config(method="auto", budget_minutes=0.0), reports=reports)
    assert any("over --budget-minutes 0" in line for line in lines)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_images_that_do_not_decode_are_left_out_and_said(coloured: Path, config: Any, tmp_path: Path) -> None:
    (coloured / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff junk")
    (coloured / "red" / "empty.jpg").write_bytes(b"")
    lines, reports = heard()
    training.train(str(coloured), str(tmp_path / "made"), config(), reports=reports)
    assert any("left out: 2 of " in line and "broken.jpg" in line for line in lines)
    assert "left out: 2 of " in (tmp_path / "made" / "README.md").read_text()


def test_names_that_differ_in_case_alone_are_said_when_a_manifest_is_trained_on(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    paths = sorted(coloured.glob("*/*.png"))
    rows = [f"{path.relative_to(coloured)},{'Red' if path.stem == '3' else path.parent.name}" for path in paths]
    (tmp_path / "l.csv").write_text("path,label\n" + "\n".join(rows))
    tagger.ingest(str(coloured), str(tmp_path / "m.parquet"), str(tmp_path / "l.csv"))
    lines, reports = heard()
    training.train(str(tmp_path / "m.parquet"), str(tmp_path / "made"), config(), reports=reports)
    assert any("'Red' / 'red'" in line for line in lines)


def test_near_duplicates_stay_in_one_split(coloured: Path, config: Any, tmp_path: Path) -> None:
    for path in sorted((coloured / "red").glob("*.png"))[:8]:
        Image.open(path).save(coloured / "red" / f"{path.stem}-again.jpg", quality=60)
    lines, reports = heard()
    training.train(str(coloured), str(tmp_path / "made"), config(), reports=reports)
    assert any("8 groups of near-duplicates kept together" in line for line in lines)
    table = tagger.data.manifest.read_source(str(tmp_path / "made" / "dataset.parquet")).table
    split = {Path(row["uri"]).name: row["split"] for row in table.to_pylist() if "/red/" in row["uri"]}
    for path in sorted((coloured / "red").glob("*-again.jpg")):
        assert split[path.name] == split[path.name.replace("-again.jpg", ".png")]


def test_a_class_with_one_image_is_trained_on_and_said(coloured: Path, config: Any, tmp_path: Path) -> None:
    (coloured / "grey").mkdir()
    picture(7, (120, 120, 120)).save(coloured / "grey" / "only.png")
    lines, reports = heard()
    info = training.train(str(coloured), str(tmp_path / "made"), config(), reports=reports)
    assert "grey" in info.label_names
    assert any("missing in a split" in line and "grey" in line for line in lines)


def test_nothing_to_learn_is_an_error_that_says_so(coloured: Path, config: Any, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for index in range(3):
        picture(index, COLOURS["red"]).save(flat / f"{index}.png")
    with pytest.raises(SourceError, match="none of 3 images has a label"):
        training.train(str(flat), str(tmp_path / "made"), config())
    with open(tmp_path / "one.csv", "w") as file:
        file.write("file,label\n" + "".join(f"{index}.png,red\n" for index in range(3)))
    tagger.ingest(str(flat), str(tmp_path / "one.parquet"), labels=str(tmp_path / "one.csv"))
    with pytest.raises(SourceError, match="only label is 'red'"):
        training.train(str(tmp_path / "one.parquet"), str(tmp_path / "made"), config())
    assert not (tmp_path / "made").exists()


def test_a_validation_split_that_lacks_a_class_still_trains(coloured: Path, config: Any, tmp_path: Path) -> None:
    for split, names in (("train", COLOURS), ("val", ("red", "green"))):
        for name in names:
            (tmp_path / "given" / split / name).mkdir(parents=True)
            for path in sorted((coloured / name).glob("*.png"))[:: 1 if split == "train" else 3]:
                target = tmp_path / "given" / split / name / path.name
                shutil.move(path, target) if split == "val" else shutil.copy(path, target)
    for path in (tmp_path / "given" / "val").rglob("*.png"):
        (tmp_path / "given" / "train" / path.parent.name / path.name).unlink()
    info = training.train(str(tmp_path / "given"), str(tmp_path / "made"), config())
    tags = {tag["tag"]: tag for tag in info.metrics["val"]["tags"]}
    assert tags["blue"]["images"] == 0
    assert tags["blue"]["recall"] is None


def test_a_checkpoint_asked_for_labels_it_never_saw_says_which(coloured: Path, config: Any, tmp_path: Path) -> None:
    out = str(tmp_path / "made")
    training.train(str(coloured), out, config())
    (coloured / "red").rename(coloured / "crimson")
    found = training.evaluate(out, str(coloured), "all")
    assert any("crimson" in note for note in found.notes)
    assert found.evaluation.images == 48
    (coloured / "green").rename(coloured / "lime")
    (coloured / "blue").rename(coloured / "navy")
    with pytest.raises(UsageError, match="crimson, lime, navy"):
        training.evaluate(out, str(coloured), "all")


@pytest.mark.parametrize(
    ("options", "says"),
    [({"method": "magic"}, "magic"), ({"schedule": "fast"}, "0.01x10"), ({"precision_target": 1.5}, "1.5"),
     ({"epochs": 0}, "at least 1"), ({"lr": 0.0}, "above 0"), ({"dropout": 1.0}, "under 1"), ({"image_size": 8}, "16"),
     ({"method": "knn", "multilabel": True}, "one label")],
)  # fmt: skip
def test_options_that_cannot_be_right_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        TrainConfig(**options)


def test_a_hub_backbone_without_weights_names_the_cache_and_local_dir(
    coloured: Path, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tagger.errors import ModelError

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"local-dir:FOLDER"):
        training.train(str(coloured), str(tmp_path / "made"), config(backbone="timm/resnet18.a1_in1k"))


def test_fine_tuning_that_does_not_beat_the_probe_leaves_a_probe(
    coloured: Path, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter((0.9, 0.1, 0.2))
    monkeypatch.setattr(finetune.Trainer, "_validate", lambda self, net: (9.0, next(scores)))
    said: list[str] = []
    out = tmp_path / "made"
    training.train(str(coloured), str(out), config(method="finetune", epochs=2), reports=Reports(say=said.append))
    assert any("the probe is better and is kept" in line for line in said)
    about = json.loads((out / "tagger.json").read_text())["training"]
    assert about["method"] == "probe"
    assert len(about["curve"]) == 2
    assert "A linear classifier on the frozen features" in (out / "README.md").read_text()


def test_a_folder_that_holds_something_is_not_written_into(coloured: Path, config: Any, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        training.train(str(coloured), str(tmp_path / "full"), config())


# --- tuning and the command line --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tuning_goes_on_where_it_stopped_and_keeps_the_best(coloured: Path, config: Any, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    found = training.tune(str(coloured), str(out), config(method="auto"), trials=3)
    assert len(found.trials) == 3
    assert (out / "plots" / "trials.png").exists()
    assert (out / "trials.parquet").exists()
    assert "options chosen by tagger tune in" in (out / "README.md").read_text()
    assert checkpoint.describe(str(out)).model_id == found.info.model_id
    best = max(trial["value"] for trial in found.trials if trial["state"] == "complete")
    about = json.loads((out / "tagger.json").read_text())["training"]
    assert max(about["candidates"].values()) >= best - 1e-9
    assert found.trials[0]["method"] == "probe"
    assert {trial["method"] for trial in found.trials[1:]} == {"finetune"}
    again = training.tune(str(coloured), str(out), config(method="auto"), trials=3)
    assert (again.trials, again.info.model_id) == (found.trials, found.info.model_id)
    with pytest.raises(UsageError, match=r"begun with other options \(--image-size None -> 48\)"):
        training.tune(str(coloured), str(out), config(method="auto", image_size=48), trials=4)
    more = training.tune(str(coloured), str(out), config(method="auto"), trials=4)
    assert more.trials[:3] == found.trials
    assert len(more.trials) == 4


@pytest.mark.parametrize("command", ["train", "tune"])
def test_the_commands_defaults_are_the_librarys(command: str) -> None:
    import tagger.cli.train as commands

    parameters = inspect.signature(getattr(commands, command)).parameters
    shared = [field for field in dataclasses.fields(TrainConfig) if field.name in parameters]
    assert len(shared) >= 8
    for field in shared:
        assert parameters[field.name].default in (None, field.default), field.name


def test_train_and_evaluate_from_the_command_line(
    run_tagger: Run, coloured: Path, timm_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made"
    options = ["--out", out, "--backbone", f"local-dir:{timm_folder}", "--method", "probe"]
    ran = run_tagger("train", coloured, *options)
    assert ran.returncode == 0, ran.stderr
    assert "test accuracy" in ran.stdout
    assert "too few validation examples" in ran.stderr
    ran = run_tagger("evaluate", out, coloured, "--json")
    assert json.loads(ran.stdout)["accuracy"]["accuracy"] > 0.8
    ran = run_tagger("train", coloured, *options)
    assert ran.returncode == 1
    assert ran.stderr.startswith("tagger: --out")
    assert len(ran.stderr.strip().splitlines()) == 1
