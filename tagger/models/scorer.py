"""A network with normalisation before it and softmax or sigmoid after it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from tagger.images import normalise
from tagger.models.backbone import TimmNet


class Scorer(nn.Module):
    """Map uint8 images (N, H, W, 3) to scores (N, num_classes) and embeddings (N, D)."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], task: str, temperature: float
    ) -> None:
        super().__init__()
        self.net, self.multilabel, self.temperature = net, task == "multilabel", temperature
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (scores, embeddings), both fp32."""
        x = normalise(images, self.mean, self.std)
        net = cast(TimmNet, self.net)
        maps = net.forward_features(x)
        embedding = net.forward_head(maps, pre_logits=True)
        logits = net.forward_head(maps).float() / self.temperature
        scores = logits.sigmoid() if self.multilabel else logits.softmax(dim=1)
        return scores, embedding.float()
