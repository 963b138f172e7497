"""Precision of learnt thresholds on held-out images.

    python -m benchmarks.thresholds [FROM] [--task multiclass] [--targets 0.8 0.9 0.95] [--shuffles 20] [--seed 0]

FROM is a checkpoint of `tagger train`, whose validation and test images are pooled, or a .npz file with `logits` (N, K)
and `truth` (N, K) of labelled images that the network was not trained on; without it, the data are synthetic. The
images are shuffled and halved many times: temperature and thresholds are learnt on one half, precision is measured on
the other. A (tag, shuffle) pair is counted if its threshold has the status ok and gives the tag to at least one image
of the test half; it is satisfied if its precision there reaches the target. Recall given up is relative to default
thresholds. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from scipy import special

from tagger import checkpoint
from tagger.data import manifest
from tagger.data.dataset import DATASET, truth_of
from tagger.data.labels.source import read_labelled
from tagger.evaluation import calibration, metrics
from tagger.evaluation.evaluate import scores_of

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """One tag in one shuffle."""

    status: str
    precision: float | None
    """On the test half; None if no image got the tag."""
    recall: float | None
    recall_given_up: float | None


def main() -> None:
    """Print how often precision on the test half reaches its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", metavar="FROM")
    parser.add_argument("--task", default="multiclass", choices=("multiclass", "multilabel"))
    parser.add_argument("--targets", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--shuffles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logits, truth = read(arguments.data) if arguments.data else synthetic(arguments.seed, arguments.task)
    source = arguments.data or "synthetic data"
    print(f"{len(logits)} images of {source}, {logits.shape[1]} tags, {arguments.task}")
    print(f"{arguments.shuffles} shuffles, seed {arguments.seed}\n\n{HEAD}")
    for target in arguments.targets:
        print(row(target, shuffle(logits, truth, arguments.task, target, arguments.shuffles, arguments.seed)))


def read(path: str) -> tuple[Array, Array]:
    """Return logits and truth of a .npz file, or of a checkpoint's validation and test images."""
    if not path.endswith(".npz"):
        return held_out(path)
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["logits"].astype(np.float32), arrays["truth"].astype(np.float32)


def held_out(model: str) -> tuple[Array, Array]:
    """Return logits, but for a constant, and truth of a checkpoint's validation and test images."""
    info = checkpoint.describe(model)
    table = read_labelled(f"{model}/{DATASET}").table
    table = table.filter(pc.not_equal(table["split"], "train"))
    scores, have = scores_of(info, manifest.locations(table), "cpu")
    log_scores = np.log(np.clip(scores, 1e-7, 1))
    logits = log_scores if info.task == "multiclass" else log_scores - np.log(np.clip(1 - scores, 1e-7, 1))
    return logits[have], truth_of(table, info.label_names)[have]


def synthetic(
    seed: int, task: str, tags: int = 5, separation: tuple[float, float] = (2.0, 4.5), mislabelled: float = 0.02
) -> tuple[Array, Array]:
    """Return logits and truth (N, tags): 200 to 400 images a tag, some easy and some hard to separate.

    A label stands out from standard normal noise by `separation` (drawn for each tag); some are wrong.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(tags), rng.integers(200, 401, tags))
    truth = np.eye(tags, dtype=np.float32)[labels]
    logits = rng.normal(size=truth.shape) + truth * rng.uniform(*separation, tags)
    wrong = rng.random(len(labels)) < mislabelled
    truth[wrong] = np.eye(tags, dtype=np.float32)[rng.integers(0, tags, int(wrong.sum()))]
    if task == "multilabel":
        logits -= separation[0]
    return (2 * logits).astype(np.float32), truth


def shuffle(logits: Array, truth: Array, task: str, target: float, shuffles: int, seed: int) -> list[Pair]:
    """Return one pair per tag and shuffle."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(shuffles):
        order = rng.permutation(len(logits))
        val, test = order[: len(order) // 2], order[len(order) // 2 :]
        pairs += _one(logits[val], truth[val], logits[test], truth[test], task, target)
    return pairs


def _one(val: Array, val_truth: Array, test: Array, test_truth: Array, task: str, target: float) -> list[Pair]:
    names = [str(k) for k in range(val.shape[1])]
    temperature = calibration.fit_temperature(val, val_truth, task)
    learnt = calibration.learn_thresholds(_scores(val, temperature, task), val_truth, names, target)
    scores = _scores(test, temperature, task)
    ours = metrics.per_tag(scores, test_truth, [threshold.threshold for threshold in learnt], names)
    plain = metrics.per_tag(scores, test_truth, metrics.default_thresholds(task, len(names)), names)
    return [
        Pair(t.status, a.precision, a.recall, None if a.recall is None or b.recall is None else b.recall - a.recall)
        for t, a, b in zip(learnt, ours, plain, strict=True)
    ]


def _scores(logits: Array, temperature: float, task: str) -> Array:
    warm = logits / np.float32(temperature)
    scores: Array = special.softmax(warm, axis=1) if task == "multiclass" else special.expit(warm)
    return scores


def satisfied(pairs: list[Pair], target: float) -> tuple[int, int]:
    """Return the number of counted pairs that reach the target, and of all counted pairs."""
    counted = [pair.precision for pair in pairs if pair.status == "ok" and pair.precision is not None]
    return sum(precision >= target for precision in counted), len(counted)


HEAD = (
    "| target | pairs | ok | too few | not reached | ok, no tag in test | counted | satisfied "
    "| recall | recall given up |\n|---|---|---|---|---|---|---|---|---|---|"
)


def row(target: float, pairs: list[Pair]) -> str:
    """Return a row of the table."""
    status = Counter(pair.status for pair in pairs)
    right, counted = satisfied(pairs, target)
    fine = [pair for pair in pairs if pair.status == "ok"]
    share = f"{right / counted:.1%}" if counted else "-"
    return (
        f"| {target} | {len(pairs)} | {len(fine)} | {status['too few']} | {status['not reached']} "
        f"| {len(fine) - counted} | {counted} | {share} "
        f"| {_mean([pair.recall for pair in fine])} | {_mean([pair.recall_given_up for pair in fine])} |"
    )


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.1%}" if known else "-"


if __name__ == "__main__":
    main()
