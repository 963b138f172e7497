"""Training in several processes gives the result of one; a lost process ends all; images are shared with workers."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import write_stripes
from processes import TIMEOUT, started, wait_until

from tagger.data.pixels import FilePixels
from tagger.errors import UsageError
from tagger.images.transforms import Preprocessing
from tagger.options import command
from tagger.training import launch
from tagger.training.config import TrainConfig
from tagger.training.data import Callbacks
from tagger.training.distributed import Group
from tagger.training.launch import Job
from tagger.training.loaders import AugmentedImages, ImageLoader, Normaliser, TensorLoader
from tagger.training.recipe import Recipe
from tagger.training.resume import State
from tagger.training.shared import SharedArrays, share_pixels
from tagger.training.train import train
from tagger.training.trainer import Trainer

RECIPE = Recipe(epochs=3, batch_size=8, lr=0.02, schedule="constant", freeze_norms=True, flip="random", loss="softmax")


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three class folders of 24 images each."""
    folder = tmp_path_factory.mktemp("stripes") / "images"
    write_stripes(folder, 24)
    return folder


@pytest.fixture(scope="module")
def options(timm_folder: Path) -> TrainConfig:
    return TrainConfig(
        backbone=f"local-dir:{timm_folder}",
        method="finetune",
        epochs=2,
        batch_size=16,
        lr=3e-3,
        mixup=0.2,
        device="cpu",
    )


def words(config: TrainConfig, stripes: Path, out: Path) -> list[str]:
    """Return the arguments of the command."""
    return command("train", str(stripes), config, out=str(out)).split()[1:]


def curve(folder: Path) -> list[tuple[float, ...]]:
    epochs = json.loads((folder / "tagger.json").read_text())["training"]["curve"]
    return [(epoch["train_loss"], epoch["val_loss"], epoch["val_score"]) for epoch in epochs]


@pytest.fixture(scope="module")
def alone(stripes: Path, options: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, ...]]:
    """The learning curve of one process."""
    folder = tmp_path_factory.mktemp("alone") / "made"
    train(stripes, folder, options)
    return curve(folder)


@pytest.mark.parametrize(("count", "size"), [(16, 2), (17, 2), (32, 3), (3, 2), (1, 4)])
def test_processes_share_a_batch_and_every_image_counts_once(count: int, size: int) -> None:
    groups = [Group(rank, size) for rank in range(size)]
    weights = np.zeros(count)
    for group in groups:
        np.add.at(weights, group.rows(count), group.weight(count))
        if count % 2 == 0:
            assert {count - 1 - row for row in group.rows(count)} == set(group.rows(count)), "mixup blends these"
    assert weights == pytest.approx(1)


def test_two_processes_have_the_loss_curve_of_one(
    stripes: Path, options: TrainConfig, alone: list[tuple[float, ...]], tmp_path: Path
) -> None:
    epochs: list[str] = []
    callbacks = Callbacks(on_epoch=lambda epoch: epochs.append(epoch.text()))
    train(stripes, tmp_path / "two", replace(options, gpus=2), callbacks=callbacks)
    assert np.array(curve(tmp_path / "two")) == pytest.approx(np.array(alone), abs=1e-4)
    assert len(epochs) == 2
    assert "--gpus 2" in (tmp_path / "two" / "README.md").read_text()


@pytest.mark.slow
def test_torchrun_has_the_loss_curve_of_one_process(
    stripes: Path, options: TrainConfig, alone: list[tuple[float, ...]], tmp_path: Path
) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tagger.cli"]
    ran = subprocess.run(
        [*torchrun, *words(options, stripes, tmp_path / "two")], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("epoch 1/2: ") == 1
    assert np.array(curve(tmp_path / "two")) == pytest.approx(np.array(alone), abs=1e-4)


def children(pid: int) -> list[int]:
    """Return the processes that train: the children of a server that forks them."""

    def below(parent: int, name: str) -> list[int]:
        listed = subprocess.run(["pgrep", "-P", str(parent), "-f", name], capture_output=True, text=True, check=False)
        return [int(each) for each in listed.stdout.split()]

    return below(below(pid, "forkserver")[0], "forkserver")


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and pgrep")
def test_a_lost_process_ends_the_training_with_one_line_and_it_resumes(
    stripes: Path, options: TrainConfig, tmp_path: Path
) -> None:
    out, longer = tmp_path / "two", replace(options, gpus=2, epochs=40, patience=40)
    with started("tagger.cli", *words(longer, stripes, out)) as process:
        wait_until((out / "_training.pt").exists, process)
        lost = time.monotonic()
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert time.monotonic() - lost < 30
    assert "epoch 1/40: " in stderr
    assert stderr.splitlines()[-1].startswith("tagger: training in several processes stopped: process ")
    assert "was ended by SIGKILL; run the command again with --resume" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr

    with started("tagger.cli", *words(longer, stripes, out), "--resume") as process:
        assert process.stderr is not None
        first = next(line for line in process.stderr if line.startswith("epoch "))
        assert not first.startswith("epoch 1/")
        ranks = children(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + TIMEOUT
        while any(map(runs, ranks)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert ranks
        assert not any(map(runs, ranks)), "they outlive the command that started them"


@pytest.mark.parametrize(("gradients", "gpus"), [("local", 2), ("exact", 1)])
def test_a_training_of_two_processes_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, gradients: str, gpus: int
) -> None:
    def interrupt(epoch: Any) -> None:
        raise KeyboardInterrupt

    job = Job(partial(small_trainer, RECIPE), "cpu", 2, gradients)
    whole = launch.fit(replace(job, gpus=gpus))
    saved = replace(job, state=State(str(tmp_path / "state.pt"), {}))
    with pytest.raises(KeyboardInterrupt):
        launch.fit(saved, interrupt)
    seen: list[int] = []
    resumed = launch.fit(replace(saved, gpus=gpus), lambda epoch: seen.append(epoch.epoch))
    assert 1 not in seen
    for name, value in whole.weights.items():
        torch.testing.assert_close(value, resumed.weights[name], atol=1e-4, rtol=1e-3)


def small_trainer(recipe: Recipe, processes: Group) -> Trainer:
    """A trainer of a small network on 60 images of two brightnesses."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    images = torch.randn(60, 3, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1)
    targets = torch.nn.functional.one_hot(labels, 2).float()
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(32 * 36, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2),
    )  # fmt: skip
    loader = TensorLoader(images, targets, recipe, 0, processes=processes)
    return Trainer(net, loader, recipe, 0, "cpu", lambda: [(images, targets)], processes=processes)


@pytest.mark.parametrize("gradients", ["powersgd", "local"])
def test_compressed_gradients_and_local_steps_learn_what_exact_gradients_do(gradients: str) -> None:
    make = partial(small_trainer, RECIPE)
    exact, found = launch.fit(Job(make, "cpu")), launch.fit(Job(make, "cpu", 2, gradients))
    assert found.curve[0].train_loss == pytest.approx(exact.curve[0].train_loss, abs=1e-4), "the warm-up is exact"
    assert found.curve[-1].train_loss != pytest.approx(exact.curve[-1].train_loss, abs=1e-6)
    assert found.curve[-1].train_loss == pytest.approx(exact.curve[-1].train_loss, abs=0.1)
    assert found.curve[-1].val_score == pytest.approx(exact.curve[-1].val_score, abs=0.05)


def test_accumulated_batches_penalties_and_clipping_are_those_of_one_process() -> None:
    make = partial(small_trainer, replace(RECIPE, accumulate=3, l1=1e-3, clip=0.5, ema=0.9, batch_size=4))
    exact, found = launch.fit(Job(make, "cpu")), launch.fit(Job(make, "cpu", 2))
    for name, value in exact.weights.items():
        torch.testing.assert_close(value, found.weights[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 4, "batch_size": 6}, r"--batch-size 6: --gpus 4 needs at least 8"),
        ({"gpus": 2, "method": "probe"}, "--gpus has no effect with --method probe"),
        ({"gradients": "local"}, "--gradients has no effect with --gpus 1: omit it, or use --gpus 2 or more"),
    ],
)
def test_options_for_several_gpus_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)


def test_more_gpus_than_the_machine_has_are_refused_with_their_number(stripes: Path, tmp_path: Path) -> None:
    have = torch.cuda.device_count()
    with pytest.raises(UsageError, match=rf"--gpus {have + 3}: torch finds {have} GPUs? on this machine"):
        train(stripes, tmp_path / "made", TrainConfig(gpus=have + 3))
    assert not (tmp_path / "made").exists()


# --- workers ---------------------------------------------------------------------------------------------------------


def image_loader(files: list[str], workers: int, batch_size: int = 16) -> ImageLoader:
    """A loader of images of which some are decoded already."""
    preprocessing, rows = Preprocessing(size=(32, 32)), np.arange(len(files))
    pixels = FilePixels(files, preprocessing)
    for row in rows[:60]:
        pixels.training_image(int(row))
    images = AugmentedImages(pixels, rows, preprocessing, TrainConfig(seed=3))
    return ImageLoader(images, torch.eye(len(files)), batch_size, Normaliser(preprocessing, "cpu"), workers)


@pytest.fixture
def loader(stripes: Path) -> Callable[..., ImageLoader]:
    return partial(image_loader, sorted(map(str, stripes.rglob("*.png"))))


def hold_workers(files: list[str], sender: Connection) -> None:
    """Start workers, send their process numbers, and wait to be killed."""
    batches = image_loader(files, 2).epoch(1)
    next(batches)
    sender.send([child.pid for child in multiprocessing.active_children()])
    time.sleep(TIMEOUT)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_workers_end_with_a_process_that_is_killed(stripes: Path) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=hold_workers, args=(sorted(map(str, stripes.rglob("*.png"))), sender))
    process.start()
    assert receiver.poll(TIMEOUT)
    workers = receiver.recv()
    process.kill()
    deadline = time.monotonic() + 30
    while any(map(runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2
    assert not any(map(runs, workers))


def test_workers_give_the_batches_of_one_process_bit_for_bit(loader: Callable[..., ImageLoader]) -> None:
    here, workers = loader(0), loader(2)
    for number in (1, 2):
        for (x, target), (other, same) in zip(here.epoch(number), workers.epoch(number), strict=True):
            assert torch.equal(x, other)
            assert torch.equal(target, same)


def test_images_are_prepared_here_where_shared_memory_is_too_small(
    loader: Callable[..., ImageLoader], caplog: pytest.LogCaptureFixture
) -> None:
    huge = loader(2, batch_size=10**12)
    assert "is too small for the images" in caplog.text
    ((x, _),) = huge.epoch(1)
    assert len(x) == 72


def test_shared_images_are_sent_as_a_handle_and_are_the_same(stripes: Path) -> None:
    from multiprocessing.reduction import ForkingPickler

    files = sorted(map(str, stripes.rglob("*.png")))
    pixels = FilePixels(files, Preprocessing(size=(32, 32)))
    images = [pixels.training_image(row).copy() for row in range(len(files))]
    shared = share_pixels(pixels)
    assert isinstance(shared, FilePixels)
    assert isinstance(shared.training, SharedArrays)
    assert share_pixels(shared).training is shared.training  # type: ignore[union-attr]
    for row, image in enumerate(images):
        np.testing.assert_array_equal(shared.training_image(row), image)
    sent = len(ForkingPickler.dumps(shared.training))
    assert sent < sum(image.nbytes for image in images) / 10
