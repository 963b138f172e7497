"""k-nearest neighbours on the features of a frozen backbone."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from tagger.models import backbone as timm_backbone
from tagger.models.backbone import TimmNet
from tagger.models.knn import Knn


class FeatureKnn(nn.Module):
    """A timm network with a k-NN classifier as its head.

    `features` is the number of features D of the backbone; `backbone_args` are timm's model_args.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str,
        examples: int,
        features: int,
        k: int,
        metric: str = "cosine",
        backbone_args: dict[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, features
        self.backbone = timm_backbone.create(backbone, 0, backbone_args or {})
        self.neighbours = Knn(num_classes, examples, k, metric, features=features)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to the backbone's feature maps."""
        return cast(TimmNet, self.backbone).forward_features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map feature maps to features (N, D) or to logits (N, num_classes)."""
        features = cast(TimmNet, self.backbone).forward_head(x, pre_logits=True)
        return features if pre_logits else self.neighbours.forward_head(features.float())

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))
