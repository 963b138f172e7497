"""Benchmark reports with made-up numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from pictures import photo

from tagger.evaluation import metrics
from tagger.reporting.benchmark_report import BenchmarkReport, Comparison, Mistakes, Neighbours, Published, Run

TITLES = {
    "knn": "Nearest neighbours",
    "linear": "Linear",
    "mlp": "MLP",
    "convnet": "CNTK ConvNet",
    "speedrun": "Speed run",
}


def run(model: str, strength: int, seed: int, truth: np.ndarray, classes: int) -> Run:
    """Return a run; the greater the strength, the better."""
    logits = np.random.default_rng([strength, seed]).normal(size=(len(truth), classes))
    logits[np.arange(len(truth)), truth] += 0.5 + 0.7 * strength
    scores = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)
    found = metrics.accuracy(scores, truth)
    curve = [
        {"epoch": e, "train_loss": 2 / e, "val_loss": 2.1 / e, "val_score": 0.9 - 0.5 / e, "seconds": 3.0}
        for e in (1, 2, 3)
    ]
    return Run(
        model=model, title=TITLES.get(model, model), seed=seed, accuracy=found.accuracy, interval=found.interval,
        accuracy_tta=min(1, found.accuracy + 0.01),
        log_loss=1.0, calibration_error=0.05, parameters=10.0 ** (strength + 3), flops=10.0 ** (strength + 5),
        train_seconds=10.0 * strength, train_images_per_second=900, epochs=3, infer_one_core=500, infer_all_cores=900,
        memory_bytes=6e8, device="CPU", versions={"torch": "2.9"}, note="early stopping",
        curve=curve if strength else (), scores=scores,
    )  # fmt: skip


def report(
    models: tuple[str, ...] = tuple(TITLES), seeds: int = 1, names: list[str] | None = None, **other: Any
) -> BenchmarkReport:
    """Return a report with every figure, for some models, seeds and classes."""
    names = ["cat", "dog", "frog"] if names is None else names
    rng = np.random.default_rng(0)
    truth = np.arange(max(300, len(names))) % len(names)
    images = np.stack([np.asarray(photo(seed, (16, 16))) for seed in range(6)])
    facts: dict[str, Any] = {
        "dataset": "CIFAR-10",
        "runs": [run(model, k, seed, truth, len(names)) for k, model in enumerate(models) for seed in range(seeds)],
        "label_names": names,
        "truth": truth,
        "note": "A JPEG copy",
        "published": [Published("convnet", 0.82, "30 epochs", "CNTK"), Published("ResNet-110", 0.9357, "", "He 2015")],
        "neighbours": {"knn": Neighbours(
            images[:2], np.array([0, 1]), np.array([0, 0]), np.stack([images[:5]] * 2),
            rng.integers(0, len(names), (2, 5)), np.sort(rng.random((2, 5))) * 4000, "L2",
        )},
        "k_curves": {"knn": {"l1": {1: 0.36, 3: 0.37, 10: 0.33}, "l2": {1: 0.33, 3: 0.31, 10: float("nan")}}},
        "templates": {"linear": rng.normal(size=(len(names), 8, 8, 3))},
        "filters": {"mlp": rng.normal(size=(70, 8, 8, 3)), "convnet": rng.normal(size=(6, 3, 3))},
        "mistakes": {"speedrun": Mistakes(list(images[:3]), [f"{names[0]} 0.99\nis {names[1]}"] * 3)},
        "comparisons": [Comparison("activation", [("ReLU", 0.57, "as above"), ("sigmoid", 0.48, "same seed")], "mlp")],
        "command": "tagger benchmark cifar10 --out report",
        "machine": "2 cores",
        "data": "300 test images",
    }  # fmt: skip
    return BenchmarkReport(**{**facts, **other})
