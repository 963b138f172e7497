"""Baselines: networks trained from scratch, with their recipes.

Sources of the recipes: tagger/models/convnet.py, resnet.py and speedrun.py. A budget reduces epochs, and the schedule
is scaled with them, so that it always runs to its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tagger.training.recipe import SPEEDRUN, Recipe

_NO_PROBABILITIES = "not trained with softmax, so the scores are not probabilities"


@dataclass(frozen=True)
class Baseline:
    """A network and its training recipe."""

    title: str
    family: str
    """tagger/models/<family>.py"""
    recipe: Recipe
    model_args: dict[str, object] = field(default_factory=dict)
    normalisation: str = "pixel-mean"
    weight: float = 1.0
    """Share of a budget, relative to the other models."""
    note: str = ""

    @property
    def holds_out(self) -> bool:
        """Return whether validation images are left out of training, for early stopping."""
        return self.recipe.patience is not None


_LINEAR = Recipe(epochs=40, batch_size=128, lr=0.005, weight_decay=1e-3, patience=5)
_MLP = Recipe(epochs=40, batch_size=128, lr=0.02, weight_decay=5e-4, flip="random", patience=8)
_MLP_SIGMOID = replace(_MLP, lr=0.1)
_CONVNET = Recipe(
    epochs=30, batch_size=64, lr=0.1, schedule="0.1x10,0.03x10,0.01x10", momentum="0x20,0.9x10", unit_gain=True,
    weight_decay=0.002,
)  # fmt: skip
_CONVNET_AUGMENTED = Recipe(
    epochs=80, batch_size=64, lr=0.1, schedule="0.1x20,0.03x20,0.01x20,0.003x10,0.001x10",
    momentum="0x20,0.8988x20,0.9481x40", unit_gain=True, weight_decay=0.002, flip="random", translate=4,
)  # fmt: skip
_RESNET = Recipe(
    epochs=164, batch_size=128, lr=0.1, schedule="0.1x82,0.01x41,0.001x41", weight_decay=1e-4, flip="random",
    translate=4, fill="mean",
)  # fmt: skip
_RESNET_110 = replace(_RESNET, schedule="0.01x1,0.1x81,0.01x41,0.001x41")
_RELU = {"depth": 3, "width": 1024, "activation": "relu", "batch_norm": True, "dropout": 0.2}

BASELINES: dict[str, Baseline] = {
    "linear": Baseline("Linear, softmax", "linear", _LINEAR, weight=0.3),
    "linear-l1": Baseline("Linear, softmax, L1", "linear", replace(_LINEAR, weight_decay=0.0, l1=1e-4), weight=0.3),
    "linear-sigmoid": Baseline(
        "Linear, sigmoid loss", "linear", replace(_LINEAR, loss="sigmoid"), weight=0.3, note=_NO_PROBABILITIES
    ),
    "linear-squared": Baseline(
        "Linear, squared error",
        "linear",
        replace(_LINEAR, loss="squared", lr=5e-4),
        weight=0.3,
        note=_NO_PROBABILITIES,
    ),
    "mlp-sigmoid": Baseline(
        "MLP, sigmoid", "mlp", _MLP_SIGMOID, _RELU | {"activation": "sigmoid", "batch_norm": False}, weight=0.8
    ),
    "mlp": Baseline("MLP, ReLU", "mlp", _MLP, _RELU, weight=0.8),
    "convnet": Baseline("CNTK ConvNet_CIFAR10", "convnet", _CONVNET, weight=2),
    "convnet-aug": Baseline("CNTK ConvNet_CIFAR10_DataAug", "convnet", _CONVNET_AUGMENTED, weight=2),
    "convnet-lrn": Baseline(
        "CNTK ConvNet_CIFAR10_DataAug + LRN", "convnet", _CONVNET_AUGMENTED, {"lrn": True}, weight=2
    ),
    **{
        f"resnet{depth}": Baseline(f"ResNet-{depth}", "resnet", recipe, {"depth": depth}, weight=2)
        for depth, recipe in [(20, _RESNET), (32, _RESNET), (44, _RESNET), (56, _RESNET), (110, _RESNET_110)]
    },
    "speedrun": Baseline("Speed-run net", "speedrun", SPEEDRUN, normalisation="standardise", weight=2.5),
}
"""Baselines by their name in --models, the simplest first."""

TRANSFER = {"knn-features": "knn", "probe": "probe", "finetune": "finetune"}
"""Models on a pretrained backbone, with the --method of `tagger train` of each."""
KNOWN = ("knn", *BASELINES, *TRANSFER)
DETERMINISTIC = ("knn", "knn-features", "probe")
"""Models whose training uses no random numbers: one seed is enough."""


def weight(model: str) -> float:
    """Return a model's weight in sharing a budget; cheap models run first and leave their unused time to the others."""
    return BASELINES[model].weight if model in BASELINES else {"knn": 0.2, "finetune": 2.5}.get(model, 0.25)
