"""Training calls: routing table, and validation of requests."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

from fastapi import Response

from tagger.checkpoint.info import Json
from tagger.serving import fetch
from tagger.serving.batching import Batcher
from tagger.serving.body import Held
from tagger.serving.errors import Refused
from tagger.serving.fetch import Fetcher
from tagger.serving.models import Checkpoints
from tagger.serving.projects.exports import Exports
from tagger.serving.projects.links import Links
from tagger.serving.projects.project import Project, Projects, canonical
from tagger.serving.projects.training import Trainings

T = TypeVar("T")

MAX_NAME, MAX_TEXT = 256, 4096
MAX_TAKE, DEFAULT_TAKE = 256, 50
LOAD_SECONDS = 300.0
"""Maximum time to wait until a model and those queued before it are loaded."""

Answer: TypeAlias = Json | list[Json] | int | bool | Response | None
"""Response of a call; None: no content."""


@dataclass(frozen=True)
class State:
    """The state behind the training calls of a server."""

    projects: Projects
    trainings: Trainings
    checkpoints: Checkpoints
    links: Links
    exports: Exports
    fetcher: Fetcher
    max_bytes: int
    max_pixels: int
    suggestions: dict[tuple[str, str], Json] = field(default_factory=dict)
    """(Iteration, image) -> tags suggested for an image without tags; the oldest are dropped."""

    def model(self, project: Project, iteration: Json) -> Future[Batcher]:
        """Return the future of an iteration's model."""
        name = f"{project.facts['name']}/{iteration['name']}"
        return self.checkpoints.get(str(project.checkpoint(iteration["id"])), name)


@dataclass(frozen=True)
class Call:
    """One training call."""

    state: State
    ids: Mapping[str, str]
    """Parts of the path that are ids, or one of several words."""
    query: Mapping[str, str]
    """Query parameters by lower-case name."""
    body: bytes
    held: Held
    content_type: str
    base: str
    """URL of the server, for links."""
    loop: asyncio.AbstractEventLoop
    """Event loop, in which URLs are fetched."""

    @property
    def project(self) -> Project:
        """Return the project in the path; raises Refused."""
        return self.state.projects.get(self.ids["project"])

    def text(self, name: str, default: str | None = None, most: int = MAX_NAME) -> str:
        """Return a text parameter of the query; raises Refused if it is missing or too long."""
        return checked_text(self.query.get(name.lower(), default), name, most)

    def number(self, name: str, default: float, most: float) -> float:
        """Return a number of the query from 0 to `most`; raises Refused."""
        given = self.query.get(name.lower(), "")
        try:
            value = float(given or default)
        except ValueError:
            value = math.nan
        if not 0 <= value <= most:
            raise Refused(400, "BadRequest", f"{name} must be a number from 0 to {most:g}, got {given[:80]!r}")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean parameter of the query; false if it is missing."""
        return self.query.get(name.lower(), "").lower() == "true"

    def listed_ids(self, name: str, most: int) -> list[str]:
        """Return a comma-separated list of ids in the query; raises Refused."""
        return checked_ids([id for id in self.query.get(name.lower(), "").split(",") if id.strip()], name, most)

    def json(self) -> Json:
        """Return the body, an object whose keys are lower-case at every depth; {} without a body. Raises Refused."""
        text = self.body.decode("utf-8", "replace").lstrip("\ufeff").strip()
        try:
            found = json.loads(text or "{}", object_pairs_hook=_lower)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "BadRequest", "the body is not valid JSON") from error
        if not isinstance(found, dict):
            raise Refused(400, "BadRequest", "the body must be a JSON object")
        return found

    def link(self, kind: str, id: str) -> str:
        """Return a link to the file of a record of the project."""
        return self.state.links.sign(self.base, self.project.id, kind, id)

    def fetch(self, url: str) -> bytes:
        """Return the content of a URL; raises Refused."""
        fetching = self.state.fetcher.fetch(url, self.held)
        return asyncio.run_coroutine_threadsafe(fetching, self.loop).result(2 * fetch.SECONDS)

    def batcher(self, iteration: Json) -> Batcher:
        """Return the model of an iteration; raises Refused when it cannot be loaded."""
        return self.state.model(self.project, iteration).result(LOAD_SECONDS)


Handler: TypeAlias = Callable[[Call], Answer]
_PREFIX = re.compile(r"/customvision/v3\.(?:[0-3]|4-preview)/training/", re.IGNORECASE)
_HANDLERS: list[tuple[str, re.Pattern[str], Handler]] = []


def handles(method: str, path: str) -> Callable[[Handler], Handler]:
    """Register the function of a call; `{name}` in the path is an id, `{name:one|two}` one of some words."""
    parts = re.sub(r"\{(\w+):?(.*?)\}", lambda part: f"(?P<{part[1]}>{part[2] or '[^/]+'})", path)
    pattern = re.compile(f"{parts}/?", re.IGNORECASE)

    def register(handler: Handler) -> Handler:
        _HANDLERS.append((method, pattern, handler))
        return handler

    return register


def is_training(raw_path: str) -> bool:
    """Return whether a path is that of a training call."""
    return _PREFIX.match(raw_path) is not None


def find(method: str, raw_path: str) -> tuple[Handler, dict[str, str]]:
    """Return the function of a call and the ids in its path; raises Refused."""
    path = _PREFIX.sub("", raw_path, count=1)
    for known, pattern, handler in _HANDLERS:
        if known == method and (found := pattern.fullmatch(path)):
            return handler, {name: unquote(value) for name, value in found.groupdict().items()}
    raise Refused(404, "NotFound", f"{method} {path[:200]} is not a supported training call")


def checked_text(value: object, name: str, most: int = MAX_NAME) -> str:
    """Return a text that is not empty or too long; raises Refused."""
    if not isinstance(value, str) or not value.strip():
        raise Refused(400, "BadRequestRequiredParamIsNull", f"{name} is missing")
    if len(value) > most:
        raise Refused(400, "BadRequest", f"{name} has {len(value)} characters; the limit is {most}")
    return value


def checked_choice(value: object, choices: Sequence[str], name: str, code: str = "BadRequest") -> str:
    """Return the choice that equals a text (ignoring case), the first for no text; raises Refused."""
    for choice in choices:
        if not value or choice.lower() == str(value).lower():
            return choice
    raise Refused(400, code, f"{name}: expected one of {', '.join(choices)}, got {str(value)[:80]!r}")


def checked_number(value: object, name: str, default: float = 0.0) -> float:
    """Return a number, the default for None; raises Refused."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise Refused(400, "BadRequestPredictionInvalidQueryParameters", f"{name} must be a number")
    return default if value is None else float(value)


def checked_ids(value: object, name: str, most: int) -> list[str]:
    """Return ids in canonical form, [] for None; raises Refused."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(id, str) for id in value):
        raise Refused(400, "BadRequestInvalidIds", f"{name} must be a list of ids")
    if len(value) > most:
        raise Refused(400, "BadRequestExceededBatchSize", f"{name} has {len(value)} ids; the limit is {most}")
    return list(dict.fromkeys(canonical(id.strip()) for id in value))


def checked_list(value: object, name: str, most: int) -> list[Json]:
    """Return a list of objects that is not empty; raises Refused."""
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        raise Refused(400, "BadRequestImageBatch", f"{name} must be a list of objects")
    if len(value) > most:
        raise Refused(400, "BadRequestExceededBatchSize", f"{name} has {len(value)} entries; the limit is {most}")
    return value


def paged(call: Call, found: list[Json]) -> list[Json]:
    """Return the page of a list that `take` and `skip` select."""
    skip, take = int(call.number("skip", 0, 1e9)), int(call.number("take", DEFAULT_TAKE, MAX_TAKE))
    return found[skip : skip + take]


def token_page(token: Json, names: Sequence[str], found: Sequence[T], most: int = MAX_TAKE) -> tuple[Json, Sequence[T]]:
    """Return the page of a list that a query token selects, and the token for the next one."""
    count, start = token.get("maxcount") or DEFAULT_TAKE, token.get("continuation") or "0"
    if not isinstance(count, int) or not 1 <= count <= most:
        raise Refused(400, "BadRequestPredictionResultsExceededCount", f"maxCount must be from 1 to {most}")
    if not isinstance(start, str) or not start.isdigit() or len(start) > 9:
        raise Refused(
            400, "BadRequestPredictionInvalidQueryParameters", "continuation is not a token of an earlier response"
        )
    end = int(start) + count
    given = {name: token.get(name.lower()) for name in names}
    following = str(end) if end < len(found) else None
    return {**given, "maxCount": count, "continuation": following}, found[int(start) : end]


def _lower(pairs: list[tuple[str, Any]]) -> Json:
    return {key.lower(): value for key, value in pairs}
