"""Detection of unknown images by `unknown_score`, and by the best score.

    python -m benchmarks.unknown --flowers FLOWERS --hymenoptera HYMENOPTERA --cifar CIFAR --backbone local-dir:FOLDER
        [--method probe] [--seeds 3] [--only flowers insects cifar] [--record FILE]

FLOWERS and HYMENOPTERA (ants and bees) are folders of class folders, CIFAR is CIFAR-10 as class folders of 32 pixels.
Three comparisons: models of flowers with one kind left out, for each kind; a model of ants and bees against flowers;
checkpoints/cifar10-speedrun against flowers, ants and bees. Known images are those of the test split. Each seed draws
other splits, and the models are trained on them. AUROC is the probability that an unknown image has a higher
unknown_score (a lower best score) than a known one; FPR95 is the share of unknown images accepted as known at the
threshold that accepts 95% of the known images. `kept` is the share of known images not marked as unknown, `found` that
of unknown images marked as unknown, at the checkpoint's own cut. Prints a Markdown table: means over left-out kinds and
seeds. The result of each model is appended to --record as a line of JSON; another run with the same file computes only
missing results.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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
"""Maximum number of known images, and of unknown images, in a comparison."""
ALL = ("flowers", "insects", "cifar")
CIFAR10 = "checkpoints/cifar10-speedrun"


@dataclass(frozen=True)
class Result:
    """Result of one comparison of known and unknown images."""

    known: int
    unknown: int
    auroc: tuple[float, float]
    """By unknown_score, and by the best score."""
    fpr95: tuple[float, float]
    kept: float
    found: float


def main() -> None:
    """Parse the arguments, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flowers", type=Path)
    parser.add_argument("--hymenoptera", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--only", nargs="*", default=ALL, choices=ALL)
    parser.add_argument("--backbone", default="imagenet")
    parser.add_argument("--method", default="probe", choices=("probe", "knn", "finetune"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--record", type=Path)
    arguments = parser.parse_args()
    print(f"{machine.describe()}\n{arguments.method} on {arguments.backbone}, {arguments.seeds} seeds\n\n{HEAD}")
    for name, comparisons in all_comparisons(arguments):
        results = [recorded(arguments, f"{name}: {which}", compute) for which, compute in comparisons]
        print(row(name, results), flush=True)


def recorded(arguments: argparse.Namespace, name: str, compute: Callable[[], Result]) -> Result:
    """Return the recorded result of a comparison, or compute and record it."""
    key, file = f"{arguments.method} on {arguments.backbone}, {name}", arguments.record
    lines = map(json.loads, file.read_text().splitlines() if file and file.exists() else [])
    if found := [Result(**line["result"]) for line in lines if line["key"] == key]:
        return found[0]
    result = compute()
    line = json.dumps({"key": key, "result": asdict(result)})
    print(line, file=sys.stderr, flush=True)
    if file:
        with file.open("a") as record:
            print(line, file=record)
    return result


Comparison = tuple[str, Callable[[], Result]]
"""Left-out kind and seed, and the computation."""


def all_comparisons(arguments: argparse.Namespace) -> Iterator[tuple[str, Sequence[Comparison]]]:
    """Yield the name of each row and its comparisons."""
    flowers, insects, seeds = arguments.flowers, arguments.hymenoptera, range(arguments.seeds)
    train = partial(_trained, config={"backbone": arguments.backbone, "method": arguments.method})
    if "flowers" in arguments.only:
        kinds = sorted(folder.name for folder in flowers.iterdir())
        rest = {left_out: [kind for kind in kinds if kind != left_out] for left_out in kinds}
        yield (
            "flowers, one kind left out",
            [
                (f"{kind}, seed {seed}", partial(train, flowers, rest[kind], files(flowers / kind), seed))
                for seed in seeds
                for kind in kinds
            ],
        )
    if "insects" in arguments.only:
        unknown = files(flowers)
        trained = [(f"seed {seed}", partial(train, insects, ["ants", "bees"], unknown, seed)) for seed in seeds]
        yield "ants and bees; flowers", trained
    if "cifar" in arguments.only:
        known = files(arguments.cifar / "test")
        for name, folder in (("flowers", flowers), ("ants and bees", insects)):
            compared = [(f"seed {seed}", partial(_compared, CIFAR10, known, files(folder), seed)) for seed in seeds]
            yield f"CIFAR-10; {name}", compared


def files(folder: Path) -> list[str]:
    """Return the images below a folder."""
    return [str(path) for path in sorted(folder.rglob("*.*")) if path.is_file()]


def _trained(folder: Path, kinds: Sequence[str], unknown: list[str], seed: int, config: dict[str, Any]) -> Result:
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
    """Return the probability that an unknown image has a higher value than a known one."""
    truth = np.repeat([0, 1], [len(known), len(unknown)])
    return float(roc_auc_score(truth, np.concatenate([known, unknown])))


def fpr95(known: Array, unknown: Array) -> float:
    """Return the share of unknown images at or below the 95th percentile of the known ones."""
    return float((unknown <= np.quantile(known, 0.95)).mean())


HEAD = (
    "| known; unknown | images | AUROC | best score: AUROC | FPR95 | best score: FPR95 | kept | found |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|"
)


def row(name: str, results: list[Result]) -> str:
    """Return a row of the table."""

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
