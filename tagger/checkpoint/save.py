"""Write a checkpoint folder: weights, config.json in timm's format, tagger.json, plots and the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from tagger import storage
from tagger.checkpoint import card, unknown
from tagger.checkpoint.info import Json, ModelInfo
from tagger.checkpoint.load import BUNDLE, CARD, CONFIG, WEIGHTS, build, describe, read_json, to_json
from tagger.checkpoint.unknown import Statistics
from tagger.errors import ModelError
from tagger.images import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from tagger.models.backbone import TimmNet

SCHEMA = 1
"""Version of tagger.json."""
_FROM_TIMM = ("pool_size", "first_conv", "classifier", "license", "fixed_input_size", "min_input_size")
"""Entries of timm's pretrained_cfg that remain valid."""


@dataclass(frozen=True)
class Built:
    """A network, and the arguments to rebuild it."""

    net: nn.Module
    architecture: str
    model_args: dict[str, object]
    preprocessing: Preprocessing


def save(
    folder: str,
    network: Built,
    *,
    label_names: Sequence[str],
    task: str,
    metrics: Mapping[str, object],
    training: Mapping[str, object],
    thresholds: Mapping[str, float] | None = None,
    calibration: Mapping[str, object] | None = None,
    plots: Mapping[str, tuple[str, bytes]] | None = None,
    files: Mapping[str, bytes] | None = None,
    facts: Mapping[str, object] | None = None,
    statistics: Statistics | None = None,
) -> ModelInfo:
    """Write a checkpoint folder and return its description.

    `plots` are file name -> (title, PNG), `files` additional files by name, `facts` additional entries of tagger.json.
    tagger.json is written last, so a folder that has it is complete. Raises WriteError.
    """
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
    added = dict(files or {})
    if statistics:
        bundle["unknown"] = statistics.entry()
        added[unknown.FILE] = unknown.to_bytes(statistics)
    _write(storage.absolute(folder), network, bundle, plots or {}, added)
    return describe(folder)


def _write(
    out: str, network: Built, bundle: Json, plots: Mapping[str, tuple[str, bytes]], files: Mapping[str, bytes]
) -> None:
    import safetensors.torch

    net, config = network.net, timm_config(network, bundle["label_names"])
    name = out.rstrip("/").rpartition("/")[2]
    parameters = sum(parameter.numel() for parameter in net.parameters())
    titles = {title: f"plots/{file}.png" for file, (title, _) in plots.items()}
    content = {
        WEIGHTS: safetensors.torch.save({key: value.contiguous() for key, value in net.state_dict().items()}),
        **{f"plots/{file}.png": png for file, (_, png) in plots.items()},
        **files,
        CONFIG: to_json(config),
        CARD: card.render(name, config, bundle, titles, parameters).encode(),
        BUNDLE: to_json(bundle),
    }
    for file, data in content.items():
        storage.write_atomic(storage.join(out, file), data)


def set_statistics(model: str, statistics: Statistics) -> ModelInfo:
    """Add statistics for unknown images to a checkpoint folder, or replace them; return its new description.

    Raises WriteError, and ModelError for anything but a checkpoint folder.
    """
    folder, info = storage.absolute(model), describe(model)
    uri, text = storage.join(folder, BUNDLE), storage.join(folder, CARD)
    if not storage.exists(uri):
        raise ModelError(
            f"{model}: has no {BUNDLE}; statistics for unknown images can be added to checkpoint folders only"
        )
    bundle = read_json(uri) | {"unknown": statistics.entry()}
    parameters = sum(parameter.numel() for parameter in build(info).parameters())
    plots = card.plots_of(storage.read_bytes(text).decode()) if storage.exists(text) else {}
    content = {
        unknown.FILE: unknown.to_bytes(statistics),
        CARD: card.render(info.name, read_json(storage.join(folder, CONFIG)), bundle, plots, parameters).encode(),
        BUNDLE: to_json(bundle),
    }
    for file, data in content.items():
        storage.write_atomic(storage.join(folder, file), data)
    return describe(model)


def timm_config(network: Built, label_names: Sequence[str]) -> Json:
    """Return config.json, from which `timm.create_model("local-dir:...")` builds the network of a timm architecture."""
    published, grid = getattr(network.net, "pretrained_cfg", None) or {}, asdict(network.preprocessing)
    return {
        "architecture": network.architecture,
        "num_classes": len(label_names),
        "num_features": cast("TimmNet", network.net).num_features,
        "model_args": network.model_args,
        "label_names": list(label_names),
        "pretrained_cfg": {key: value for key, value in published.items() if key in _FROM_TIMM} | {
            "input_size": [3, *grid.pop("size")], **grid, "num_classes": len(label_names),
        },
    }  # fmt: skip
