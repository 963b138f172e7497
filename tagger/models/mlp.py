"""The multilayer perceptron: fully connected layers with ReLU or sigmoid between them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor, nn

from tagger.errors import UsageError
from tagger.models.small import SmallNet

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class Mlp(SmallNet):
    """`depth` hidden layers of `width` units, then one logit per class.

    Weights are initialised after He et al. 2015 (arXiv 1502.01852) for ReLU, Glorot and Bengio 2010 for sigmoid.
    """

    def __init__(
        self,
        num_classes: int = 10,
        input_size: int = 32,
        offset: bool = False,
        depth: int = 2,
        width: int = 512,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise UsageError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if min(depth, width) < 1:
            raise UsageError(
                f"depth and width must be at least 1, got {depth} and {width}; use linear for no hidden layer"
            )
        super().__init__(num_classes, width, input_size, offset)
        sizes = [3 * input_size**2, *[width] * depth]
        layers = (_layer(i, o, activation, dropout, batch_norm) for i, o in pairwise(sizes))
        self.hidden = nn.Sequential(*(module for layer in layers for module in layer))
        self.head = nn.Linear(width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, S, S) to the last hidden layer (N, width)."""
        hidden: Tensor = self.hidden(self.without_offset(x).flatten(1))
        return hidden


def _layer(inputs: int, outputs: int, activation: str, dropout: float, batch_norm: bool) -> Iterator[nn.Module]:
    linear = nn.Linear(inputs, outputs, bias=not batch_norm)
    if activation == "relu":
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    else:
        nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    yield linear
    if batch_norm:
        yield nn.BatchNorm1d(outputs)
    yield ACTIVATIONS[activation]()
    if dropout:
        yield nn.Dropout(dropout)
