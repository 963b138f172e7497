"""Base class of the networks for small images: timm's methods and an input offset."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tagger.errors import UsageError


class SmallNet(nn.Module):
    """A network for normalised images (N, 3, S, S), S being `input_size`.

    With `offset`, a buffer (3, S, S) is subtracted from the input: zero until set, for the mean image of the
    pixel-mean preparation, for which pretrained_cfg has no field.
    """

    offset: Tensor | None
    head: nn.Linear

    def __init__(self, num_classes: int, num_features: int, input_size: int, offset: bool) -> None:
        super().__init__()
        self.num_classes, self.num_features, self.input_size = num_classes, num_features, input_size
        self.register_buffer("offset", torch.zeros(3, input_size, input_size) if offset else None)

    def set_offset(self, value: Tensor) -> None:
        """Set the offset (3, S, S); raises UsageError for another shape, or when built without offset."""
        if self.offset is None or self.offset.shape != value.shape:
            own = None if self.offset is None else tuple(self.offset.shape)
            raise UsageError(f"offset must have the shape {own}, got {tuple(value.shape)}")
        self.offset.copy_(value)

    def without_offset(self, x: Tensor) -> Tensor:
        """Return x minus the offset, if there is one."""
        return x if self.offset is None else x - self.offset

    def forward_features(self, x: Tensor) -> Tensor:
        """Map normalised images (N, 3, S, S) to features."""
        raise NotImplementedError

    def pool(self, x: Tensor) -> Tensor:
        """Map features to embeddings (N, num_features)."""
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features to embeddings (N, num_features) or logits (N, num_classes)."""
        embedding = self.pool(x)
        return embedding if pre_logits else self.head(embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N, 3, S, S) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))
