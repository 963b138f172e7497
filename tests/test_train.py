"""Labels in, a checkpoint out: probe, fine-tuning, calibration, resuming, and mistakes of users."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pictures import backbone, photo, write_stripes
from PIL import Image
from processes import forked, wait_until
from safetensors.numpy import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import tagger
from tagger import checkpoint, schema
from tagger.data.pixels import FilePixels
from tagger.errors import SourceError, TableError, UsageError
from tagger.evaluation.evaluate import evaluate
from tagger.images.transforms import Preprocessing
from tagger.options import command
from tagger.tagging.config import TagConfig
from tagger.training import knn
from tagger.training.backbone import with_head
from tagger.training.config import TrainConfig, differences
from tagger.training.data import Callbacks
from tagger.training.loaders import AugmentedImages, TensorLoader
from tagger.training.methods import recipe_of
from tagger.training.recipe import SPEEDRUN, Recipe
from tagger.training.train import train
from tagger.training.trainer import Diverged, Trainer, label_weights, loss_of, make_optimizer
from tagger.training.tune import tune

Run = Callable[..., subprocess.CompletedProcess[str]]
COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}


def image_of(seed: int, colour: tuple[int, int, int], size: tuple[int, int] = (80, 60)) -> Image.Image:
    """A smooth image with a colour cast that no other seed gives."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 110, (6, 8, 3)) + np.array(colour) - 60
    return Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three class folders of 24 images each."""
    folder = tmp_path_factory.mktemp("colours")
    for number, (name, colour) in enumerate(COLOURS.items()):
        (folder / name).mkdir()
        for index in range(24):
            image_of(1000 * number + index, colour).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def coloured(colours: Path, tmp_path: Path) -> Path:
    """The three class folders, for tests that change them."""
    return Path(shutil.copytree(colours, tmp_path / "coloured"))


@pytest.fixture(scope="module")
def probe(colours: Path, timm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint trained on the three class folders."""
    out = tmp_path_factory.mktemp("probe") / "colours"
    train(str(colours), str(out), TrainConfig(backbone=f"local-dir:{timm_folder}", method="probe"))
    return out


@pytest.fixture(scope="module")
def config(timm_folder: Path) -> Callable[..., TrainConfig]:
    def make(method: str = "probe", **options: Any) -> TrainConfig:
        short = {"epochs": 2, "batch_size": 16, "lr": 3e-3} if method == "finetune" else {}
        return TrainConfig(**{"backbone": f"local-dir:{timm_folder}", "method": method, **short, **options})

    return make


def test_a_backbone_that_would_be_another_network_at_a_size_is_refused(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    tiny = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    swin = backbone(tmp_path / "swin", "swin_tiny_patch4_window7_224", 224, **tiny)
    with pytest.raises(UsageError, match="swin_tiny_patch4_window7_224 would become a different network at that size"):
        train(str(coloured), str(tmp_path / "made"), config(backbone=f"local-dir:{swin}", image_size=192))


def record() -> tuple[list[str], Callbacks]:
    lines: list[str] = []
    return lines, Callbacks(say=lines.append)


# --- probe -----------------------------------------------------------------------------------------------------------


def test_a_probe_becomes_a_checkpoint_that_tags_and_that_timm_loads(colours: Path, probe: Path, tmp_path: Path) -> None:
    import timm

    info = checkpoint.describe(str(probe))
    assert info.label_names == ("blue", "green", "red")
    assert info.metrics["test"]["accuracy"]["accuracy"] > 0.8
    card = (probe / "README.md").read_text()
    assert "tagger train" in card
    for plot in ("reliability", "precision-recall", "confusion"):
        assert f"plots/{plot}.png" in card
        Image.open(probe / "plots" / f"{plot}.png").verify()
    net = timm.create_model(f"local-dir:{probe}", pretrained=True).eval()
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    summary = tagger.tag(colours, probe, tmp_path / "results")
    assert summary.tagged == 72
    frame = tagger.read_results(str(tmp_path / "results"))
    right = (frame["uri"].str.split("/").str[-2] == frame["top_tag"]).mean()
    assert right > 0.8


def test_neighbours_by_features_are_those_a_brute_force_search_finds(
    coloured: Path, config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, data = str(tmp_path / "made"), str(coloured)
    info = train(data, out, config(method="knn"))
    chosen = info.model_args
    card = (tmp_path / "made" / "README.md").read_text()
    assert f"The {chosen['k']} nearest of {chosen['examples']} labelled images, by the frozen features of" in card
    assert "timm.create_model" not in card  # timm has no such network
    found = evaluate(out, data, "test").evaluation.accuracy
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
    known, queries = features[split == "train"], features[split == "test"]
    nearest = ((queries[:, None] - known[None]) ** 2).sum(axis=2).argsort(axis=1, kind="stable")[:, : chosen["k"]]
    names = label[split == "train"].str[0].to_numpy()[nearest]
    votes = np.stack([(names == name).sum(axis=1) for name in info.label_names], axis=1)
    given = rows["top_tag"][split == "test"].map(info.label_names.index).to_numpy()
    assert (votes[np.arange(len(votes)), given] == votes.max(axis=1)).all()


@pytest.mark.slow
def test_any_backbone_learns_at_another_image_size(
    coloured: Path, config: Any, other_backbone: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "made")
    info = train(str(coloured), out, config("finetune", backbone=f"local-dir:{other_backbone}", image_size=96))
    assert info.preprocessing.size == (96, 96)
    found = evaluate(out, str(coloured), "val").evaluation
    assert found.accuracy is not None
    assert found.accuracy.accuracy == info.metrics["val"]["accuracy"]["accuracy"]


def test_known_negatives_have_no_vote() -> None:
    features = np.array([[0, 0], [1, 1], [9, 9], [9, 8]], dtype=np.float32)
    truth = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], dtype=np.float32)
    found = knn.fit((features, truth), (features + 0.1, truth))
    assert found.labels.tolist() == [0, 1, 1]
    assert found.examples.tolist() == features[[0, 2, 3]].tolist()
    assert (found.k, found.accuracy) == (1, 1.0)
    with pytest.raises(SourceError, match="0 training and 0 held-out"):
        knn.fit((features, 0 * truth), (features, 0 * truth))


def test_evaluate_reproduces_the_numbers_of_the_card(colours: Path, probe: Path) -> None:
    metrics = checkpoint.describe(str(probe)).metrics
    for split in ("val", "test"):
        found = evaluate(str(probe), str(colours), split).evaluation
        stored = metrics[split]
        assert found.accuracy is not None
        assert found.accuracy.accuracy == stored["accuracy"]["accuracy"]
        assert found.log_loss == pytest.approx(stored["log_loss"], abs=1e-3)
        for tag, row in zip(found.tags, stored["tags"], strict=True):
            assert (tag.precision, tag.recall, tag.images) == (row["precision"], row["recall"], row["images"])
    everything = evaluate(str(probe), str(colours), "all")
    assert everything.evaluation.images == 72
    assert re.fullmatch(r"\d+ of 72 images were used in training, so the numbers are optimistic", everything.notes[-1])


def test_a_first_run_decodes_every_image_once_and_a_second_none_before_its_first_epoch(
    coloured: Path, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tagger import storage

    reads: list[str] = []
    read = storage.read_bytes
    monkeypatch.setattr(
        storage, "read_bytes", lambda uri, *rest, **more: (reads.append(uri), read(uri, *rest, **more))[1]
    )

    def images() -> list[str]:
        return [uri for uri in reads if "/coloured/" in uri]

    def run(name: str) -> dict[str, int]:
        """Train; return each line of the log with the number of images read before it."""
        reads.clear()
        log: dict[str, int] = {}
        say = Callbacks(say=lambda line: log.update({line: len(images())}))
        train(str(coloured), str(tmp_path / name), config("finetune"), callbacks=say)
        return log

    assert run("one")["72 images read and decoded, 0 cached"] == 72
    assert len(set(images())) == 72
    assert len(images()) <= 72 + 24, "only the card's grid of mistakes reads an image again"
    again = run("two")
    assert again["0 images read and decoded, 72 cached"] == 0
    assert list(again.values())[2] == 0, "the images are split without reading them"
    assert same(tmp_path / "one", tmp_path / "two")


def test_a_changed_file_is_scanned_again(coloured: Path, config: Any, tmp_path: Path) -> None:
    train(str(coloured), str(tmp_path / "one"), config())
    changed = coloured / "red" / "3.png"
    image_of(77, COLOURS["red"], (90, 70)).save(changed)
    lines, callbacks = record()
    train(str(coloured), str(tmp_path / "two"), config(), callbacks=callbacks)
    assert "1 images read and decoded, 71 cached" in lines


def test_thresholds_learnt_on_validation_decide_which_tags_are_given(
    colours: Path, probe: Path, tmp_path: Path
) -> None:
    info = checkpoint.describe(str(probe))
    bundle = json.loads((probe / "tagger.json").read_text())
    assert info.thresholds is not None
    assert info.thresholds == tuple(bundle["thresholds"][name] for name in info.label_names)
    assert {tag["status"] for tag in bundle["calibration"]["tags"]} == {"too few"}
    assert "too few" in (probe / "README.md").read_text()
    tagger.tag(colours, probe, tmp_path / "results")
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
        canvas = image_of(index, (120, 120, 120))
        for place, name in enumerate(labels):
            canvas.paste(image_of(index + 500, COLOURS[name], (40, 60)), (40 * place, 0))
        canvas.save(tmp_path / f"{index}.png")
        rows.append({"image_name": f"{index}.png", "red": int("red" in labels), "blue": int("blue" in labels)})
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    tagger.ingest(str(tmp_path), str(tmp_path / "data.parquet"), labels=str(tmp_path / "labels.csv"))
    out = tmp_path / "made"
    info = train(str(tmp_path / "data.parquet"), str(out), config(multilabel=True))
    assert info.task == "multilabel"
    assert info.metrics["test"]["mean_average_precision"] > 0.6
    assert info.metrics["val"]["negatives"] > 0
    with pytest.raises(UsageError, match="--multilabel"):
        train(str(tmp_path / "data.parquet"), str(tmp_path / "other"), config())


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
        train(str(coloured), str(tmp_path / name), options)
        about = json.loads((tmp_path / name / "tagger.json").read_text())["training"]
        curves.append([{k: v for k, v in entry.items() if k != "seconds"} for entry in about["curve"]])
        assert about["candidates"]["finetune"] >= about["candidates"]["probe"]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 2
    assert same(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "one" / "plots" / "learning.png").exists()
    assert not (tmp_path / "one" / "_training.pt").exists()


def interrupted(coloured: Path, out: Path, config: TrainConfig, by: signal.Signals) -> tuple[int | None, str]:
    """Start the command and send a signal after its first epoch; return exit code and stderr."""
    with forked(*shlex.split(command("train", str(coloured), config, out=str(out)))[1:]) as process:
        wait_until((out / "_training.pt").exists, process)
        process.send_signal(by)
        _, stderr = process.communicate()
    return process.returncode, stderr


@pytest.mark.slow
def test_a_killed_training_resumes_and_ends_with_the_weights_of_one_that_was_not(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    options = config(method="finetune", epochs=3, optimizer="sgd", lr=0.02)
    train(str(coloured), str(tmp_path / "whole"), options)
    out = tmp_path / "killed"
    code, stderr = interrupted(coloured, out, options, signal.SIGKILL)
    assert code == -signal.SIGKILL, stderr
    assert sorted(os.listdir(out)) == ["_lock", "_training.pt"]
    with pytest.raises(UsageError, match="--resume"):
        train(str(coloured), str(out), options)
    with pytest.raises(UsageError, match=r"--lr 0\.02 -> 0\.5"):
        train(str(coloured), str(out), replace(options, lr=0.5), resume=True)
    train(str(coloured), str(out), options, resume=True)
    assert same(tmp_path / "whole", out)


@pytest.mark.slow
def test_ctrl_c_leaves_a_state_and_one_line(coloured: Path, config: Any, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    code, stderr = interrupted(coloured, out, config(method="finetune", epochs=50, patience=50), signal.SIGINT)
    assert code == 130, stderr
    assert "Traceback" not in stderr
    assert "interrupted" in stderr.strip().splitlines()[-1]
    assert os.listdir(out) == ["_training.pt"]


class Breaking:
    """A loader whose images turn to NaN in its second epoch."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.count = loader, loader.count

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, number: int) -> Any:
        for x, target in self.loader.epoch(number):
            yield (x * float("nan") if number == 2 else x), target


def small_trainer(recipe: Recipe, seed: int = 0, classes: int = 2, **options: Any) -> Trainer:
    """A trainer of a small network on 32 images of two colours, validated on the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 3, 8, 8, generator=generator)
    images[::2] += 1
    targets = torch.nn.functional.one_hot(torch.arange(32) % 2, classes).float()
    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(8 * 36, classes),
    )  # fmt: skip
    loader = TensorLoader(images, targets, recipe, seed)
    return Trainer(net, loader, recipe, seed, "cpu", lambda: [(images, targets)], **options)


def test_a_loss_that_is_not_a_number_stops_and_the_best_weights_so_far_stay() -> None:
    trainer = small_trainer(Recipe(epochs=4, batch_size=16, lr=0.01, patience=4, monitor="val_score"))
    trainer.loader = Breaking(trainer.loader)  # type: ignore[assignment]
    with pytest.raises(Diverged, match="the loss of epoch 2 is not finite"):
        trainer.fit()
    trainer.load_best()
    assert all(value.isfinite().all() for value in trainer.net.state_dict().values())


def test_out_of_memory_in_training_halves_the_batch_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    trainer = small_trainer(Recipe(epochs=1, batch_size=16, lr=0.01))
    honest = trainer.net.forward

    def small_device(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 4 and trainer.net.training:
            raise torch.OutOfMemoryError("the device is full")
        return honest(x)

    trainer.forward = small_device
    trainer.fit()
    assert "training on 4 images at a time" in caplog.text


@pytest.mark.parametrize("counts", [(96, 4), (96, 0)])
def test_class_weights_do_not_draw_the_other_images_to_the_rare_label(counts: tuple[int, int]) -> None:
    truth = torch.zeros(sum(counts), 2)
    truth[: counts[0], 0], truth[counts[0] :, 1] = 1, 1
    logits = torch.tensor([[0.95, 0.05]]).log().requires_grad_()
    loss_of(logits, truth[:1], "softmax", 0.1, label_weights(truth, False)).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(1, 2), atol=1e-6, rtol=0)


def steps(recipe: Recipe, epochs: int = 1, **options: Any) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """Train a small network; return the trainer and how far every parameter moved."""
    trainer = small_trainer(recipe, **options)
    before = {name: value.detach().clone() for name, value in trainer.net.named_parameters()}
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer, {name: (value.detach() - before[name]).norm() for name, value in trainer.net.named_parameters()}


ADAM = Recipe(epochs=4, batch_size=8, optimizer="adamw", lr=1e-2, schedule="constant", decay_all=False)


class Reads(TorchDispatchMode):
    """Counts reads of a tensor's value, each of which waits for the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_does_not_wait_for_the_device() -> None:
    recipe = replace(SPEEDRUN, epochs=1, batch_size=1, freeze_after=(), translate=1, clip=1.0, ema=0.9)
    trainer = small_trainer(recipe)
    with Reads() as reads:
        trainer.run_epoch()
    assert len(trainer.loader) == 32
    assert reads.count < 8


def test_l1_makes_weights_smaller() -> None:
    plain, heavy = (steps(replace(ADAM, l1=l1), 4)[0].net[4].weight.abs().sum() for l1 in (0.0, 0.1))
    assert heavy < 0.7 * plain


def test_clip_bounds_the_gradient_of_a_step() -> None:
    sgd = Recipe(epochs=1, batch_size=32, lr=1.0, momentum="0", schedule="constant", clip=0.01)
    _, moved = steps(sgd)
    assert torch.stack(list(moved.values())).norm() == pytest.approx(0.01, rel=1e-2)


def test_warm_up_raises_the_learning_rate_and_the_cosine_lowers_it() -> None:
    recipe = Recipe(epochs=4, lr=1.0, warmup_epochs=1.0, lr_floor=0.01)
    rates = [recipe.lr_at(done) for done in (0.0, 0.125, 0.25, 0.5, 1.0)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[1] == pytest.approx(0.505)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(0.01)
    listed = replace(recipe, schedule="0.5x3,0.05x1")
    assert [listed.lr_at(done) for done in (0.0, 0.74, 0.76)] == [0.5, 0.5, 0.05]


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    plain = Recipe(epochs=1, batch_size=32, lr=0.1, momentum="0", schedule="constant", freeze_norms=True)
    one, large = steps(plain)
    two, accumulated = steps(replace(plain, batch_size=8, accumulate=4))
    for name in large:
        assert accumulated[name] == pytest.approx(float(large[name]), rel=1e-3), name
    assert len(two.loader) == 4 * len(one.loader)


def test_label_smoothing_raises_the_least_loss() -> None:
    logits, target = torch.tensor([[20.0, -20.0]]), torch.tensor([[1.0, 0.0]])
    sharp, smooth = (loss_of(logits, target, "softmax", smoothing, None) for smoothing in (0.0, 0.2))
    assert (float(sharp), float(smooth)) == (pytest.approx(0, abs=1e-6), pytest.approx(4, rel=1e-3))


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_mixing_blends_the_targets_of_two_images(option: str) -> None:
    trainer = small_trainer(replace(ADAM, batch_size=32, **{option: 1.0}))
    seen: list[torch.Tensor] = []

    def undecided(x: torch.Tensor) -> torch.Tensor:
        seen.extend((x, torch.zeros(len(x), 2, requires_grad=True)))
        return seen[1]

    trainer.forward = undecided
    trainer.run_epoch()
    mixed, logits = seen
    images, _ = next(iter(trainer.loader.epoch(1)))
    assert torch.cdist(mixed.flatten(1), images.flatten(1)).min(dim=1).values.max() > 0.1, "an image as it was"
    assert logits.grad is not None
    targets = 0.5 - len(mixed) * logits.grad
    assert ((targets > 0.01) & (targets < 0.99)).any()
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(32))


def test_an_average_of_the_weights_is_what_is_validated_and_returned() -> None:
    recipe = replace(ADAM, ema=0.999, patience=9, monitor="val_score")
    trainer, _ = steps(recipe)
    assert trainer.ema is not None
    raw = trainer.net.state_dict()["4.weight"].clone()
    trainer.load_best()
    torch.testing.assert_close(trainer.net.state_dict()["4.weight"], trainer.ema.module.state_dict()["4.weight"])
    assert not torch.equal(trainer.net.state_dict()["4.weight"], raw)


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norm_statistics_are_kept_when_they_are_frozen(frozen: bool) -> None:
    trainer, _ = steps(replace(ADAM, freeze_norms=frozen))
    assert torch.equal(trainer.net[1].running_mean, torch.zeros(8)) == frozen  # type: ignore[index]


def test_layer_decay_slows_the_layers_near_the_input(timm_folder: Path) -> None:
    info = checkpoint.describe(f"local-dir:{timm_folder}")
    rates = {}
    for decay in (1.0, 0.5):
        optimizer = make_optimizer(checkpoint.build(info), replace(ADAM, layer_decay=decay))
        scales = [group.get("lr_scale", 1.0) for group in optimizer.param_groups]
        rates[decay] = (min(scales), max(scales))
    assert rates[1.0] == (1.0, 1.0)
    assert rates[0.5][0] < 0.2
    assert rates[0.5][1] == 1.0


def test_dropout_and_stochastic_depth_reach_the_network(config: Any) -> None:
    backbone = checkpoint.describe(config().backbone)
    plain = with_head(backbone, 3, config()).net
    dropped = with_head(backbone, 3, config("finetune", dropout=0.4, drop_path=0.3)).net
    assert dropped.drop_rate == 0.4  # type: ignore[comparison-overlap]
    paths = [
        sum("drop_path" in name for name, _ in net.named_modules() if "Identity" not in type(_).__name__)
        for net in (plain, dropped)
    ]
    assert paths[1] > paths[0]


def test_an_optimizer_of_ones_own_choice_is_used() -> None:
    assert isinstance(make_optimizer(torch.nn.Linear(2, 2), replace(ADAM, weight_decay=0.1)), torch.optim.AdamW)
    sgd = make_optimizer(torch.nn.Linear(2, 2), Recipe(epochs=1, momentum="0.7", nesterov=True, weight_decay=0.1))
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.param_groups[0]["momentum"], sgd.param_groups[0]["nesterov"]) == (0.7, True)


def test_options_of_a_training_begun_before_they_existed_had_their_defaults() -> None:
    before = dataclasses.asdict(TrainConfig(lr=0.1))
    del before["hflip"]
    assert differences(before, TrainConfig(lr=0.2, device="cpu"), ignoring=["device"]) == ["--lr 0.1 -> 0.2"]
    assert differences(before, TrainConfig(lr=0.1, hflip=0.0)) == ["--hflip 0.5 -> 0.0"]
    for augment in ("rand-mstd1-tweights", "augmix-m5-w4-d2", "original", "rand-m9-n3-mstd0.5-inc1"):
        TrainConfig(augment=augment)


def augmented(folder: Path, **options: Any) -> torch.Tensor:
    """Twenty epochs of one image whose left half is white, (20, H, W, 3)."""
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[:, :32] = 255
    Image.fromarray(pixels).save(folder / "left.png")
    preprocessing = Preprocessing(size=(64, 64))
    pixels = FilePixels([str(folder / "left.png")], preprocessing)
    chosen = {"augment": "none", "crop_scale": 1.0, "hflip": 0.0} | options
    loader = AugmentedImages(pixels, np.array([0]), preprocessing, TrainConfig(**chosen))
    return torch.stack([loader[epoch, 0] for epoch in range(20)]).float()


@pytest.mark.parametrize(("hflip", "flipped"), [(0.5, True), (0.0, False)])
def test_images_are_mirrored_unless_left_and_right_matter(tmp_path: Path, hflip: float, flipped: bool) -> None:
    seen = augmented(tmp_path, hflip=hflip)
    assert (seen[:, :, :8].mean(dim=(1, 2, 3)) < seen[:, :, -8:].mean(dim=(1, 2, 3))).any() == flipped


def test_crop_scale_and_augment_change_the_images(tmp_path: Path) -> None:
    whole, cropped = augmented(tmp_path), augmented(tmp_path, crop_scale=0.2)
    assert cropped.mean(dim=(1, 2, 3)).std() > 4 * whole.mean(dim=(1, 2, 3)).std()
    assert len(augmented(tmp_path, augment="rand-m9-mstd0.5").unique()) > 3 * len(whole.unique())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "randaugment"}, "one of timm's policies, such as rand-m9"),
        ({"augment": "rand-m9.5"}, "one of timm's policies"), ({"mixup": -1.0}, "--mixup must be at least 0, got -1.0"),
        ({"seed": -1}, "--seed must be at least 0"), ({"crop_scale": 0.0}, "--crop-scale must be above 0 and at most"),
        ({"hflip": 1.5}, "--hflip must be at least 0 and at most 1"),
        ({"method": "magic"}, "magic"), ({"schedule": "fast"}, "0.01x10"), ({"precision_target": 1.5}, "1.5"),
        ({"epochs": 0}, "at least 1"), ({"lr": 0.0}, "above 0"), ({"dropout": 1.0}, "below 1"),
        ({"image_size": 8}, "16"),
        ({"method": "probe", "lr": 1e-3}, "--lr has no effect with --method probe: omit it, or use --method auto or "
         "--method finetune"),
        ({"method": "knn", "epochs": 3}, "--epochs has no effect with --method knn: omit it, or use --method auto or "),
        ({"method": "knn", "multilabel": True}, "--multilabel has no effect with --method knn"),
        ({"method": "scratch", "fit": "squash"}, "--fit has no effect with --method scratch"),
        ({"method": "finetune", "budget_minutes": 1.0}, "--budget-minutes has no effect with --method finetune"),
        ({"momentum": 0.5}, "--momentum has no effect with --optimizer adamw: omit it, or use --optimizer sgd"),
        ({"label_smoothing": 0.2, "multilabel": True}, "--label-smoothing has no effect with --multilabel: omit it, or "
         "use --no-multilabel"),
        ({"epochs": 3, "schedule": "0.1x3"}, "--epochs has no effect with --schedule 0.1x3"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        TrainConfig(**options)


def test_every_option_of_a_training_reaches_its_recipe() -> None:
    """An option that is declared in TrainConfig and in Recipe needs no further line."""
    given = TrainConfig("local-dir:x", "finetune", weight_decay=0.3, clip=0.2, accumulate=3, ema=0.7, patience=4)
    recipe = recipe_of(given)
    assert (recipe.weight_decay, recipe.clip, recipe.accumulate, recipe.ema, recipe.patience) == (0.3, 0.2, 3, 0.7, 4)
    shared = {field.name for field in dataclasses.fields(Recipe)} & vars(given).keys()
    derived = {"epochs", "batch_size", "momentum", "label_smoothing"}
    assert all(getattr(recipe, name) == getattr(given, name) for name in shared - derived)


def test_one_label_in_train_is_an_error_that_says_so(tmp_path: Path, config: Any) -> None:
    for split, label in (("train", "good"), ("val", "good"), ("val", "bad"), ("test", "good")):
        (tmp_path / "data" / split / label).mkdir(parents=True)
        for index in range(4):
            photo(index).save(tmp_path / "data" / split / label / f"{split}{label}{index}.jpg")
    with pytest.raises(SourceError, match=r"training images have 1 of 2 labels \(good\)"):
        train(str(tmp_path / "data"), str(tmp_path / "made"), config())


@pytest.mark.parametrize(("fit", "mode"), [("crop", "center"), ("letterbox", "border"), ("squash", "squash")])
def test_fit_is_the_crop_mode_of_timm(config: Any, fit: str, mode: str) -> None:
    assert config(fit=fit).preprocessing(Preprocessing()).crop_mode == mode


def test_fit_and_image_size_go_into_the_checkpoint(colours: Path, config: Any, tmp_path: Path) -> None:
    info = train(str(colours), str(tmp_path / "made"), config(fit="squash", image_size=48))
    assert (info.preprocessing.crop_mode, info.preprocessing.size) == ("squash", (48, 48))


def test_auto_keeps_the_probe_where_fine_tuning_would_take_too_long(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    lines, callbacks = record()
    train(str(coloured), str(tmp_path / "made"), config(method="auto", budget_minutes=0.0), callbacks=callbacks)
    assert any("over --budget-minutes 0" in line for line in lines)


# --- bad input --------------------------------------------------------------------------------------------------------


def test_images_that_do_not_decode_are_left_out_and_said(coloured: Path, config: Any, tmp_path: Path) -> None:
    (coloured / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff junk")
    (coloured / "red" / "empty.jpg").write_bytes(b"")
    lines, callbacks = record()
    train(str(coloured), str(tmp_path / "made"), config(), callbacks=callbacks)
    assert any("left out: 2 of " in line and "broken.jpg" in line for line in lines), lines
    assert "left out: 2 of " in (tmp_path / "made" / "README.md").read_text()


def test_names_that_differ_in_case_alone_are_said_when_a_manifest_is_trained_on(
    coloured: Path, config: Any, tmp_path: Path
) -> None:
    paths = sorted(coloured.glob("*/*.png"))
    rows = [f"{path.relative_to(coloured)},{'Red' if path.stem == '3' else path.parent.name}" for path in paths]
    (tmp_path / "l.csv").write_text("path,label\n" + "\n".join(rows))
    tagger.ingest(str(coloured), str(tmp_path / "m.parquet"), str(tmp_path / "l.csv"))
    lines, callbacks = record()
    train(str(tmp_path / "m.parquet"), str(tmp_path / "made"), config(), callbacks=callbacks)
    assert any("'Red' / 'red'" in line for line in lines)


def test_near_duplicates_stay_in_one_split(coloured: Path, config: Any, tmp_path: Path) -> None:
    for path in sorted((coloured / "red").glob("*.png"))[:8]:
        Image.open(path).save(coloured / "red" / f"{path.stem}-again.jpg", quality=60)
    lines, callbacks = record()
    train(str(coloured), str(tmp_path / "made"), config(), callbacks=callbacks)
    assert any("8 groups of near-duplicates assigned to one split each" in line for line in lines)
    table = tagger.data.manifest.read_source(str(tmp_path / "made" / "dataset.parquet")).table
    split = {Path(row["uri"]).name: row["split"] for row in table.to_pylist() if "/red/" in row["uri"]}
    for path in sorted((coloured / "red").glob("*-again.jpg")):
        assert split[path.name] == split[path.name.replace("-again.jpg", ".png")]


def test_a_class_with_one_image_is_trained_on_and_said(coloured: Path, config: Any, tmp_path: Path) -> None:
    (coloured / "grey").mkdir()
    image_of(7, (120, 120, 120)).save(coloured / "grey" / "only.png")
    lines, callbacks = record()
    info = train(str(coloured), str(tmp_path / "made"), config(), callbacks=callbacks)
    assert "grey" in info.label_names
    assert any("missing in a split" in line and "grey" in line for line in lines)


def test_nothing_to_learn_is_an_error_that_says_so(coloured: Path, config: Any, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for index in range(3):
        image_of(index, COLOURS["red"]).save(flat / f"{index}.png")
    with pytest.raises(SourceError, match="none of 3 images has a label"):
        train(str(flat), str(tmp_path / "made"), config())
    decided = tmp_path / "labels.parquet"
    decided.write_bytes(schema.serialise(schema.LABELS.empty_table(), "labels"))
    with pytest.raises(TableError, match=r"labels\.parquet: .* a tagger labels table .*; pass it as --labels"):
        train(str(decided), str(tmp_path / "made"), config())
    with open(tmp_path / "one.csv", "w") as file:
        file.write("file,label\n" + "".join(f"{index}.png,red\n" for index in range(3)))
    tagger.ingest(str(flat), str(tmp_path / "one.parquet"), labels=str(tmp_path / "one.csv"))
    with pytest.raises(SourceError, match="only label is 'red'"):
        train(str(tmp_path / "one.parquet"), str(tmp_path / "made"), config())
    assert not (tmp_path / "made").exists()


def test_a_validation_split_that_lacks_a_class_still_trains(config: Any, tmp_path: Path) -> None:
    for first, split, names in ((0, "train", COLOURS), (500, "val", ("red", "green"))):
        for number, name in enumerate(names):
            (tmp_path / "given" / split / name).mkdir(parents=True)
            for index in range(first, first + 8):
                image = image_of(1000 * number + index, COLOURS[name])
                image.save(tmp_path / "given" / split / name / f"{name}{index}.png")
    info = train(str(tmp_path / "given"), str(tmp_path / "made"), config())
    tags = {tag["tag"]: tag for tag in info.metrics["val"]["tags"]}
    assert tags["blue"]["images"] == 0
    assert tags["blue"]["recall"] is None


def test_labels_that_a_checkpoint_never_saw_are_named(coloured: Path, probe: Path) -> None:
    out = str(probe)
    (coloured / "red").rename(coloured / "crimson")
    found = evaluate(out, str(coloured), "all")
    assert any("crimson" in note for note in found.notes)
    assert found.evaluation.images == 48
    (coloured / "green").rename(coloured / "lime")
    (coloured / "blue").rename(coloured / "navy")
    with pytest.raises(UsageError, match="crimson, lime, navy"):
        evaluate(out, str(coloured), "all")


def test_a_hub_backbone_without_weights_names_the_cache_and_local_dir(
    coloured: Path, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tagger.errors import ModelError

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"local-dir:FOLDER"):
        train(str(coloured), str(tmp_path / "made"), config(backbone="timm/resnet18.a1_in1k"))


def test_fine_tuning_that_does_not_beat_the_probe_leaves_a_probe(coloured: Path, config: Any, tmp_path: Path) -> None:
    lines, callbacks = record()
    out = tmp_path / "made"
    train(str(coloured), str(out), config(method="finetune", epochs=2, lr=1e-9, ema=0.0), callbacks=callbacks)
    assert any("the probe is better and is saved" in line for line in lines)
    about = json.loads((out / "tagger.json").read_text())["training"]
    assert about["method"] == "probe"
    assert len(about["curve"]) == 2
    assert "A linear classifier on the frozen features" in (out / "README.md").read_text()


def test_a_folder_that_holds_something_is_not_written_into(coloured: Path, config: Any, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.txt"):
        train(str(coloured), str(tmp_path / "full"), config())


def test_two_trainings_do_not_write_into_one_folder(
    run_tagger: Run, coloured: Path, config: Any, tmp_path: Path
) -> None:
    out, second = tmp_path / "out", list[str]()

    def start_another(line: str) -> None:
        if not second:
            second.append(run_tagger("train", coloured, "--out", out).stderr)

    train(str(coloured), str(out), config(), callbacks=Callbacks(say=start_another))
    assert "another process is writing to this folder" in second[0]
    assert len(second[0].splitlines()) == 1
    assert "_lock" not in os.listdir(out)


# --- tuning and the command line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "finetune", "lr": 0.1},
            "tagger tune searches --method, --lr itself; omit it, or use `tagger train`",
        ),
        ({"method": "auto", "budget_minutes": 1.0}, "tagger tune does not use --budget-minutes; omit it"),
    ],
)
def test_options_that_a_search_chooses_itself_or_does_not_use_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        tune("data", str(tmp_path / "tuned"), TrainConfig(**options))
    assert not (tmp_path / "tuned").exists()


@pytest.mark.slow
def test_tuning_goes_on_where_it_stopped_and_keeps_the_best(coloured: Path, config: Any, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    found = tune(str(coloured), str(out), config("auto", epochs=1, batch_size=16), trials=3)
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
    again = tune(str(coloured), str(out), config("auto", epochs=1, batch_size=16), trials=3)
    assert (again.trials, again.info.model_id) == (found.trials, found.info.model_id)
    with pytest.raises(UsageError, match=r"started with other options \(--image-size None -> 48\)"):
        tune(str(coloured), str(out), config("auto", epochs=1, batch_size=16, image_size=48), trials=4)
    more = tune(str(coloured), str(out), config("auto", epochs=1, batch_size=16), trials=4)
    assert more.trials[:3] == found.trials
    assert len(more.trials) == 4


def test_train_and_evaluate_from_the_command_line(
    run_tagger: Run, coloured: Path, timm_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made"
    options = ["--out", out, "--backbone", f"local-dir:{timm_folder}", "--method", "probe"]
    ran = run_tagger("train", coloured, *options)
    assert ran.returncode == 0, ran.stderr
    assert "test accuracy" in ran.stdout
    assert "too few validation images" in ran.stderr
    ran = run_tagger("evaluate", out, coloured, "--json")
    assert json.loads(ran.stdout)["accuracy"]["accuracy"] > 0.8
    ran = run_tagger("train", coloured, *options)
    assert ran.returncode == 1
    assert ran.stderr.startswith("tagger: --out")
    assert len(ran.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_without_a_hub_the_backbone_is_imagenet_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    checkpoint.default_backbone.cache_clear()
    write_stripes(tmp_path / "data", 12)
    info = train(str(tmp_path / "data"), str(tmp_path / "out"), TrainConfig(method="probe"))
    assert info.architecture == "tf_efficientnet_lite0"
    bundle = json.loads((tmp_path / "out" / "tagger.json").read_text())
    assert bundle["training"]["backbone"] == "imagenet"
    assert caplog.text.count("using the backbone imagenet") == 1
