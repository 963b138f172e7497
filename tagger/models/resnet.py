"""Residual networks for CIFAR: ResNet-20, -32, -44, -56, -110 (He et al. 2015, arXiv 1512.03385, section 4.2).

One 3x3 convolution, three stages of n blocks at 16, 32 and 64 channels, the resolution halved before the second and
third; global average pooling, one dense layer: 6n + 2 layers. Shortcuts have no parameters (option A): where the shape
changes, every other pixel and zeros for the new channels.

The published recipe: SGD, batch size 128, momentum 0.9, weight decay 0.0001, learning rate 0.1, divided by 10 at steps
32,000 and 48,000, 64,000 steps in all (164 epochs of the 50,000 images); ResNet-110 warms up with 0.01 for about 400
steps, until the training error is below 80%. Input: the mean image is subtracted (pixel-mean). Augmentation: pad by 4
pixels of zeros after the subtraction, random 32x32 crop, random horizontal flip.
Published test errors: ResNet-20 8.75%, -32 7.51%, -44 7.17%, -56 6.97%, -110 6.43%.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from tagger.errors import UsageError
from tagger.models.small import SmallNet

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3x3 convolutions and an identity shortcut."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.stride, self.new_channels = channels_out // channels_in, channels_out - channels_in
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape, or to (N, 2 C, H / 2, W / 2)."""
        residual = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.new_channels:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return functional.relu(x + residual)


class ResNet(SmallNet):
    """A residual network of `depth` layers."""

    def __init__(self, num_classes: int = 10, input_size: int = 32, offset: bool = False, depth: int = 20) -> None:
        if depth < 8 or depth % 6 != 2:
            raise UsageError(f"depth must be 6n + 2 (20, 32, 44, 56 or 110), got {depth}")
        super().__init__(num_classes, WIDTHS[-1], input_size, offset)
        self.conv = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        channels = [WIDTHS[0], *(width for width in WIDTHS for _ in range((depth - 2) // 6))]
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in pairwise(channels)))
        self.head = nn.Linear(WIDTHS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.head.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, S, S) to the last feature map (N, 64, S / 4, S / 4)."""
        features: Tensor = self.blocks(functional.relu(self.norm(self.conv(self.without_offset(x)))))
        return features

    def pool(self, x: Tensor) -> Tensor:
        """Return the mean of each channel (N, 64)."""
        return x.mean(dim=(2, 3))
