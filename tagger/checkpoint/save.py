"""Write a checkpoint folder: weights, config.json in timm's format, tagger.json, plots and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from tagger import storage
from tagger.checkpoint import card
from tagger.checkpoint.info import ModelInfo
from tagger.checkpoint.load import BUNDLE, CARD, CONFIG, WEIGHTS, describe
from tagger.images import Preprocessing

if TYPE_CHECKING:
    from torch import nn

SCHEMA = 1
"""Version of tagger.json."""
_FROM_TIMM = ("pool_size", "first_conv", "classifier", "license", "fixed_input_size", "min_input_size")
"""Entries of timm's own pretrained_cfg that stay true."""


def save(
    folder: str,
    net: nn.Module,
    *,
    architecture: str,
    model_args: Mapping[str, Any],
    preprocessing: Preprocessing,
    label_names: Sequence[str],
    task: str,
    metrics: Mapping[str, Any],
    training: Mapping[str, Any],
    thresholds: Mapping[str, float] | None = None,
    calibration: Mapping[str, Any] | None = None,
    plots: Mapping[str, tuple[str, bytes]] | None = None,
    files: Mapping[str, bytes] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> ModelInfo:
    """Write a checkpoint folder and return its description.

    `plots` are file name -> (title, PNG); `files` more files by name; `facts` more entries of tagger.json, which is
    written last: a folder that has it is whole. Raises WriteError.
    """
    import safetensors.torch

    out, drawn = storage.absolute(folder), plots or {}
    config = timm_config(net, architecture, model_args, preprocessing, label_names)
    bundle = {
        "schema": SCHEMA,
        "task": task,
        "label_names": list(label_names),
        "thresholds": thresholds,
        "calibration": calibration or {},
        "metrics": metrics,
        "training": training,
        **(facts or {}),
    }
    name = out.rstrip("/").rpartition("/")[2]
    parameters = sum(parameter.numel() for parameter in net.parameters())
    titles = {title: f"plots/{file}.png" for file, (title, _) in drawn.items()}
    content = {
        WEIGHTS: safetensors.torch.save({key: value.contiguous() for key, value in net.state_dict().items()}),
        **{f"plots/{file}.png": png for file, (_, png) in drawn.items()},
        **(files or {}),
        CONFIG: to_json(config),
        CARD: card.render(name, config, bundle, titles, parameters).encode(),
        BUNDLE: to_json(bundle),
    }
    for file, data in content.items():
        storage.write_atomic(storage.join(out, file), data)
    return describe(folder)


def timm_config(
    net: nn.Module,
    architecture: str,
    model_args: Mapping[str, Any],
    preprocessing: Preprocessing,
    label_names: Sequence[str],
) -> dict[str, Any]:
    """Return config.json; `timm.create_model("local-dir:...")` builds network and transform of a timm architecture."""
    published = getattr(net, "pretrained_cfg", None) or {}
    return {
        "architecture": architecture,
        "num_classes": len(label_names),
        "num_features": cast(Any, net).num_features,
        "model_args": dict(model_args),
        "label_names": list(label_names),
        "pretrained_cfg": {key: value for key, value in published.items() if key in _FROM_TIMM} | {
            "input_size": [3, *preprocessing.size],
            "interpolation": preprocessing.interpolation,
            "crop_pct": preprocessing.crop_pct,
            "crop_mode": preprocessing.crop_mode,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": len(label_names),
        },
    }  # fmt: skip


def to_json(value: Mapping[str, Any]) -> bytes:
    """Return JSON as people read it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
