"""Nearest neighbours: k and the metric are chosen on held-out images; nothing else is fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tagger.errors import SourceError
from tagger.models.knn import nearest, votes
from tagger.training.probe import Part

KS = (1, 3, 5, 7, 10, 15, 20)
METRICS = ("l2", "cosine", "l1")
FAST_METRICS = METRICS[:2]
"""Without l1, which is not a matrix product and takes minutes on many images."""

Curves = dict[str, dict[int, float]]
"""Metric -> k -> accuracy on the held-out images."""


OnProgress = Callable[[str, int, int], None]
"""Called with the metric, the number of images compared, and their total."""


@dataclass(frozen=True)
class Neighbours:
    """Examples (N, D) with their labels (N,), and how they vote."""

    examples: Tensor
    labels: Tensor
    k: int
    metric: str
    accuracy: float
    """On the held-out images."""


def fit(train: Part, validation: Part, on_progress: OnProgress = lambda what, done, total: None) -> Neighbours:
    """Choose k and metric on the validation images. Images have one label or none; those without do not vote."""
    examples, labels = known = _labelled(train)
    found = accuracies(_labelled(validation), known, train[1].shape[1], FAST_METRICS, on_progress)
    metric, k = best(found)
    return Neighbours(examples, labels, k, metric, found[metric][k])


def _labelled(part: Part) -> tuple[Tensor, Tensor]:
    """Return features (N, D) and labels (N,) of the images that have one."""
    features, truth = part
    labelled = truth.any(axis=1)
    return torch.from_numpy(features[labelled]), torch.from_numpy(truth[labelled].argmax(axis=1))


def accuracies(
    held_out: tuple[Tensor, Tensor],
    examples: tuple[Tensor, Tensor],
    num_classes: int,
    metrics: Sequence[str],
    on_progress: OnProgress,
) -> Curves:
    """Return the accuracy for every metric and k of KS on held-out rows (M, D) with labels (M,).

    Raises SourceError without examples or without held-out rows.
    """
    (queries, labels), (known, known_labels) = held_out, examples
    ks = [k for k in KS if k <= len(known)]
    if not ks or not len(queries):
        raise SourceError(f"knn: {len(known):,} training and {len(queries):,} held-out images; label some more")
    curves: Curves = {}
    for metric in metrics:
        _, indices = nearest(queries, known, max(ks), metric, partial(on_progress, metric))
        shares = {k: votes(known_labels[indices], k, num_classes) for k in ks}
        curves[metric] = {k: float((share.argmax(1) == labels).float().mean()) for k, share in shares.items()}
    return curves


def best(curves: Curves) -> tuple[str, int]:
    """Return metric and k with the highest accuracy; the first of equal ones."""
    metric = max(curves, key=lambda each: max(curves[each].values()))
    return metric, max(curves[metric], key=lambda k: curves[metric][k])
