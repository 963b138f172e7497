"""k-nearest neighbours: the training images are the model, and the k nearest vote on the class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tagger.errors import UsageError
from tagger.models.small import SmallNet

METRICS = ("l1", "l2", "cosine")
SMOOTHING = 0.01
"""Votes added to every class, so that no score is 0 and no logit is infinite."""

_EXAMPLES = 5000
"""Examples converted to float32 and compared at a time."""
_DISTANCES = 1 << 26
"""Distances in memory at a time: 256 MB."""


class Knn(SmallNet):
    """Labelled training images as buffers; logits are the logarithm of each class's share of the votes.

    `dtype` is that of the stored examples: `float32`, or `uint8` for raw pixels (preparation `none`). `features` is the
    length of an example, by default the 3 S S values of an image.
    """

    examples: Tensor
    labels: Tensor

    def __init__(
        self,
        num_classes: int,
        examples: int,
        k: int,
        metric: str = "l2",
        features: int | None = None,
        dtype: str = "float32",
        input_size: int = 32,
        offset: bool = False,
    ) -> None:
        if metric not in METRICS:
            raise UsageError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        if not 1 <= k <= examples:
            raise UsageError(f"k must be between 1 and the {examples:,} training images, got {k}")
        if dtype not in ("uint8", "float32") or (offset and dtype == "uint8"):
            raise UsageError(f"dtype must be float32, or uint8 for raw pixels without an offset, got {dtype!r}")
        super().__init__(num_classes, features or 3 * input_size**2, input_size, offset)
        self.k, self.metric = k, metric
        self.register_buffer("examples", torch.zeros(examples, self.num_features, dtype=getattr(torch, dtype)))
        self.register_buffer("labels", torch.zeros(examples, dtype=torch.int64))

    @torch.no_grad()
    def remember(self, inputs: Tensor, labels: Tensor) -> None:
        """Store training inputs (N, 3, S, S), normalised like those of forward(), and their labels (N,)."""
        for rows, block in zip(self.examples.split(_EXAMPLES), inputs.split(_EXAMPLES), strict=True):
            rows.copy_(self.forward_features(block.float()))
        self.labels.copy_(labels)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map inputs (N, 3, S, S) to vectors (N, D)."""
        values = self.without_offset(x).flatten(1)
        return values if self.examples.is_floating_point() else values.round()  # float32 normalisation is inexact

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the vectors (N, D) unchanged, or their neighbours' votes as logits (N, num_classes)."""
        if pre_logits:
            return x
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError("k-NN runs in eager torch only: tracing would fix the number of blocks")
        _, neighbours = nearest(x, self.examples, self.k, self.metric)
        return votes(self.labels[neighbours], self.k, self.num_classes, SMOOTHING).log()


@torch.no_grad()
def nearest(
    queries: Tensor,
    examples: Tensor,
    k: int,
    metric: str,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, Tensor]:
    """Return the distances (M, k) float32 and indices (M, k) of the k examples nearest to each query, nearest first.

    Queries are (M, D), examples (N, D), both uint8 or float32, on one device. Cosine distance is 1 - similarity.
    `on_block` is called with the number of finished queries and of all queries.
    """
    found = []
    done = 0
    with torch.autocast(queries.device.type, enabled=False):
        for block in queries.split(max(1, _DISTANCES // len(examples))):
            found.append(_distances(block, examples, metric).topk(k, largest=False))
            on_block(done := done + len(block), len(queries))
    distances, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distances, indices


def votes(labels: Tensor, k: int, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Return the share of each class (M, num_classes) float32 among the first k neighbours of each query.

    `labels` (M, K) are the neighbours' classes, nearest first, so that one search serves every k up to K. `smoothing`
    votes are added to each class.
    """
    counts = torch.zeros(len(labels), num_classes, device=labels.device)
    counts.scatter_add_(1, labels[:, :k], torch.ones_like(labels[:, :k], dtype=counts.dtype))
    return (counts + smoothing) / (k + smoothing * num_classes)


def _distances(queries: Tensor, examples: Tensor, metric: str) -> Tensor:
    """Return all distances (M, N)."""
    if metric == "cosine":
        ours = functional.normalize(queries.float(), dim=1)
        blocks = (1 - ours @ functional.normalize(block.float(), dim=1).T for block in examples.split(_EXAMPLES))
    else:
        # cdist multiplies matrices for l2, and rounds less near the origin
        centre = examples[:_EXAMPLES].float().mean(dim=0)
        ours, p = queries.float() - centre, 1.0 if metric == "l1" else 2.0
        blocks = (torch.cdist(ours, block.float() - centre, p) for block in examples.split(_EXAMPLES))
    return torch.cat(list(blocks), dim=1)
