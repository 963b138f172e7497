"""The metrics of the model card, from the checkpoint that produced the rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tagger import checkpoint, storage
from tagger.checkpoint.card import SPLITS, headline
from tagger.checkpoint.info import Json, ModelInfo
from tagger.errors import ModelError


@dataclass(frozen=True)
class Card:
    """The metrics of a checkpoint."""

    place: str
    same: bool
    """True if this is the version that produced most rows."""
    headline: str = ""
    split: str = ""
    tags: dict[str, Json] = field(default_factory=dict)
    """Tag -> precision, recall, threshold and images of the evaluation."""


def find_card(model: str, model_ids: Mapping[str, int], checkpoints: str) -> Card | None:
    """Return the metrics of the checkpoint with this name; None if it does not exist."""
    place = storage.join(storage.absolute(checkpoints), model)
    if "/" in model or not storage.exists(storage.join(place, checkpoint.BUNDLE)):
        return None
    try:
        return _card(checkpoint.describe(place), f"{checkpoints.rstrip('/')}/{model}", model_ids)
    except ModelError as error:
        return Card(str(error), same=False)


def _card(info: ModelInfo, place: str, model_ids: Mapping[str, int]) -> Card:
    newest = max(model_ids, key=lambda each: model_ids[each], default=None)
    split = next((each for each in ("test", "val") if each in info.metrics), None)
    if split is None or info.model_id != newest:
        return Card(place, info.model_id == newest)
    found = info.metrics[split]
    return Card(place, True, headline(found), SPLITS[split], {each["tag"]: each for each in found.get("tags", ())})
