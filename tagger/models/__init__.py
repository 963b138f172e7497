"""The networks, one file per family."""

from __future__ import annotations

from typing import Any

from torch import nn

from tagger.models import backbone
from tagger.models.speedrun import Speedrun

FAMILIES = {"tagger_speedrun": Speedrun}
"""Architectures of our own, by the name in a checkpoint's config.json; every other name is timm's."""


def build(architecture: str, num_classes: int, model_args: dict[str, Any]) -> nn.Module:
    """Create a network with random weights; raises ModelError when nobody has the architecture."""
    if family := FAMILIES.get(architecture):
        return family(num_classes=num_classes, **model_args)
    return backbone.create(architecture, num_classes, model_args)
