"""timm's architectures, published weights and ImageNet label names."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import Any, Protocol

from torch import Tensor, nn

from tagger.errors import ModelError
from tagger.models.imagenet_names import NAMES


class TimmNet(Protocol):
    """The attributes and methods of a timm network that nn.Module does not have."""

    num_features: int

    def forward_features(self, x: Tensor) -> Tensor:
        """Map normalised images (N, 3, H, W) to features."""
        ...

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features to embeddings (N, num_features) or logits (N, num_classes)."""
        ...

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        ...

    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """Resample a transformer's position embeddings for another image size."""
        ...


REFUSED = re.compile("pretrained.*|checkpoint.*|cache_dir|features_only|out_indices|feature_cls|.*_fn|.*path|.*file")
"""Arguments of timm's networks that a checkpoint may not set: they make timm read files, download, or run functions."""


def create(architecture: str, num_classes: int, model_args: dict[str, Any]) -> nn.Module:
    """Create a timm network with random weights; raises ModelError for an unknown name or bad arguments."""
    import timm

    if not timm.is_model(architecture):
        raise ModelError(f"{architecture}: timm {timm.__version__} has no such architecture{_suggest(architecture)}")
    if refused := sorted(name for name, value in model_args.items() if REFUSED.fullmatch(name) or not _is_plain(value)):
        raise ModelError(f"{architecture}: a checkpoint may not set {', '.join(refused)} in model_args")
    try:
        net: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=num_classes, **model_args)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{architecture}: timm cannot build it with {model_args} ({error})") from error
    return net


def _is_plain(value: object) -> bool:
    """Return whether an argument is None, a number, an identifier, or a list of them."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and value.isidentifier())


def create_pretrained(name: str, state_dict: dict[str, Tensor]) -> nn.Module:
    """Create the network of a timm `name` with its published weights, converted by timm."""
    import timm

    net: nn.Module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state_dict})
    return net


def published_config(name: str) -> dict[str, Any]:
    """Return timm's pretrained_cfg of a name such as `resnet50.a1_in1k`, `architecture` and `hf_hub_id` included."""
    import timm

    if not timm.is_model(name):
        raise ModelError(f"timm/{name}: timm {timm.__version__} has no such model{_suggest(name)}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # timm has the architecture, but no such tag
        config = None
    if config is None or not config.hf_hub_id:
        tagged = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*")[:5]) or "none"
        raise ModelError(f"timm/{name}: no published weights under this name; timm has weights for: {tagged}")
    return {**config.to_dict(), "architecture": config.architecture or name.partition(".")[0]}


def imagenet_label_names(num_classes: int) -> tuple[str, ...] | None:
    """Return unique English names for ImageNet-1k, -12k, -21k or -22k heads; None for another number of classes.

    The name is the first synonym of the class in timm, or a later, longer one: `tabby cat` for "tabby, tabby cat".
    `NAMES` has the exceptions. Classes that share a name also get their second synonym, or their WordNet id.
    """
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    ids = info.label_names()
    words = [[word.strip() for word in text.split(",")] for text in info.label_descriptions()]
    first = [NAMES.get(wordnet_id) or _completed(options) for wordnet_id, options in zip(ids, words, strict=True)]
    both = [f"{name} ({o[1]})" if len(o) > 1 and o[1] != name else name for name, o in zip(first, words, strict=True)]
    names = _where_repeated(first, both)
    return tuple(_where_repeated(names, [f"{name} ({each})" for name, each in zip(first, ids, strict=True)]))


def _completed(synonyms: list[str]) -> str:
    """Return the first synonym, or a later one that begins with it and has more words."""
    return next((each for each in synonyms[1:] if each.startswith(f"{synonyms[0]} ")), synonyms[0])


def _where_repeated(names: list[str], instead: list[str]) -> list[str]:
    """Replace the names that occur more than once, ignoring case."""
    count = Counter(name.casefold() for name in names)
    return [other if count[name.casefold()] > 1 else name for name, other in zip(names, instead, strict=True)]


def _suggest(name: str) -> str:
    import timm

    close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(close)}?" if close else ""
