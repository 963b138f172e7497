"""The reference: eager torch in fp32, channels_last."""

from __future__ import annotations

import torch
from torch import nn

from tagger.engines import Float32Array
from tagger.images import UInt8Array
from tagger.model_info import ModelInfo
from tagger.models.scorer import Scorer


class EagerEngine:
    """Run the network as timm would, on CPU or CUDA."""

    def __init__(self, scorer: Scorer, device: str) -> None:
        self.name = f"torch {torch.__version__} {device} fp32"
        self._device = device
        self._scorer = scorer.to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Score a batch."""
        batch = torch.from_numpy(images).to(self._device)
        scores, embeddings = self._scorer(batch)
        return scores.cpu().numpy(), embeddings.cpu().numpy()


def scorer(info: ModelInfo, net: nn.Module) -> Scorer:
    """Put a network between its normalisation and its probabilities."""
    prep = info.preprocessing
    return Scorer(net, prep.mean, prep.std, info.task, info.temperature).eval()
