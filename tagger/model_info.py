"""What is known of a model before its weights are loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images: timm's words, taken from its pretrained_cfg."""

    size: tuple[int, int] = (224, 224)
    """Height and width in pixels."""
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelInfo:
    """Everything about a model but its weights."""

    name: str
    """Goes into the `model` column."""
    model_id: str
    """Hash of everything that decides the scores."""
    architecture: str
    model_args: dict[str, Any]
    weights: str
    """uri of the safetensors file"""
    label_names: tuple[str, ...]
    task: str = "multiclass"
    preprocessing: Preprocessing = Preprocessing()
    thresholds: tuple[float, ...] | None = None
    temperature: float = 1.0
    metrics: dict[str, Any] = field(default_factory=dict)
    agreement: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Processor -> engine, device and precision -> how far it agrees with the reference there."""
    published: str | None = None
    """timm's name, when the weights come from the hub and need timm's own conversion"""

    @property
    def eager_only(self) -> bool:
        """Tell whether converted graphs cannot give its scores: neighbours are ranked in float64."""
        return self.architecture in ("tagger_knn", "tagger_feature_knn")


def fingerprint(value: Any) -> str:
    """Return a short hash of JSON-able data, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
