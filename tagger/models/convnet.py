"""CNTK's ConvNet_CIFAR10: four convolutions and three dense layers, 1,195,594 parameters.

Source: microsoft/CNTK, Examples/Image/Classification/ConvNet/Python, ConvNet_CIFAR10.py, ConvNet_CIFAR10_DataAug.py and
ConvNetLRN_CIFAR10_DataAug.py, whose logs give the number of parameters.

Layers: two blocks of (3x3 convolution to 64 channels, ReLU, both again, 3x3 max pooling with stride 2), with zero
padding: 32 -> 16 -> 8; then dense 256, ReLU, dropout 0.5; dense 128, ReLU, dropout 0.5; dense 10. With LRN, local
response normalisation (Krizhevsky et al. 2012) comes before each max pooling: k 1, alpha 0.001, beta 0.75, 4 channels
to each side. Weights are initialised with Glorot's uniform distribution, biases with zero.

The published recipe is in `tagger/benchmark/baselines.py`, in the units of `torch.optim.SGD`. CNTK's learning rates are
per image: multiplied by the batch size 64 they apply to the mean loss. Its momentum is a time constant T in images,
exp(-64 / T) per minibatch (T 600: 0.8988, 1200: 0.9481), with unit gain: the step is a weighted mean of gradients,
which is `dampening=momentum`. Its L2 weight is per image too, so it equals `weight_decay`, also on biases.
Published test errors: 18%; with augmentation 14%, and with LRN 13.8%. Without augmentation the input is
(pixels - 128) / 256, with it (pixels - mean image) / 256, padded by 4 pixels of the value 128.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from tagger.models.small import SmallNet

WIDTH, DENSE = 64, (256, 128)


class ConvNet(SmallNet):
    """ConvNet_CIFAR10; the embedding is its last dense layer."""

    def __init__(
        self, num_classes: int = 10, input_size: int = 32, offset: bool = False, lrn: bool = False, dropout: float = 0.5
    ) -> None:
        super().__init__(num_classes, DENSE[1], input_size, offset)
        self.blocks = nn.Sequential(*_block(3, lrn), *_block(WIDTH, lrn))
        side = -(-input_size // 4)
        sizes = (WIDTH * side**2, *DENSE)
        dense = ((nn.Linear(i, o), nn.ReLU(), nn.Dropout(dropout)) for i, o in pairwise(sizes))
        self.dense = nn.Sequential(*(module for layer in dense for module in layer))
        self.head = nn.Linear(DENSE[1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward_features(self, x: Tensor) -> Tensor:
        """Map (N, 3, S, S) to the last feature map (N, 64, S / 4, S / 4)."""
        features: Tensor = self.blocks(self.without_offset(x))
        return features

    def pool(self, x: Tensor) -> Tensor:
        """Map the feature map to the last dense layer (N, 128)."""
        dense: Tensor = self.dense(x.flatten(1))
        return dense


def _block(channels_in: int, lrn: bool) -> list[nn.Module]:
    both = [(channels_in, WIDTH), (WIDTH, WIDTH)]
    layers = [module for i, o in both for module in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU())]
    normalise = [nn.LocalResponseNorm(2 * 4 + 1, alpha=0.001, beta=0.75, k=1.0)] if lrn else []
    return [*layers, *normalise, nn.MaxPool2d(3, stride=2, padding=1)]
