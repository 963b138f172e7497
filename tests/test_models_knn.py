"""Nearest neighbours are those of brute force, whatever is planted among them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tagger.errors import UsageError
from tagger.models import knn
from tagger.models.knn import METRICS, Knn, nearest, votes

Kind = Callable[[np.random.Generator, int], np.ndarray]

KINDS: dict[str, Kind] = {
    "pixels": lambda rng, n: rng.integers(0, 256, (n, 48), dtype=np.uint8),
    "few levels": lambda rng, n: rng.integers(0, 3, (n, 6), dtype=np.uint8),  # full of exact ties
    "features": lambda rng, n: rng.normal(size=(n, 33)).astype(np.float32),
    "far from zero": lambda rng, n: (1000 + rng.normal(size=(n, 40))).astype(np.float32),  # where l2 cancels
    "nearly the same": lambda rng, n: (1 + 1e-6 * rng.normal(size=(n, 20))).astype(np.float32),
}


def brute_force(queries: np.ndarray, examples: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = queries.astype(np.float64)[:, None], examples.astype(np.float64)[None]
    if metric == "l1":
        distances = np.abs(a - b).sum(axis=-1)
    elif metric == "l2":
        distances = np.sqrt(((a - b) ** 2).sum(axis=-1))
    else:
        distances = 1 - (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)).clip(1e-300)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, axis=1), order


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_neighbours_are_those_of_brute_force(kind: str, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_QUERIES", 40)  # several blocks of each
    monkeypatch.setattr(knn, "_EXAMPLES", 150)
    monkeypatch.setattr(knn, "_VALUES", 20_000)
    rng = np.random.default_rng(0)
    queries, examples = KINDS[kind](rng, 90), KINDS[kind](rng, 400)
    examples[300:] = examples[:100]  # duplicates, further than a block apart
    queries[:10] = examples[50:60]
    expected, order = brute_force(queries, examples, 12, metric)
    distances, indices = nearest(torch.from_numpy(queries), torch.from_numpy(examples), 12, metric)
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-9, atol=1e-12)
    if kind == "few levels" and metric == "cosine":
        return  # 1 and 1 - 2^-53 are the same angle, and which it is differs between libraries
    assert np.array_equal(indices.numpy(), order)
    if kind != "few levels":
        assert np.array_equal(indices[:10, :2].numpy(), np.stack([np.arange(50, 60), np.arange(350, 360)], axis=1))


@pytest.mark.parametrize("metric", METRICS)
def test_more_duplicates_than_candidates_come_in_order(metric: str) -> None:
    rng = np.random.default_rng(0)
    examples = rng.integers(1, 256, (600, 30), dtype=np.uint8)
    examples[100:400] = examples[0]
    distances, indices = nearest(torch.from_numpy(examples[:1]), torch.from_numpy(examples), 5, metric)
    assert indices.tolist() == [[0, 100, 101, 102, 103]]
    np.testing.assert_allclose(distances.numpy(), 0, atol=1e-12)


def test_a_row_of_zeros_is_far_from_everything_in_cosine() -> None:
    distances, indices = nearest(torch.zeros(1, 4), torch.rand(5, 4), 2, "cosine")
    assert distances.tolist() == [[1.0, 1.0]]
    assert indices.tolist() == [[0, 1]]


def test_all_training_images_may_be_asked_for_and_no_more() -> None:
    x = torch.rand(7, 3)
    assert sorted(nearest(x[:1], x, 7, "l2")[1][0].tolist()) == list(range(7))
    for k in (0, 8):
        with pytest.raises(UsageError, match=f"k must be between 1 and the 7 training images, got {k}"):
            nearest(x, x, k, "l2")
    with pytest.raises(UsageError, match="'hamming' is not known"):
        nearest(x, x, 1, "hamming")
    assert nearest(x[:0], x, 3, "l2")[1].shape == (0, 3)


def test_a_search_says_how_far_it_is_and_twice_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_QUERIES", 4)
    torch.manual_seed(0)
    queries, examples = torch.rand(10, 5), torch.rand(60, 5)
    said: list[tuple[int, int]] = []
    first = nearest(queries, examples, 3, "l2", lambda done, total: said.append((done, total)))
    assert said == [(4, 10), (8, 10), (10, 10)]
    second = nearest(queries, examples, 3, "l2")
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_autocast_does_not_make_neighbours_less_exact() -> None:
    torch.manual_seed(0)
    queries, examples = torch.rand(20, 300), torch.rand(500, 300)
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest(queries, examples, 5, "l2")[1]
    assert torch.equal(found, nearest(queries, examples, 5, "l2")[1])


def test_one_search_serves_every_k() -> None:
    labels = torch.tensor([[2, 0, 0, 1], [1, 1, 2, 2]])
    assert votes(labels, 1, 3).tolist() == [[0, 0, 1], [0, 1, 0]]
    assert votes(labels, 4, 3).tolist() == [[0.5, 0.25, 0.25], [0, 0.5, 0.5]]
    assert votes(labels, 4, 3).argmax(1).tolist() == [0, 1]  # as many votes: the lower class
    torch.testing.assert_close(votes(labels, 2, 3, smoothing=1.0)[0], torch.tensor([2.0, 1.0, 2.0]) / 5)
    for k in (0, 5):
        with pytest.raises(UsageError, match=f"the 4 neighbours that were found, got {k}"):
            votes(labels, k, 3)


def test_scores_are_the_shares_of_votes() -> None:
    rng = np.random.default_rng(0)
    examples = torch.from_numpy(rng.integers(0, 256, (50, 3, 4, 4))).float()
    labels = torch.from_numpy(rng.integers(0, 3, 50))
    net = Knn(3, examples=50, k=7, metric="l1", dtype="uint8", input_size=4)
    net.remember(examples, labels)
    queries = torch.from_numpy(rng.integers(0, 256, (20, 3, 4, 4))).float()
    scores = net(queries + 1e-4).softmax(dim=1)  # float32's noise around whole pixels
    _, order = brute_force(queries.flatten(1).numpy(), examples.flatten(1).numpy(), 7, "l1")
    torch.testing.assert_close(scores, votes(labels[order], 7, 3, knn.SMOOTHING))
    assert net.examples.dtype == torch.uint8
    assert torch.equal(scores.sum(dim=1).round(decimals=4), torch.ones(20))


def test_features_of_a_backbone_vote_as_pixels_do() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(30, 17), torch.arange(30) % 2
    net = Knn(2, examples=30, k=1, metric="cosine", features=17)
    net.remember(features, labels)
    assert torch.equal(net(features).argmax(1), labels)
