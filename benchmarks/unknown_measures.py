"""Comparison of measures for detecting unknown images on frozen features.

    python -m benchmarks.unknown_measures FLOWERS HYMENOPTERA [--seeds 2]
    python -m benchmarks.unknown_measures FOREIGN ... --cifar CIFAR

FLOWERS and HYMENOPTERA are results of `tagger tag FOLDER --embeddings`, of class folders. Each seed splits the
known images 60:20:20 into training, validation and test; a logistic regression on the training features gives the best
score. Known test images are compared with one kind of flowers that was left out, for each kind, and ants and bees with
flowers. The measures:

- mahalanobis: the distance from the nearest class mean, with the common covariance of the classes, of features of unit
  length (Mueller and Hein 2025, arXiv 2505.18032), with Ledoit and Wolf's shrinkage.
- relative mahalanobis: the same minus the distance from the mean of all images (Ren et al. 2021, arXiv 2106.09022),
  with the same shrinkage.
- knn: the cosine distance from the fifth nearest training image (Sun et al. 2022, arXiv 2204.06507), of all or of at
  most 1,000 or 300 images.

Prints a Markdown table of means.

With --cifar, all tables are of checkpoints/cifar10-speedrun: CIFAR of train/CLASS/* and test/CLASS/*, FOREIGN of other
photographs. energy: the negative logsumexp of the logits (Liu et al. 2020, arXiv 2010.03759); energy + knn: their sum,
each standardised on the first 500 test images; the other test images are compared.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import logsumexp, softmax
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import machine
from benchmarks.unknown import CIFAR10, auroc, fpr95
from tagger import checkpoint
from tagger.checkpoint.unknown import unit
from tagger.evaluation.unknown import of_features
from tagger.inference.engines import Float32Array
from tagger.models.speedrun import Speedrun
from tagger.tagging import results

Names = npt.NDArray[np.str_]
Measure = Callable[[Float32Array], npt.NDArray[np.floating]]
"""Features (N, D) -> scores (N,), higher for images less like the training images."""
HELD_OUT = 500


def main() -> None:
    """Parse the arguments, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--cifar")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.cifar:
        print(f"{machine.describe()}\n\n{table(of_cifar(arguments.cifar, arguments.tables))}")
        return
    flowers, insects = map(read, arguments.tables)
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(arguments.seeds):
        for name, known, classes, unknown in comparisons(flowers, insects):
            train, test, of_train, _ = train_test_split(
                known, classes, test_size=0.2, random_state=seed, stratify=classes
            )
            train, _, of_train, _ = train_test_split(
                train, of_train, test_size=0.25, random_state=seed, stratify=of_train
            )
            for measure, score in measures(train, of_train):
                pair = score(test), score(unknown)
                found[measure][name].append((auroc(*pair), fpr95(*pair)))
    print(f"{machine.describe()}\n{arguments.seeds} seeds\n\n{table(found)}")


def read(folder: str) -> tuple[Float32Array, Names]:
    """Return the embeddings of a results table, and the names of the images' folders."""
    return read_splits(folder)[:2]


def read_splits(folder: str) -> tuple[Float32Array, Names, Names]:
    """Return the embeddings of a results table, and the names of the images' folders and of their parent folders."""
    rows = results.latest(results.read_table(folder)).to_pandas()
    rows = rows[rows["embedding"].notna()]
    parts = np.array([Path(uri).parts[-3:-1] for uri in rows["uri"]])
    return np.stack(rows["embedding"].to_list()).astype(np.float32), parts[:, 1], parts[:, 0]


def comparisons(
    flowers: tuple[Float32Array, Names], insects: tuple[Float32Array, Names]
) -> Iterator[tuple[str, Float32Array, Names, Float32Array]]:
    """Yield name, known images with their classes, and unknown images."""
    features, kinds = flowers
    for kind in np.unique(kinds):
        yield "flowers, one kind left out", features[kinds != kind], kinds[kinds != kind], features[kinds == kind]
    yield "ants and bees; flowers", *insects, features


def of_cifar(cifar: str, foreign: Sequence[str]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return AUROC and FPR95 of each measure on the embeddings of the CIFAR-10 network, by foreign table."""
    features, classes, splits = read_splits(cifar)
    train, test = features[splits == "train"], features[splits == "test"]
    test = test[np.random.default_rng(0).permutation(len(test))]
    held_out, known = test[:HELD_OUT], test[HELD_OUT:]
    found = {}
    for name, score in cifar_measures(train, classes[splits == "train"], held_out):
        pairs = {Path(each).name: (score(known), score(read(each)[0])) for each in foreign}
        found[name] = {which: [(auroc(*pair), fpr95(*pair))] for which, pair in pairs.items()}
    return found


def cifar_measures(train: Float32Array, classes: Names, held_out: Float32Array) -> Iterator[tuple[str, Measure]]:
    """Yield the measures of the CIFAR-10 network's embeddings."""
    network = cast(Speedrun, checkpoint.build(checkpoint.describe(CIFAR10)))

    @torch.inference_mode()
    def logits(features: Float32Array) -> npt.NDArray[np.floating]:
        found: npt.NDArray[np.floating] = (network.head(torch.from_numpy(features)) * network.scale).numpy()
        return found

    def energy(features: Float32Array) -> npt.NDArray[np.floating]:
        return -np.asarray(logsumexp(logits(features), axis=1))

    yield "best score", lambda features: -softmax(logits(features), axis=1).max(axis=1)
    yield "energy", energy
    absolute, relative = mahalanobis(train, classes)
    yield "mahalanobis", absolute
    yield "relative mahalanobis", relative
    stored = of_features(train[np.random.default_rng(0).permutation(len(train))][:1000], held_out)
    for neighbour in (1, 5, 50):
        yield f"knn, neighbour {neighbour}", replace(stored, neighbour=neighbour).distances
    scores = energy, stored.distances
    scales = [(score(held_out).mean(), score(held_out).std()) for score in scores]
    yield (
        "energy + knn, neighbour 5",
        lambda features: np.sum(
            [(score(features) - mean) / spread for score, (mean, spread) in zip(scores, scales, strict=True)], axis=0
        ),
    )


def measures(train: Float32Array, classes: Names) -> Iterator[tuple[str, Measure]]:
    """Yield the measures, fitted to training images."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(train, classes)
    yield "best score of a probe", lambda features: -classifier.predict_proba(features).max(axis=1)
    absolute, relative = mahalanobis(train, classes)
    yield "mahalanobis", absolute
    yield "relative mahalanobis", relative
    order = np.random.default_rng(0).permutation(len(train))
    for most in (len(train), 1000, 300):
        name = "knn" if most == len(train) else f"knn, {most:,} images"
        yield name, of_features(train[order[:most]], train[:20]).distances


def mahalanobis(train: Float32Array, classes: Names) -> tuple[Measure, Measure]:
    """Return the distance from the nearest class, and the same minus the distance from the mean of all images."""
    vectors = unit(train).astype(np.float64)
    names, index = np.unique(classes, return_inverse=True)
    means = np.stack([vectors[classes == name].mean(axis=0) for name in names])
    within, _ = ledoit_wolf(vectors - means[index], assume_centered=True)
    centre = vectors.mean(axis=0)
    between = (means[index] - centre).T @ (means[index] - centre) / len(vectors)
    precisions = np.linalg.inv(within), np.linalg.inv(within + between)

    def distance(features: Float32Array, mean: npt.NDArray[np.float64], which: int) -> npt.NDArray[np.float64]:
        away = unit(features) - mean
        squared: npt.NDArray[np.float64] = ((away @ precisions[which]) * away).sum(axis=1)
        return squared

    def absolute(features: Float32Array) -> npt.NDArray[np.float64]:
        nearest: npt.NDArray[np.float64] = np.min([distance(features, mean, 0) for mean in means], axis=0)
        return nearest

    return absolute, lambda features: absolute(features) - distance(features, centre, 1)


def table(found: dict[str, dict[str, list[tuple[float, float]]]]) -> str:
    """Return the means as Markdown."""
    names = list(next(iter(found.values())))
    head = f"| measure | {' | '.join(f'{name}: AUROC | FPR95' for name in names)} |"
    lines = [head, f"|---|{'--:|--:|' * len(names)}"]
    for measure, results_of in found.items():
        means = [np.mean(results_of[name], axis=0) for name in names]
        lines.append(f"| {measure} | {' | '.join(f'{area:.3f} | {rate:.1%}' for area, rate in means)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
