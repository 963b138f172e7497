"""A backbone with a head for the user's own labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import nn

from tagger import checkpoint, models
from tagger.checkpoint import Built
from tagger.checkpoint.info import ModelInfo
from tagger.errors import ModelError, UsageError
from tagger.models.backbone import TimmNet
from tagger.models.feature_knn import FeatureKnn
from tagger.training.config import TrainConfig
from tagger.training.knn import Neighbours
from tagger.training.probe import Probe


def with_head(backbone: ModelInfo, num_classes: int, config: TrainConfig) -> Built:
    """Return the backbone's network with a new linear head.

    Raises UsageError for a network without timm's head, ModelError when timm cannot build it.
    """
    pretrained = checkpoint.build_resized(backbone)
    if not hasattr(pretrained, "get_classifier"):
        raise UsageError(
            f"--backbone {backbone.name}: {backbone.architecture} is not a timm backbone; its head is fixed"
        )
    arguments = dict(backbone.model_args)
    if config.image_size and hasattr(pretrained, "set_input_size"):
        arguments["img_size"] = config.image_size
    torch.manual_seed(config.seed)  # for a head that the probe does not fill
    net = build(backbone.architecture, num_classes, arguments, config)
    heads = tuple(f"{name}." for name in _head_names(pretrained))
    body = {name: value for name, value in pretrained.state_dict().items() if not name.startswith(heads)}
    try:
        missing, unexpected = net.load_state_dict(body, strict=False)
    except RuntimeError as error:  # weights of another shape
        raise _other_at(backbone, config) from error
    if unexpected or any(not name.startswith(heads) for name in missing):
        raise ModelError(f"{backbone.name}: its weights do not fit {backbone.architecture} with another head")
    if arguments != backbone.model_args and not _same_features(net, pretrained, backbone.preprocessing.size):
        raise _other_at(backbone, config)
    return Built(net, backbone.architecture, arguments, backbone.preprocessing)


def build(architecture: str, num_classes: int, model_args: Mapping[str, object], config: TrainConfig) -> nn.Module:
    """Return a network with the configured dropout and stochastic depth, without trained weights."""
    dropping = {"drop_rate": config.dropout, "drop_path_rate": config.drop_path}
    return models.build(architecture, num_classes, {**model_args, **{k: v for k, v in dropping.items() if v}})


def _other_at(backbone: ModelInfo, config: TrainConfig) -> UsageError:
    """Return the error for a network that changes with its size, such as transformers whose windows then grow."""
    return UsageError(
        f"--image-size {config.image_size}: {backbone.architecture} would become a different network at that size; "
        "omit --image-size, or choose a backbone made for it"
    )


@torch.no_grad()
def _same_features(one: nn.Module, other: nn.Module, size: tuple[int, int]) -> bool:
    probe = torch.linspace(-1, 1, 3 * size[0] * size[1]).sin().view(1, 3, *size)
    found, expected = (cast(TimmNet, net.eval()).forward_features(probe) for net in (one, other))
    return bool(torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())))


def set_head(net: nn.Module, probe: Probe) -> bool:
    """Copy a probe's weights into the head; return False unless the head is a single linear layer of the same size."""
    head = cast(TimmNet, net).get_classifier()
    if not isinstance(head, nn.Linear) or tuple(head.weight.shape) != probe.weight.shape:
        return False
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(probe.weight))
        head.bias.copy_(torch.from_numpy(probe.bias))
    return True


def with_neighbours(
    backbone: ModelInfo, found: Neighbours, num_classes: int, config: TrainConfig
) -> tuple[Built, FeatureKnn]:
    """Return the backbone's network with a head that votes among labelled images."""
    body = with_head(backbone, 0, config)
    count, width = found.examples.shape
    model_args: dict[str, object] = {
        "backbone": backbone.architecture, "backbone_args": body.model_args, "examples": count, "features": width,
        "k": found.k, "metric": found.metric,
    }  # fmt: skip
    net = cast(FeatureKnn, models.build("tagger_feature_knn", num_classes, model_args))
    net.backbone.load_state_dict(body.net.state_dict())
    net.neighbours.examples.copy_(found.examples)
    net.neighbours.labels.copy_(found.labels)
    return Built(net, "tagger_feature_knn", model_args, backbone.preprocessing), net


def _head_names(net: nn.Module) -> list[str]:
    names = getattr(net, "pretrained_cfg", {}).get("classifier", "classifier")
    return [names] if isinstance(names, str) else list(names)
