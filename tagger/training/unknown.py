"""Statistics of unknown images, of a network that was just trained."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from tagger.checkpoint import Built
from tagger.checkpoint.unknown import Statistics
from tagger.data.splits import NAMES
from tagger.evaluation import unknown
from tagger.images import UInt8Array
from tagger.inference.engines import Float32Array
from tagger.models.backbone import TimmNet
from tagger.training.data import TrainingData
from tagger.training.loaders import Normaliser
from tagger.training.methods import TrainedNetwork

_FROZEN = ("probe", "knn")
"""Methods that leave the features of the backbone as they are."""


def fit(fitted: TrainedNetwork, data: TrainingData) -> Statistics | None:
    """Return the statistics of a trained network; None where there are too few images."""
    splits = {name: data.indices(name) for name in NAMES}
    if data.features is not None and fitted.method in _FROZEN:
        return unknown.fit(splits, data.features.__getitem__)
    return unknown.fit(splits, lambda rows: embed(fitted.network, data.pixels.fitted(rows), data.device))


@torch.inference_mode()
def embed(network: Built, pixels: UInt8Array, device: str) -> Float32Array:
    """Return the embeddings (N, D) of images (N, H, W, 3) of the size of the network's input."""
    net, normaliser = network.net.eval().to(device), Normaliser(network.preprocessing, device)
    timm_net, parts = cast(TimmNet, net), list[Float32Array]()
    for batch in normaliser.batches(pixels):
        features = timm_net.forward_head(timm_net.forward_features(batch), pre_logits=True)
        parts.append(features.float().cpu().numpy())
    net.cpu()
    return np.concatenate(parts)
