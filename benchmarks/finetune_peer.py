"""`tagger train --method finetune` against a plain timm training loop: same split, backbone, epochs and image size.

    python -m benchmarks.finetune_peer DATASET [--backbone imagenet] [--epochs 6] [--image-size 128] [--seeds 0 1 2]
        [--runs RUNS.jsonl]

The plain loop: timm's network with a new head, AdamW, a cosine schedule with one epoch of warm-up, RandAugment, label
smoothing. In both cases, the best epoch on validation is tested once. Minutes are CPU time of all cores; for tagger
they include scan and report, unless the scan is cached. Each finished run is appended to RUNS and not repeated. Prints
one Markdown table of all runs, including a linear probe: means over the seeds, with the lowest and highest.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import tagger
from benchmarks import machine
from tagger import hardware, storage
from tagger.checkpoint import packaged
from tagger.data.dataset import DATASET, read_dataset
from tagger.training import train

LR, WEIGHT_DECAY, SMOOTHING, BATCH_SIZE, AUGMENT = 5e-4, 0.05, 0.1, 32, "rand-m9-mstd0.5"


@dataclass(frozen=True)
class Task:
    """Options shared by both trainings."""

    dataset: str
    backbone: str
    epochs: int
    image_size: int
    seed: int


@dataclass(frozen=True)
class Result:
    """Accuracies of one training."""

    val: float
    test: float
    minutes: float


class Images(Dataset[tuple[Tensor, int]]):
    """Labelled images of one split, decoded at every access."""

    def __init__(self, checkpoint: Path, split: str, **transform: Any) -> None:
        found = read_dataset(str(checkpoint / DATASET), multilabel=False)
        rows = np.flatnonzero(found.split(split))
        self.files = [storage.local_path(found.locations[row]) for row in rows]
        self.labels = found.truth[rows].argmax(axis=1)
        self.transform = create_transform(**transform)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Return a transformed image and its class."""
        return self.transform(Image.open(self.files[row]).convert("RGB")), int(self.labels[row])


def main() -> None:
    """Parse the arguments, train the missing runs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--backbone", default="imagenet", choices=sorted(packaged.PACKAGED))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("finetune-peer.jsonl"))
    options = vars(parser.parse_args())
    runs, seeds = options.pop("runs"), options.pop("seeds")
    torch.set_num_threads(hardware.cores())
    for seed in seeds:
        measure(Task(**options, seed=seed), runs)
    print(f"{machine.describe()}\n\n{table(read(runs))}")


def measure(task: Task, runs: Path) -> None:
    """Train with every method that is not in RUNS; the plain loop uses the splits of the probe's checkpoint."""
    done = {run["method"] for run in read(runs) if run["task"] == asdict(task)}
    with tempfile.TemporaryDirectory() as folder:
        probed, tuned = Path(folder) / "probe", Path(folder) / "finetune"
        methods: dict[str, Callable[[], tuple[float, float]]] = {
            "probe": lambda: ours(task, probed, method="probe"),
            "fine-tuning": lambda: ours(task, tuned, method="finetune", epochs=task.epochs),
            "timm loop": lambda: plain(task, probed),
        }
        for method, fit in methods.items():
            if method in done and method != "probe":
                continue
            started = time.process_time()
            val, test = fit()
            result = Result(val, test, minutes=(time.process_time() - started) / 60)
            if method not in done:
                run = {"method": method, "task": asdict(task), "result": asdict(result)}
                with runs.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(run) + "\n")


def ours(task: Task, out: Path, **options: Any) -> tuple[float, float]:
    """Train with `tagger train`; return the accuracy on validation and test."""
    config = tagger.TrainConfig(backbone=task.backbone, image_size=task.image_size, seed=task.seed, **options)
    metrics = train.train(task.dataset, out, config).metrics
    val, test = (float(metrics[split]["accuracy"]["accuracy"]) for split in ("val", "test"))
    return val, test


def plain(task: Task, checkpoint: Path) -> tuple[float, float]:
    """Train with the plain loop; return the accuracy on validation and test at its best epoch on validation."""
    torch.manual_seed(task.seed)
    classes = len(read_dataset(str(checkpoint / DATASET), multilabel=False).label_names)
    folder = storage.local_path(packaged.folder(task.backbone))
    net = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=classes)
    net.to(memory_format=torch.channels_last)
    data = resolve_model_data_config(net) | {"input_size": (3, task.image_size, task.image_size)}
    evaluated = {name: Images(checkpoint, name, **data) for name in ("val", "test")}
    training = Images(checkpoint, "train", **data, is_training=True, auto_augment=AUGMENT)
    best, weights = 0.0, net.state_dict()
    for trained in epochs(net, training, task.epochs):
        accuracy = accuracy_of(trained, evaluated["val"])
        if accuracy > best:
            best, weights = accuracy, copy.deepcopy(trained.state_dict())
    net.load_state_dict(weights)
    return best, accuracy_of(net, evaluated["test"])


def epochs(net: nn.Module, images: Images, count: int) -> Iterator[nn.Module]:
    """Train; yield the network after every epoch."""
    loader = DataLoader(images, BATCH_SIZE, shuffle=True)
    optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=WEIGHT_DECAY)
    steps = len(loader)
    schedule = CosineLRScheduler(
        optimizer, steps * count, warmup_t=steps, warmup_lr_init=LR / 100, warmup_prefix=False, t_in_epochs=False
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    for epoch in range(count):
        net.train()
        for step, (x, target) in enumerate(loader, epoch * steps):
            schedule.step_update(step)
            optimizer.zero_grad()
            criterion(net(x.contiguous(memory_format=torch.channels_last)), target).backward()
            optimizer.step()
        yield net


@torch.inference_mode()
def accuracy_of(net: nn.Module, images: Images) -> float:
    """Return the accuracy on a split."""
    net.eval()
    hits = [net(x).argmax(1) == target for x, target in DataLoader(images, 64)]
    return torch.cat(hits).float().mean().item()


def read(runs: Path) -> list[dict[str, Any]]:
    """Return the runs in a file; an empty list if the file does not exist."""
    return [json.loads(line) for line in runs.read_text().splitlines()] if runs.exists() else []


def table(runs: list[dict[str, Any]]) -> str:
    """Return the runs as a Markdown table, one row per dataset, backbone and method."""
    groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for run in runs:
        task = run["task"]
        shared = (Path(task["dataset"]).name, task["backbone"], f"{task['image_size']} px", f"{task['epochs']} epochs")
        groups.setdefault((", ".join(shared), run["method"]), []).append(run["result"])
    lines = ["| | | seeds | validation | test | minutes of processor |", "|---|---|--:|--:|--:|--:|"]
    for (name, method), found in sorted(groups.items()):
        val, test = (spread([result[split] for result in found]) for split in ("val", "test"))
        minutes = np.mean([result["minutes"] for result in found])
        lines.append(f"| {name} | {method} | {len(found)} | {val} | {test} | {minutes:.1f} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Return a mean with the lowest and highest value."""
    return f"{np.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"


if __name__ == "__main__":
    main()
