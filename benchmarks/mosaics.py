"""One multilabel probe against independent probes of one tag each.

    python -m benchmarks.mosaics FLOWERS local-dir:FOLDER [--mosaics 1500] [--seed 0]

FLOWERS is a folder of photographs in class folders. Mosaics of 2x2 photographs are labelled with the classes in them;
a photograph and all mosaics containing it belong to one split. `tagger train --multilabel` learns all labels together,
then each label alone. Prints a Markdown table of average precision on the test mosaics, with the interval of the mean.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

import tagger
from benchmarks import machine
from tagger.training.config import TrainConfig

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
SIDE = 112


def main() -> None:
    """Parse the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flowers", type=Path)
    parser.add_argument("backbone")
    parser.add_argument("--mosaics", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = make(arguments.flowers, folder / "mosaics", arguments.mosaics, arguments.seed)
        names = sorted({label for _, labels, _ in rows for label in labels})
        together = learn(folder, "together", rows, arguments.backbone)
        alone = {label: learn(folder, label, _only(rows, label), arguments.backbone) for label in names}
    print(f"{len(rows):,} mosaics, {together['images']} of them test, seed {arguments.seed}, {machine.describe()}\n")
    print("| average precision on test | one multilabel probe | independent probes |\n|---|--:|--:|")
    ours = {tag["tag"]: tag["average_precision"] for tag in together["tags"]}
    own = {label: found["tags"][0]["average_precision"] for label, found in alone.items()}
    for label in names:
        print(f"| {label} | {ours[label]:.3f} | {own[label]:.3f} |")
    low, high = together["mean_average_precision_interval"]
    mean = together["mean_average_precision"]
    print(f"| mean | {mean:.3f} ({low:.3f} to {high:.3f}) | {np.mean(list(own.values())):.3f} |")


Rows = list[tuple[str, list[str], str]]
"""(file, labels, split)"""


def make(classes: Path, folder: Path, count: int, seed: int) -> Rows:
    """Write mosaics as JPEG, and return file, labels and split of each."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in classes.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    order = rng.permutation(len(files))
    rows: Rows = []
    start = 0
    for split, share in SHARES.items():
        stop = start + int(share * len(files))
        part = [files[index] for index in order[start:stop]]
        start = stop
        (folder / split).mkdir(parents=True)
        for number in range(int(share * count)):
            chosen = [part[index] for index in rng.choice(len(part), 4, replace=False)]
            chosen = [chosen[0] if rng.random() < 0.4 else path for path in chosen]  # some have fewer than four labels
            mosaic(chosen).save(folder / split / f"{number}.jpg", quality=92)
            rows.append((f"{split}/{number}.jpg", sorted({path.parent.name for path in chosen}), split))
    return rows


def mosaic(paths: Sequence[Path]) -> Image.Image:
    """Return a 2x2 mosaic of four photographs, each cropped to a square."""
    sheet = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    for place, path in enumerate(paths):
        with Image.open(path) as photo:
            square = ImageOps.fit(photo.convert("RGB"), (SIDE, SIDE))
        sheet.paste(square, (SIDE * (place % 2), SIDE * (place // 2)))
    return sheet


def learn(folder: Path, name: str, rows: Rows, backbone: str) -> dict[str, Any]:
    """Write the labels, train a multilabel probe, and return its metrics on the test mosaics."""
    labels, dataset = folder / f"{name}.csv", folder / f"{name}.parquet"
    with labels.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "labels", "split"])
        writer.writerows([path, json.dumps(tags), split] for path, tags, split in rows)  # []: known to have none
    tagger.ingest(str(folder / "mosaics"), str(dataset), labels=str(labels))
    config = TrainConfig(backbone=backbone, method="probe", multilabel=True)
    info = tagger.train(str(dataset), str(folder / f"checkpoint-{name}"), config)
    return dict(info.metrics["test"])


def _only(rows: Rows, label: str) -> Rows:
    return [(path, [label] if label in labels else [], split) for path, labels, split in rows]


if __name__ == "__main__":
    main()
