"""Training calls over HTTP: each request is handled in a thread."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from fastapi import Request, Response
from fastapi.responses import FileResponse, JSONResponse

from tagger.errors import WriteError
from tagger.inference.config import ModelConfig
from tagger.serving.body import Memory, read
from tagger.serving.config import ServeConfig
from tagger.serving.errors import Refused
from tagger.serving.fetch import Fetcher
from tagger.serving.models import Checkpoints
from tagger.serving.projects import (  # noqa: F401
    calls,
    image_calls,
    iteration_calls,
    predictions,
    project_calls,
    suggestions,
)
from tagger.serving.projects.calls import Call, State
from tagger.serving.projects.exports import Exports
from tagger.serving.projects.links import Links
from tagger.serving.projects.project import EXPORTS, Projects
from tagger.serving.projects.training import Trainings
from tagger.training.config import TrainConfig

log = logging.getLogger(__name__)

MAX_BATCH_BYTES = 256 << 20
"""Limit on the body of a call that adds images."""
MAX_JSON_BYTES = 1 << 20
"""Limit on any other body."""
_KEYS = ("training-key", "ocp-apim-subscription-key", "authorization")
_THREADS = ThreadPoolExecutor(16, "training-call")


async def answer(state: State | None, memory: Memory, request: Request, raw_path: str) -> Response:
    """Answer a training call; raises Refused."""
    if state is None:
        raise Refused(404, "NotFound", "training calls are not served; start the server with --projects FOLDER")
    if not any(request.headers.get(name) for name in _KEYS):  # web pages of other sites cannot send this header
        raise Refused(
            401, "401", "training calls need the header Training-Key; without --key-file any value is accepted"
        )
    handler, ids = calls.find(request.method, raw_path)
    takes_images = "/images" in raw_path.lower() or "/quicktest" in raw_path.lower()
    with memory.held() as held:
        body = await read(request, held, MAX_BATCH_BYTES if takes_images else MAX_JSON_BYTES)
        query = {name.lower(): value for name, value in request.query_params.items()}
        kind, loop = request.headers.get("content-type", ""), asyncio.get_running_loop()
        call = Call(state, ids, query, body, held, kind, str(request.base_url), loop)
        try:
            found = await loop.run_in_executor(_THREADS, handler, call)
        except WriteError as error:
            log.warning("%s", error)
            raise Refused(507, "ErrorStorage", "the change cannot be stored; nothing was changed") from error
    if isinstance(found, Response):
        return found
    return Response(status_code=204) if found is None else JSONResponse(found)


def linked_file(state: State | None, project: str, kind: str, id: str, expires: str, signature: str) -> Response:
    """Return the file of a signed link; raises Refused."""
    if state is None:
        raise Refused(404, "NotFound", "no such endpoint; see /docs")
    state.links.check(project, kind, id, expires, signature)
    found = state.projects.get(project)
    path = found.export(id) if kind == EXPORTS else found.image_path(kind, found.record(kind, id))
    if not path.exists():
        raise Refused(404, "NotFoundImage", "Invalid image")
    return FileResponse(path, headers={"X-Content-Type-Options": "nosniff"})


def start(
    config: ServeConfig,
    model_config: ModelConfig,
    train_config: TrainConfig,
    checkpoints: Checkpoints,
    fetcher: Fetcher,
) -> State | None:
    """Open the folder of projects and resume unfinished trainings and exports; None without a folder."""
    if config.projects is None:
        return None
    projects = Projects(config.projects)
    return State(
        projects=projects,
        trainings=Trainings(projects, replace(train_config, device=model_config.device)),
        checkpoints=checkpoints,
        links=Links(),
        exports=Exports(projects),
        fetcher=fetcher,
        max_bytes=config.max_bytes,
        max_pixels=model_config.max_pixels,
    )


def close(state: State) -> None:
    """End the processes of trainings and exports; the next server resumes them."""
    state.trainings.worker.close()
    state.exports.worker.close()
