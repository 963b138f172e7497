"""k-NN finds the neighbours that brute force finds, and counts their votes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tagger.models import knn
from tagger.models.knn import METRICS, Knn, nearest, votes

KINDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "pixels": lambda rng, n: rng.integers(0, 256, (n, 192), dtype=np.uint8),
    "few levels": lambda rng, n: rng.integers(0, 3, (n, 6), dtype=np.uint8),  # many equal distances
    "features": lambda rng, n: rng.normal(size=(n, 33)).astype(np.float32),
    "far from zero": lambda rng, n: (1000 + rng.normal(size=(n, 40))).astype(np.float32),  # where l2 cancels
}


def brute_force(queries: np.ndarray, examples: np.ndarray, metric: str) -> np.ndarray:
    """All distances, in float64."""
    a, b = queries.astype(np.float64)[:, None], examples.astype(np.float64)[None]
    if metric == "l1":
        return np.abs(a - b).sum(axis=-1)
    if metric == "l2":
        return np.sqrt(((a - b) ** 2).sum(axis=-1))
    return 1 - (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)).clip(1e-300)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_neighbours_are_as_near_as_those_of_brute_force(kind: str, metric: str) -> None:
    rng = np.random.default_rng(0)
    queries, examples = KINDS[kind](rng, 40), KINDS[kind](rng, 6000)  # two blocks of examples
    queries[:10] = examples[5500:5510]
    expected = brute_force(queries, examples, metric)
    distances, indices = (
        found.numpy() for found in nearest(torch.from_numpy(queries), torch.from_numpy(examples), 12, metric)
    )
    found = np.take_along_axis(expected, indices, axis=1)
    np.testing.assert_allclose(found, np.sort(expected, axis=1)[:, :12], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(distances, found, rtol=1e-4, atol=1e-6 + 1e-3 * expected.max())
    assert all(len(set(row)) == 12 for row in indices.tolist())


def test_a_row_of_zeros_is_far_from_everything_in_cosine() -> None:
    assert nearest(torch.zeros(1, 4), torch.rand(5, 4), 2, "cosine")[0].tolist() == [[1.0, 1.0]]


def test_k_goes_from_one_to_the_number_of_examples() -> None:
    x = torch.rand(7, 3)
    assert sorted(nearest(x[:1], x, 7, "l2")[1][0].tolist()) == list(range(7))
    assert nearest(x[:0], x, 3, "l2")[1].shape == (0, 3)


def test_progress_is_reported_per_block_of_queries() -> None:
    progress: list[tuple[int, int]] = []
    examples = torch.rand(50_000, 2)
    nearest(torch.rand(3000, 2), examples, 1, "l2", lambda done, total: progress.append((done, total)))
    assert progress == [(1342, 3000), (2684, 3000), (3000, 3000)]


@pytest.mark.parametrize("metric", METRICS)
def test_autocast_does_not_change_the_neighbours(metric: str) -> None:
    torch.manual_seed(0)
    queries, examples = torch.rand(20, 300), torch.rand(500, 300)
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest(queries, examples, 5, metric)[1]
    assert torch.equal(found, nearest(queries, examples, 5, metric)[1])


def test_one_search_serves_every_k() -> None:
    labels = torch.tensor([[2, 0, 0, 1], [1, 1, 2, 2]])
    assert votes(labels, 1, 3).tolist() == [[0, 0, 1], [0, 1, 0]]
    assert votes(labels, 4, 3).tolist() == [[0.5, 0.25, 0.25], [0, 0.5, 0.5]]
    assert votes(labels, 4, 3).argmax(1).tolist() == [0, 1]  # equal votes: the first class
    torch.testing.assert_close(votes(labels, 2, 3, smoothing=1.0)[0], torch.tensor([2.0, 1.0, 2.0]) / 5)


def test_scores_are_the_shares_of_votes() -> None:
    rng = np.random.default_rng(0)
    examples, queries = (torch.from_numpy(rng.integers(0, 256, (n, 3, 4, 4))).float() for n in (50, 20))
    labels = torch.from_numpy(rng.integers(0, 3, 50))
    net = Knn(3, examples=50, k=7, metric="l1", dtype="uint8", input_size=4)
    net.remember(examples, labels)
    scores = net(queries + 1e-4).softmax(dim=1)  # the rounding errors of a normalisation
    order = brute_force(queries.flatten(1).numpy(), examples.flatten(1).numpy(), "l1").argsort(kind="stable")[:, :7]
    torch.testing.assert_close(scores, votes(labels[order], 7, 3, knn.SMOOTHING))
    assert net.examples.dtype == torch.uint8


def test_features_of_a_backbone_vote_as_pixels_do() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(30, 17), torch.arange(30) % 2
    net = Knn(2, examples=30, k=1, metric="cosine", features=17)
    net.remember(features, labels)
    assert torch.equal(net(features).argmax(1), labels)
