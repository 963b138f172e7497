"""The rungs that are trained by minibatches: which net, how its pixels are prepared, and by which recipe.

Sources of the recipes: tagger/models/convnet.py, resnet.py and speedrun.py. A smaller budget changes the epochs alone,
so that a schedule still runs to its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tagger.training.fitting import Recipe
from tagger.training.from_folders import SPEEDRUN

CIFAR_IMAGES = 50_000
WITHOUT_BF16 = 0.3
"""Speed of a processor that has no bf16 instructions, as a share of one that has them."""
LEAST = 1000
"""Training images that the smallest budget leaves."""
_NO_PROBABILITIES = "its scores are a softmax over outputs that were not trained as one"


@dataclass(frozen=True)
class Step:
    """One net of the ladder."""

    title: str
    family: str
    recipe: Recipe
    """At full budget."""
    per_minute: float
    """Epochs of CIFAR-10's 50,000 images that two CPU cores with bf16 do in a minute."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """model_args"""
    preparation: str = "pixel-mean"
    weight: float = 1.0
    """Of its share of a budget."""
    note: str = ""
    """What to know of its numbers."""

    @property
    def holds_out(self) -> bool:
        """Tell whether validation images are kept out of training, to stop early."""
        return self.recipe.patience is not None

    def within(self, minutes: float | None, images: int, side: int = 32, bf16: bool = True) -> tuple[Recipe, int]:
        """Return the recipe and the number of training images, cut to what so many minutes allow; None: all of it.

        `side` is that of the images, in pixels. Both are decided by this table, not by a clock, so that the same seed
        gives the same net again. Less than one epoch is one epoch of fewer images.
        """
        if minutes is None:
            return self.recipe, images
        speed = (1 if bf16 else WITHOUT_BF16) * (32 / side) ** 2
        seen = int(minutes * self.per_minute * speed * CIFAR_IMAGES)
        epochs = min(self.recipe.epochs, max(1, seen // max(images, 1)))
        return replace(self.recipe, epochs=epochs), min(images, max(seen, LEAST))


_LINEAR = Recipe(epochs=40, batch_size=128, lr=0.005, weight_decay=1e-3, patience=5)
_MLP = Recipe(epochs=40, batch_size=128, lr=0.02, weight_decay=5e-4, mirror="random", patience=8)
_MLP_SIGMOID = replace(_MLP, lr=0.1)
_CONVNET = Recipe(
    epochs=30, batch_size=64, lr=0.1, schedule="1x10,0.3x10,0.1x10", momentum="0x20,0.9x10", unit_gain=True,
    weight_decay=0.002,
)  # fmt: skip
_CONVNET_AUGMENTED = Recipe(
    epochs=80, batch_size=64, lr=0.1, schedule="1x20,0.3x20,0.1x20,0.03x10,0.01x10",
    momentum="0x20,0.8988x20,0.9481x40", unit_gain=True, weight_decay=0.002, mirror="random", shift=4,
)  # fmt: skip
_RESNET = Recipe(
    epochs=164, batch_size=128, lr=0.1, schedule="1x82,0.1x41,0.01x41", weight_decay=1e-4, mirror="random", shift=4,
    fill="mean",
)  # fmt: skip
_RESNET_110 = replace(_RESNET, schedule="0.1x1,1x81,0.1x41,0.01x41")
_RELU = {"depth": 3, "width": 1024, "activation": "relu", "batch_norm": True, "dropout": 0.2}

STEPS: dict[str, Step] = {
    "linear": Step("Linear, softmax", "linear", _LINEAR, 120, weight=0.3),
    "linear-l1": Step("Linear, softmax, L1", "linear", replace(_LINEAR, weight_decay=0.0, l1=1e-4), 120, weight=0.3),
    "linear-sigmoid": Step(
        "Linear, sigmoid loss", "linear", replace(_LINEAR, loss="sigmoid"), 120, weight=0.3, note=_NO_PROBABILITIES
    ),
    "linear-squared": Step(
        "Linear, squared error",
        "linear",
        replace(_LINEAR, loss="squared", lr=5e-4),
        120,
        weight=0.3,
        note=_NO_PROBABILITIES,
    ),
    "mlp-sigmoid": Step(
        "MLP, sigmoid", "mlp", _MLP_SIGMOID, 7, _RELU | {"activation": "sigmoid", "batch_norm": False}, weight=0.8
    ),
    "mlp": Step("MLP, ReLU", "mlp", _MLP, 7, _RELU, weight=0.8),
    "convnet": Step("CNTK ConvNet_CIFAR10", "convnet", _CONVNET, 1.3, weight=2),
    "convnet-aug": Step("CNTK ConvNet_CIFAR10_DataAug", "convnet", _CONVNET_AUGMENTED, 1.3, weight=2),
    "convnet-lrn": Step(
        "CNTK ConvNet_CIFAR10_DataAug + LRN", "convnet", _CONVNET_AUGMENTED, 0.3, {"lrn": True}, weight=2
    ),
    **{
        f"resnet{depth}": Step(f"ResNet-{depth}", "resnet", recipe, 1.2 * 20 / depth, {"depth": depth}, weight=2)
        for depth, recipe in [(20, _RESNET), (32, _RESNET), (44, _RESNET), (56, _RESNET), (110, _RESNET_110)]
    },
    "speedrun": Step("Speed-run net", "speedrun", SPEEDRUN, 1.0, preparation="standardise", weight=2.5),
}
"""By the name in --models, from the simplest up."""
