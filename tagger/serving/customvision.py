"""The prediction calls of Azure Custom Vision (v3.0, v3.1) and of the containers that it exports.

Paths are case-insensitive. A project may have any id: a model is found by its published name, that of its checkpoint.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from tagger.checkpoint.info import ModelInfo
from tagger.inference.model import Model
from tagger.inference.pipeline import Row
from tagger.serving.batching import SCORES, Batcher
from tagger.serving.errors import Refused

_ENDING = r"(?P<body>image|url)(?P<nostore>/nostore)?/?"
_PUBLISHED = r"(?P<kind>classify|detect)/iterations/(?P<name>[^/]+)"
_SERVICE = re.compile(rf"/customvision/v3\.[01]/prediction/(?P<project>[^/]+)/{_PUBLISHED}/{_ENDING}", re.IGNORECASE)
_CONTAINER = re.compile(rf"(/(?P<project>[^/]+))?(/{_PUBLISHED})?/{_ENDING}", re.IGNORECASE)
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "tagger")


@dataclass(frozen=True)
class Call:
    """One prediction call, as its path describes it."""

    project: str
    name: str | None
    """Published name; None: the first model."""
    takes_url: bool
    store: bool
    container: bool
    """True for a call of an exported container, whose responses differ."""


@dataclass(frozen=True)
class Target:
    """A model that predicts, with the ids in its responses."""

    batcher: Batcher
    iteration: str
    tag_ids: Mapping[str, str]
    """Label -> id."""


def target_of(batcher: Batcher) -> Target:
    """Return a model that belongs to no project; its ids are derived from its names."""
    info = batcher.model.info
    return Target(batcher, _id(info.model_id), {label: _id(info.name, label) for label in info.label_names})


def parse(raw_path: str) -> Call:
    """Parse a path, still percent-encoded; raises Refused."""
    service = _SERVICE.fullmatch(raw_path)
    found = service or _CONTAINER.fullmatch(raw_path)
    if not found:
        raise Refused(404, "NotFound", "no such endpoint; see /docs")
    if service and found["kind"].lower() == "detect":
        raise Refused(400, "BadRequestNotSupported", "Invalid project type for operation.")
    name = found["name"] and unquote(found["name"])
    return Call(
        project=unquote(found["project"] or ""),
        name=name,
        takes_url=found["body"].lower() == "url",
        store=not found["nostore"] and service is not None,
        container=service is None,
    )


_OURS = ("image_id", "status", "error", "tags", "unknown", "unknown_score", "model", "model_id")
"""Columns of a results row in a response."""


def answer(project: str, row: Row, target: Target) -> dict[str, Any]:
    """Return the response to a prediction call; `tagger` and `threshold` are additions, which clients ignore."""
    model = target.batcher.model
    predictions = [
        {
            "probability": score,
            "tagId": target.tag_ids.get(label, _id(model.info.name, label)),
            "tagName": label,
            "tagType": "Regular",
            "threshold": threshold,
        }
        for label, score, threshold in _by_score(row, model)
    ]
    return {
        "id": str(uuid.uuid4()),
        "project": project,
        "iteration": target.iteration,
        "created": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "predictions": predictions,
        "tagger": {name: row[name] for name in _OURS},
    }


def _by_score(row: Row, model: Model) -> list[tuple[str, float, float | None]]:
    """Return (label, score, threshold) of every label, the highest score first."""
    names = model.info.label_names
    thresholds = model.config.thresholds(model.info) or (None,) * len(names)
    return sorted(zip(names, row[SCORES].tolist(), thresholds, strict=True), key=lambda each: -each[1])


def container_answer(row: Row, info: ModelInfo) -> dict[str, Any]:
    """Return the response of an exported container: the labels in their own order, without ids."""
    scores = zip(info.label_names, row[SCORES].tolist(), strict=True)
    predictions = [
        {"tagName": label, "probability": round(score, 8), "tagId": "", "boundingBox": None} for label, score in scores
    ]
    created = datetime.now(UTC).replace(tzinfo=None).isoformat()
    return {"id": "", "project": "", "iteration": "", "created": created, "predictions": predictions}


def _id(*names: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\n".join(names)))
