"""Write a checkpoint folder: weights, config.json in timm's format, tagger.json, plots and the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from tagger import storage
from tagger.checkpoint import card
from tagger.checkpoint.info import Json, ModelInfo
from tagger.checkpoint.load import BUNDLE, CARD, CONFIG, WEIGHTS, describe, to_json
from tagger.images import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from tagger.models.backbone import TimmNet

SCHEMA = 1
"""Version of tagger.json."""
_FROM_TIMM = ("pool_size", "first_conv", "classifier", "license", "fixed_input_size", "min_input_size")
"""Entries of timm's own pretrained_cfg that stay valid."""


def save(
    folder: str,
    net: nn.Module,
    *,
    architecture: str,
    model_args: Mapping[str, object],
    preprocessing: Preprocessing,
    label_names: Sequence[str],
    task: str,
    metrics: Mapping[str, object],
    training: Mapping[str, object],
    thresholds: Mapping[str, float] | None = None,
    calibration: Mapping[str, object] | None = None,
    plots: Mapping[str, tuple[str, bytes]] | None = None,
    files: Mapping[str, bytes] | None = None,
    facts: Mapping[str, object] | None = None,
) -> ModelInfo:
    """Write a checkpoint folder and return its description.

    `plots` are file name -> (title, PNG); `files` more files by name; `facts` more entries of tagger.json, which is
    written last: a folder that has it is complete. Raises WriteError.
    """
    import safetensors.torch

    out, drawn = storage.absolute(folder), plots or {}
    config = timm_config(net, architecture, model_args, preprocessing, label_names)
    bundle: Json = {
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
    model_args: Mapping[str, object],
    preprocessing: Preprocessing,
    label_names: Sequence[str],
) -> Json:
    """Return config.json; `timm.create_model("local-dir:...")` builds network and transform of a timm architecture."""
    published, grid = getattr(net, "pretrained_cfg", None) or {}, asdict(preprocessing)
    return {
        "architecture": architecture,
        "num_classes": len(label_names),
        "num_features": cast("TimmNet", net).num_features,
        "model_args": dict(model_args),
        "label_names": list(label_names),
        "pretrained_cfg": {key: value for key, value in published.items() if key in _FROM_TIMM} | {
            "input_size": [3, *grid.pop("size")], **grid, "num_classes": len(label_names),
        },
    }  # fmt: skip
