"""Where a training stands after an epoch: one safetensors file, written whole, without pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from tagger import storage
from tagger.errors import TableError, UsageError
from tagger.training.config import TrainConfig, differences

State = dict[str, Tensor]


@dataclass
class Progress:
    """How far a run is, beside its weights."""

    epoch: int = 0
    """Epochs that are finished."""
    best_epoch: int = 0
    best_score: float = float("-inf")
    seconds: float = 0.0
    earlier_seconds: float = 0.0
    """Of them, those of the call or calls that were killed."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """One entry per epoch: epoch, train_loss, val_loss, val_score, lr, seconds."""

    @property
    def tried_score(self) -> float:
        """Return the best validation score of an epoch, 0 when none was finished; the probe it began with is none."""
        return max((entry["val_score"] for entry in self.curve), default=0.0)


def pack(uri: str, parts: dict[str, State], optimizer: torch.optim.Optimizer, about: dict[str, Any]) -> None:
    """Write weights by part, the optimizer, and whatever else JSON can hold."""
    state = optimizer.state_dict()
    tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    for index, values in state["state"].items():
        kept = {name: value for name, value in values.items() if value is not None}
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in kept.items()}
    content = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    described = json.dumps({**about, "groups": state["param_groups"]})
    storage.write_atomic(uri, save_tensors(content, {"tagger": described}))


def unpack(uri: str) -> tuple[dict[str, State], dict[str, Any], dict[str, Any]]:
    """Return weights by part, the optimizer's state_dict, and what else was kept; raises TableError when damaged."""
    content = storage.read_bytes(uri)
    try:
        tensors = load_tensors(content)
        length = int.from_bytes(content[:8], "little")
        about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["tagger"])
        groups = about.pop("groups")
    except (SafetensorError, KeyError, ValueError) as error:
        raise TableError(
            f"{uri}: damaged state of an unfinished training ({error}); delete it and start again"
        ) from error
    parts: dict[str, State] = {}
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        if part == "optimizer":
            index, _, slot = rest.partition("/")
            slots.setdefault(int(index), {})[slot] = value
        else:
            parts.setdefault(part, {})[rest] = value
    return parts, {"state": slots, "param_groups": groups}, about


def save(
    uri: str,
    parts: dict[str, State],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    config: TrainConfig,
    data: str,
) -> None:
    """Write a fine-tuning run: weights by part (net, best, average), progress; `data` is the data's fingerprint."""
    pack(uri, parts, optimizer, {"progress": asdict(progress), "config": asdict(config), "data": data})


def load(uri: str, config: TrainConfig, data: str) -> tuple[dict[str, State], dict[str, Any], Progress]:
    """Return weights by part, the optimizer's state_dict and the progress of a fine-tuning run.

    Raises UsageError when the run was begun with other options or other data, naming the difference.
    """
    parts, optimizer, about = unpack(uri)
    _refuse_difference(uri, about, config, data)
    return parts, optimizer, Progress(**about["progress"])


def _refuse_difference(uri: str, about: dict[str, Any], config: TrainConfig, data: str) -> None:
    if changed := differences(about["config"], config):
        raise UsageError(f"--resume: this training was begun with other options ({'; '.join(changed)}); repeat those")
    if about["data"] != data:
        raise UsageError(f"--resume: the labelled images have changed since this training began; delete {uri}")


def weights_of(net: nn.Module) -> State:
    """Return a copy of a network's weights that later steps do not change."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}
