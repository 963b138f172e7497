"""The nearest neighbours: the training images themselves are the model, and the k most similar vote.

Found exactly: float32 matrix work proposes more candidates than are asked for, float64 ranks them, and a bound on the
rounding of the first proves that no other image can be among the nearest; where it does not, more are looked at. Equal
distances go to the earlier training image, equal votes to the lower class index.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tagger.errors import UsageError
from tagger.models.small import SmallNet

METRICS = ("l1", "l2", "cosine")
SMOOTHING = 0.01
"""Votes that every class has beforehand: a class without neighbours gets a small score, not an impossible one."""

_QUERIES, _EXAMPLES = 2000, 5000
"""Rows of each that are compared at a time: 40 MB of distances."""
_VALUES = 1 << 19
"""Values that are at work at a time where each is used once or twice: 2 to 4 MB, so that caches hold them."""
_PAIRS = 1 << 24
"""Ranked distances in memory at a time."""


class Knn(SmallNet):
    """Training images and their labels, as buffers; logits are the logarithms of the shares of votes.

    The scores are softmax of the logits, which gives the shares back. `dtype` is how examples are kept: `float32`, or
    `uint8` for raw pixels (preparation `none`), at a quarter of the size. `features` is the length of an example where
    it is not the 3 S S pixels of an image.
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
        _check(k, examples, metric)
        if dtype not in ("uint8", "float32") or (offset and dtype == "uint8"):
            raise UsageError(f"examples as {dtype!r}; choose float32, or uint8 for raw pixels without an offset")
        super().__init__(num_classes, features or 3 * input_size**2, input_size, offset)
        self.k, self.metric = k, metric
        self.register_buffer("examples", torch.zeros(examples, self.num_features, dtype=getattr(torch, dtype)))
        self.register_buffer("labels", torch.zeros(examples, dtype=torch.int64))

    @torch.no_grad()
    def remember(self, inputs: Tensor, labels: Tensor) -> None:
        """Keep training inputs (N, 3, S, S), normalised as those of forward(), and their labels (N,)."""
        for start in range(0, len(inputs), _EXAMPLES):
            rows = slice(start, start + _EXAMPLES)
            self.examples[rows] = self.forward_features(inputs[rows].float())
        self.labels.copy_(labels)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map inputs (N, 3, S, S) to what is compared: their values in a row (N, D)."""
        values = self.without_offset(x).flatten(1)
        return values if self.examples.is_floating_point() else values.round()  # whole but for float32's noise

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return (N, D) values as they are, or the votes of their neighbours as logits (N, num_classes)."""
        if pre_logits:
            return x
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            # a converted graph would rank in float32, and near ties would be decided otherwise
            raise RuntimeError("nearest neighbours are exact in eager torch alone")
        _, neighbours = nearest(x, self.examples, self.k, self.metric)
        shares = votes(self.labels[neighbours], self.k, self.num_classes, SMOOTHING)
        return shares.log()


def nearest(
    queries: Tensor,
    examples: Tensor,
    k: int,
    metric: str,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, Tensor]:
    """Return the distances (M, k) float64 and indices (M, k) of the k examples nearest to each query, nearest first.

    Queries are (M, D), examples (N, D), both uint8 or float32, on one device. Exact in float64; equal distances go by
    index. Takes about 0.5 GB beyond its arguments. `on_block` gets the queries done and their number.
    Raises UsageError for a k that is not among 1 to N, or an unknown metric.
    """
    _check(k, len(examples), metric)
    found = []
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        for start in range(0, len(queries), _QUERIES):
            chunk = queries[start : start + _QUERIES]
            found.append(_nearest(chunk, examples, k, metric, min(max(2 * k, k + 32), len(examples))))
            on_block(start + len(chunk), len(queries))
    distances = torch.cat([each[0] for each in found]) if found else queries.new_empty((0, k), dtype=torch.float64)
    indices = torch.cat([each[1] for each in found]) if found else queries.new_empty((0, k), dtype=torch.int64)
    return distances.sqrt() if metric == "l2" else distances, indices


def votes(labels: Tensor, k: int, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Return the shares (M, num_classes) float32 of each class among the first k of each query's neighbours.

    `labels` (M, K) are the classes of the neighbours, nearest first, so that one search serves every k up to K. Each
    class gets `smoothing` votes beforehand. Raises UsageError for a k that is not among 1 to K.
    """
    if not 1 <= k <= labels.shape[1]:
        raise UsageError(f"k must be between 1 and the {labels.shape[1]} neighbours that were found, got {k}")
    counts = torch.zeros(len(labels), num_classes, device=labels.device)
    counts.scatter_add_(1, labels[:, :k], torch.ones_like(labels[:, :k], dtype=counts.dtype))
    return (counts + smoothing) / (k + smoothing * num_classes)


def _check(k: int, examples: int, metric: str) -> None:
    if metric not in METRICS:
        raise UsageError(f"metric {metric!r} is not known; choose one of {', '.join(METRICS)}")
    if not 1 <= k <= examples:
        raise UsageError(f"k must be between 1 and the {examples:,} training images, got {k}")


def _nearest(queries: Tensor, examples: Tensor, k: int, metric: str, count: int) -> tuple[Tensor, Tensor]:
    """Return exact distances, squared for l2, and indices; `count` candidates are looked at first, then more."""
    candidates, floor = _candidates(queries, examples, metric, count)
    distances = _exact_distances(queries, examples, candidates, metric)
    distances, order = distances.sort(dim=1, stable=True)
    distances, indices = distances[:, :k], candidates.gather(1, order)[:, :k]
    if count < len(examples):
        more = min(4 * count, len(examples))
        unsure = torch.nonzero(~(distances[:, -1] < floor)).flatten()
        for rows in unsure.split(max(1, _PAIRS // more)) if len(unsure) else ():
            distances[rows], indices[rows] = _nearest(queries[rows], examples, k, metric, more)
    return distances, indices


def _candidates(queries: Tensor, examples: Tensor, metric: str, count: int) -> tuple[Tensor, Tensor]:
    """Return the indices (M, count) of the examples nearest in float32, ascending, and for each query a float64 bound
    (M,): no other example is nearer than that.

    Rounding: a float32 sum of D terms is off by at most D 2^-24 of the sum of their sizes (Higham 2002, section 4.2).
    """
    centre = _centre(examples, metric)
    ours = _ready(queries, metric, centre)
    best, found = ours.new_empty((len(ours), 0)), torch.empty((len(ours), 0), dtype=torch.int64, device=ours.device)
    largest = 0.0
    for start in range(0, len(examples), _EXAMPLES):
        theirs = _ready(examples[start : start + _EXAMPLES], metric, centre)
        largest = max(largest, float(_size(theirs, metric).max()))
        near, where = _float32_distances(ours, theirs, metric).topk(min(count, len(theirs)), largest=False)
        best, found = torch.cat((best, near), dim=1), torch.cat((found, where + start), dim=1)
        best, order = best.topk(min(count, best.shape[1]), largest=False)
        found = found.gather(1, order)
    scale = _size(ours, metric) + largest
    error = (ours.shape[1] + 8) * 2.0**-24 * (scale**2 if metric == "l2" else scale)
    return found.sort(dim=1).values, best.double().amax(dim=1) - error


def _centre(examples: Tensor, metric: str) -> Tensor | None:
    """Return a point in the midst of the examples: from there, l2's expansion has less to cancel."""
    return examples[:_EXAMPLES].float().mean(dim=0) if metric == "l2" else None


def _ready(values: Tensor, metric: str, centre: Tensor | None) -> Tensor:
    floats = values.float()
    if metric == "cosine":
        floats = torch.nn.functional.normalize(floats, dim=1)
    return floats if centre is None else floats - centre


def _size(values: Tensor, metric: str) -> Tensor:
    """Return the length of each row in its metric, float64 (M,)."""
    size: Tensor = torch.linalg.vector_norm(values, ord=1 if metric == "l1" else 2, dim=1, dtype=torch.float64)
    return size


def _float32_distances(ours: Tensor, theirs: Tensor, metric: str) -> Tensor:
    """Return distances (M, N), squared for l2, of rows made ready."""
    if metric == "l1":
        return _manhattan(ours, theirs)
    if metric == "cosine":
        return 1 - ours @ theirs.T
    squares = ours.square().sum(dim=1, keepdim=True) + theirs.square().sum(dim=1)
    return squares.addmm_(ours, theirs.T, alpha=-2)


def _manhattan(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return L1 distances (M, N); on a CPU block by block in its caches, which `torch.cdist` leaves."""
    if ours.device.type != "cpu":
        return torch.cdist(ours, theirs, p=1.0)
    distances = ours.new_empty((len(ours), len(theirs)))
    rows = max(1, _VALUES // ours.shape[1])
    for start in range(0, len(theirs), rows):
        block = theirs[start : start + rows]
        difference = torch.empty_like(block)
        for query, row in zip(ours, distances, strict=True):
            torch.sub(block, query, out=difference).abs_()
            torch.sum(difference, dim=1, out=row[start : start + rows])
    return distances


def _exact_distances(queries: Tensor, examples: Tensor, candidates: Tensor, metric: str) -> Tensor:
    """Return the float64 distances, squared for l2, of each query (M, D) to its candidates (M, C)."""
    count, columns = candidates.shape[1], max(1, _VALUES // queries.shape[1])
    rows = max(1, columns // count)
    distances = torch.empty(candidates.shape, dtype=torch.float64, device=queries.device)
    for top in range(0, len(queries), rows):
        ours = queries[top : top + rows, None].double()
        for left in range(0, count, columns):
            part = candidates[top : top + rows, left : left + columns]
            theirs = examples.index_select(0, part.flatten()).double().view(*part.shape, -1)
            distances[top : top + rows, left : left + columns] = _EXACT[metric](ours, theirs)
    return distances


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return 1 - (a * b).sum(dim=-1) / norms.clamp_min(torch.finfo(torch.float64).tiny)


_EXACT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda a, b: (a - b).abs_().sum(dim=-1),
    "l2": lambda a, b: (a - b).square_().sum(dim=-1),
    "cosine": _cosine,
}
