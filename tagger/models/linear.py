"""The linear classifier: scores W x + b, one template per class."""

from __future__ import annotations

from torch import Tensor, nn

from tagger.models.small import SmallNet


class Linear(SmallNet):
    """One row of weights per class, initialised with zero: the losses are convex, so the start does not matter."""

    def __init__(self, num_classes: int = 10, input_size: int = 32, offset: bool = False) -> None:
        super().__init__(num_classes, 3 * input_size**2, input_size, offset)
        self.head = nn.Linear(self.num_features, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """Flatten (N, 3, S, S) to (N, 3 S S)."""
        return self.without_offset(x).flatten(1)

    def templates(self) -> Tensor:
        """Return the weights as images (num_classes, 3, S, S), one template per class."""
        templates: Tensor = self.head.weight.detach().unflatten(1, (3, self.input_size, self.input_size))
        return templates
