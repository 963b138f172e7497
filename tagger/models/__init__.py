"""The networks, one module per family."""

from __future__ import annotations

from torch import nn

from tagger.errors import ModelError
from tagger.models import backbone
from tagger.models.convnet import ConvNet
from tagger.models.feature_knn import FeatureKnn
from tagger.models.knn import Knn
from tagger.models.linear import Linear
from tagger.models.mlp import Mlp
from tagger.models.resnet import ResNet
from tagger.models.speedrun import Speedrun

FAMILIES: dict[str, type[nn.Module]] = {
    "tagger_knn": Knn,
    "tagger_feature_knn": FeatureKnn,
    "tagger_linear": Linear,
    "tagger_mlp": Mlp,
    "tagger_convnet": ConvNet,
    "tagger_resnet": ResNet,
    "tagger_speedrun": Speedrun,
}
"""Architectures not in timm, by their name in a checkpoint's config.json."""


def build(architecture: str, num_classes: int, model_args: dict[str, object]) -> nn.Module:
    """Create a network with random weights; raises ModelError for an unknown architecture or bad arguments."""
    if family := FAMILIES.get(architecture):
        try:
            return family(num_classes=num_classes, **model_args)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(f"{architecture}: cannot be built with {model_args} ({error})") from error
    return backbone.create(architecture, num_classes, model_args)
