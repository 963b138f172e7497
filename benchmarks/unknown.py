"""Unknown images: known and unknown images told apart by `unknown_score`, and by the best score.

    python -m benchmarks.unknown --flowers FLOWERS --hymenoptera HYMENOPTERA --cifar CIFAR --backbone local-dir:FOLDER
        [--method probe] [--seeds 3] [--only flowers insects cifar]

FLOWERS and HYMENOPTERA (ants and bees) are folders of class folders, CIFAR is CIFAR-10 as class folders of 32 pixels.
Three comparisons: models of flowers with one kind left out, for each kind; a model of ants and bees against flowers;
checkpoints/cifar10-speedrun against flowers, ants and bees. Known images are those of the test split. Each seed draws
other splits, which the models are trained on. AUROC is the chance that an unknown image has a higher unknown_score (a
lower best score) than a known one; FPR95 the share of unknown images that pass as known at the limit that 95% of the
known images pass. `kept` and `found` are the shares of known images that are not unknown, and of unknown images that
are, at the checkpoint's own cut. Prints a Markdown table: means over left-out kinds and seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

import tagger
from benchmarks import machine
from tagger import schema
from tagger.data import manifest
from tagger.data.dataset import DATASET
from tagger.inference.pipeline import Row
from tagger.training.config import TrainConfig
from tagger.training.train import train

Array = npt.NDArray[np.floating]
AT_MOST = 500
"""Known, and unknown, images of a comparison."""
ALL = ("flowers", "insects", "cifar")
CIFAR10 = "checkpoints/cifar10-speedrun"


@dataclass(frozen=True)
class Result:
    """Known and unknown images told apart, by two measures."""

    known: int
    unknown: int
    auroc: tuple[float, float]
    """By unknown_score, and by the best score."""
    fpr95: tuple[float, float]
    kept: float
    found: float


def main() -> None:
    """Parse, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flowers", type=Path)
    parser.add_argument("--hymenoptera", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--only", nargs="*", default=ALL, choices=ALL)
    parser.add_argument("--backbone", default="imagenet")
    parser.add_argument("--method", default="probe", choices=("probe", "knn", "finetune"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{machine.describe()}\n{arguments.method} on {arguments.backbone}, {arguments.seeds} seeds\n\n{HEAD}")
    for name, results in comparisons(arguments):
        print(row(name, list(results)), flush=True)


def comparisons(arguments: argparse.Namespace) -> Iterator[tuple[str, Iterator[Result]]]:
    """Yield the name of each comparison and its results."""
    flowers, insects, seeds = arguments.flowers, arguments.hymenoptera, range(arguments.seeds)
    kinds = sorted(folder.name for folder in flowers.iterdir())
    config = {"backbone": arguments.backbone, "method": arguments.method}
    if "flowers" in arguments.only:
        yield (
            "flowers, one kind left out",
            (
                _trained(flowers, [kind for kind in kinds if kind != left_out], files(flowers / left_out), config, seed)
                for left_out in kinds
                for seed in seeds
            ),
        )
    if "insects" in arguments.only:
        trained = (_trained(insects, ["ants", "bees"], files(flowers), config, seed) for seed in seeds)
        yield "ants and bees; flowers", trained
    if "cifar" in arguments.only:
        known = files(arguments.cifar / "test")
        yield "CIFAR-10; flowers", (_compared(CIFAR10, known, files(flowers), seed) for seed in seeds)
        yield "CIFAR-10; ants and bees", (_compared(CIFAR10, known, files(insects), seed) for seed in seeds)


def files(folder: Path) -> list[str]:
    """Return the images below a folder."""
    return [str(path) for path in sorted(folder.rglob("*.*")) if path.is_file()]


def _trained(folder: Path, kinds: Sequence[str], unknown: list[str], config: dict[str, Any], seed: int) -> Result:
    """Train on some kinds of a folder, and compare their test images with unknown ones."""
    rows = [{"uri": path, "labels": [Path(path).parent.name]} for path in files(folder)]
    with tempfile.TemporaryDirectory() as place:
        dataset, out = Path(place) / "dataset.parquet", Path(place) / "model"
        table = schema.from_rows([each for each in rows if each["labels"][0] in kinds], "manifest")
        dataset.write_bytes(schema.serialise(table, "manifest"))
        train(dataset, out, TrainConfig(**config, seed=seed))
        trained_on = manifest.read_source(str(out / DATASET)).table
        known = [each["uri"] for each in trained_on.to_pylist() if each["split"] == "test"]
        return _compared(str(out), known, unknown, seed)


def _compared(model: str, known: list[str], unknown: list[str], seed: int) -> Result:
    loaded = tagger.load(model, engine="eager")
    rng = np.random.default_rng(seed)
    rows = [loaded.predict(rng.permutation(some)[:AT_MOST].tolist()) for some in (known, unknown)]
    inside, outside = ([each for each in some if each["status"] == "ok"] for some in rows)
    by_distance = [_column(some, "unknown_score") for some in (inside, outside)]
    by_score = [-_column(some, "top_score") for some in (inside, outside)]
    return Result(
        known=len(inside),
        unknown=len(outside),
        auroc=(auroc(*by_distance), auroc(*by_score)),
        fpr95=(fpr95(*by_distance), fpr95(*by_score)),
        kept=1 - float(_column(inside, "unknown").mean()),
        found=float(_column(outside, "unknown").mean()),
    )


def _column(rows: list[Row], name: str) -> Array:
    return np.array([row[name] for row in rows], dtype=np.float64)


def auroc(known: Array, unknown: Array) -> float:
    """Return the chance that an unknown image has a higher value than a known one."""
    truth = np.repeat([0, 1], [len(known), len(unknown)])
    return float(roc_auc_score(truth, np.concatenate([known, unknown])))


def fpr95(known: Array, unknown: Array) -> float:
    """Return the share of unknown images below the value that 95% of the known ones are below."""
    return float((unknown <= np.quantile(known, 0.95)).mean())


HEAD = (
    "| known; unknown | images | AUROC | best score: AUROC | FPR95 | best score: FPR95 | kept | found |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|"
)


def row(name: str, results: list[Result]) -> str:
    """Return a line of the table."""

    def mean(values: list[float]) -> str:
        return f"{np.mean(values):.1%}"

    cells = [
        f"{round(np.mean([each.known for each in results]))}; {round(np.mean([each.unknown for each in results]))}",
        *(f"{np.mean([each.auroc[by] for each in results]):.3f}" for by in (0, 1)),
        *(mean([each.fpr95[by] for each in results]) for by in (0, 1)),
        mean([each.kept for each in results]),
        mean([each.found for each in results]),
    ]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
