"""A small convolutional network for 32x32 images that trains in minutes.

Modelled on Page's ResNet-9 and Jordan's airbench: fixed whitening filters, three blocks of two 3x3 convolutions, GELU,
batch norm whose scale is not trained, and logits scaled down. About 1.1 million parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagger.models.small import SmallNet

WHITENING_KERNEL = 2


class Block(nn.Module):
    """A convolution, max pooling that halves the resolution, and another convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm1 = _norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = _norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H // 2, W // 2)."""
        x = functional.gelu(self.norm1(functional.max_pool2d(self.conv1(x), 2)))
        return functional.gelu(self.norm2(self.conv2(x)))


class Speedrun(SmallNet):
    """The speed-run network, for images of any size."""

    def __init__(self, num_classes: int = 10, widths: tuple[int, int, int] = (64, 192, 192), scale: float = 1 / 9):
        super().__init__(num_classes, widths[-1], input_size=32, offset=False)
        self.scale = scale
        whitened = 2 * 3 * WHITENING_KERNEL**2
        self.whiten = nn.Conv2d(3, whitened, WHITENING_KERNEL, padding=0, bias=True)
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in zip((whitened, *widths[:-1]), widths, strict=True)))
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d):  # near-identity start: the first input channels pass through
                nn.init.dirac_(module.weight[: module.in_channels])

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to the last feature map (N, C, H', W')."""
        features: Tensor = self.blocks(functional.gelu(self.whiten(x)))
        return features

    def pool(self, x: Tensor) -> Tensor:
        """Return the maximum of each channel (N, C)."""
        return x.amax(dim=(2, 3))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the pooled features (N, C), or logits (N, num_classes)."""
        found = super().forward_head(x, pre_logits)
        return found if pre_logits else found * self.scale

    @torch.no_grad()
    def set_whitening(self, images: Tensor, eps: float = 5e-4) -> None:
        """Fix the first filters to the eigenvectors of image patches, scaled to unit variance, and their negatives.

        `images` are normalised (N, 3, H, W) floats; a few thousand suffice. Source: tysam-code/hlb-CIFAR10.
        """
        k = WHITENING_KERNEL
        patches = images.unfold(2, k, 1).unfold(3, k, 1).transpose(1, 3).reshape(-1, 3 * k * k).float()
        covariance = patches.T @ patches / len(patches)
        variances, vectors = torch.linalg.eigh(covariance)
        filters = (vectors / torch.sqrt(variances + eps)).T.reshape(-1, 3, k, k)
        self.whiten.weight.copy_(torch.cat((filters, -filters)))
        self.whiten.weight.requires_grad_(False)


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.4, eps=1e-5)
    norm.weight.requires_grad_(False)
    return norm
