"""Description of a model, available without loading its weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tagger.checkpoint.unknown import Statistics
from tagger.images.transforms import Preprocessing

Json: TypeAlias = dict[str, Any]
"""A JSON object."""


@dataclass(frozen=True)
class ModelInfo:
    """Description of a model, without its weights."""

    name: str
    """Value of the `model` column."""
    model_id: str
    """Hash of everything that affects the scores."""
    architecture: str
    model_args: dict[str, object]
    weights: str
    """uri of the safetensors file"""
    label_names: tuple[str, ...]
    task: str = "multiclass"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    thresholds: tuple[float, ...] | None = None
    temperature: float = 1.0
    metrics: Json = field(default_factory=dict)
    agreement: dict[str, Json] = field(default_factory=dict)
    """Processor -> engine, device and precision -> agreement with the reference."""
    statistics: Statistics | None = field(default=None, compare=False, repr=False)
    """Statistics of the training images' features, which detect unknown images; part of model_id."""
    published: str | None = None
    """timm's name, if the weights come from the hub and need timm's own conversion."""

    @property
    def only_engine(self) -> str | None:
        """Return the only engine that runs it: onnx for a file, eager for k-NN, which ranks neighbours in float64."""
        if self.weights.lower().endswith(".onnx"):
            return "onnx"
        return "eager" if self.architecture in ("tagger_knn", "tagger_feature_knn") else None


def fingerprint(value: object) -> str:
    """Return a short hash of JSON-able data, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
