"""The FastAPI application: routes, keys, and predictions."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from tagger import storage
from tagger.inference.config import ModelConfig
from tagger.inference.pipeline import Row
from tagger.schema import TAGGED
from tagger.serving import batching, customvision
from tagger.serving.batching import Batcher
from tagger.serving.body import Memory, image_in, is_multipart, read, url_in
from tagger.serving.config import ServeConfig
from tagger.serving.customvision import Target
from tagger.serving.errors import Refused, of_row
from tagger.serving.fetch import Fetcher, anywhere, is_public
from tagger.serving.metrics import Measured, Metrics
from tagger.serving.models import Checkpoints, Models
from tagger.serving.projects import calls, predictions, routes
from tagger.serving.projects.iteration_calls import published, target_of
from tagger.serving.projects.links import PATH
from tagger.serving.stored import Store
from tagger.training.config import TrainConfig

_KEY_HEADERS = ("prediction-key", "ocp-apim-subscription-key", "training-key")
_DENIED = "Access denied due to invalid subscription key or wrong API endpoint."
_IMAGE_NAMES = ("imagedata", "image", "file")
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}
            },
            "application/json": {"schema": {"type": "object", "properties": {"url": {"type": "string"}}}},
        },
    }
}


class Service:
    """The state of a server: models, limits, metrics, stored predictions."""

    def __init__(
        self, sources: Sequence[str], config: ServeConfig, model_config: ModelConfig, train_config: TrainConfig
    ) -> None:
        self.metrics = Metrics()
        self.keys = config.keys()
        self.store = Store(config.results) if config.results else None
        decoders = batching.decoders()
        self.models = Models(sources, model_config, decoders, self._on_batch)
        self.memory, self.max_bytes = Memory(), config.max_bytes
        self.fetcher = Fetcher(config.max_bytes, anywhere if config.allow_private_urls else is_public)
        self.stored_predictions = config.stored_predictions
        checkpoints = Checkpoints(model_config, decoders, self._on_batch)
        self.training = routes.start(config, model_config, train_config, checkpoints, self.fetcher)

    def _on_batch(self, model: str, images: int) -> None:
        self.metrics.batches.labels(model).observe(images)

    async def check_key(self, request: Request) -> None:
        """Raise Refused if keys are required and the request has no valid one; the comparison takes constant time."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = [request.headers.get(name, "") for name in _KEY_HEADERS] + [token * (scheme.lower() == "bearer")]
        same = [hmac.compare_digest(each.encode("latin-1"), key) for each in given for key in self.keys]
        if self.keys and not any(same):
            raise Refused(401, "401", _DENIED)

    async def target(self, call: customvision.Call) -> Target:
        """Return the model of a call: a published iteration of a project, else a checkpoint by its name."""
        project = self.training and self.training.projects.find(call.project)
        if self.training and project and call.name and not call.container:
            iteration = published(project, call.name)
            return target_of(iteration, await asyncio.wrap_future(self.training.model(project, iteration)))
        only = call.container and len(self.models.names()) == 1
        return customvision.target_of(self.models.find(None if only else call.name))

    async def predict(self, batcher: Batcher, content: bytes) -> Row:
        """Return the row of an image, with the scores of all labels unless it failed."""
        row = await asyncio.wrap_future(batcher.submit(content))
        self.metrics.images.labels(row["model"], row["status"]).inc()
        return row

    async def record(self, row: Row, content: bytes) -> bool:
        """Store a prediction if that is configured; return whether it was stored, and count failures."""
        if self.store is None:
            return False
        stored = await asyncio.to_thread(self.store.add, row, content)
        if not stored:
            self.metrics.not_stored.inc()
        return stored


def create(service: Service) -> FastAPI:
    """Return the application."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(service.models.watch())]
        tasks += [asyncio.create_task(service.store.flush_regularly())] if service.store else []
        yield
        for task in tasks:
            task.cancel()
        if service.training:
            await asyncio.to_thread(routes.close, service.training)
        if service.store:
            await asyncio.to_thread(service.store.flush)

    app = FastAPI(title="tagger", lifespan=lifespan, redoc_url=None)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _crashed)
    app.include_router(_open_routes(service))
    app.include_router(_plain_routes(service))
    app.include_router(_customvision_routes(service))  # last, since it matches every path
    app.add_middleware(Measured, metrics=service.metrics)
    return app


def _open_routes(service: Service) -> APIRouter:
    """Return the routes that need no key."""
    router = APIRouter()
    page = resources.files("tagger.serving").joinpath("page.html").read_text("utf-8")

    @router.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    @router.get(f"{PATH}/{{project}}/{{kind}}/{{id}}", include_in_schema=False)
    async def linked_file(project: str, kind: str, id: str, se: str = "", sig: str = "") -> Response:
        return routes.linked_file(service.training, project, kind, id, se, sig)

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Return `ok` once the models are loaded."""
        return "ok"

    return router


def _plain_routes(service: Service) -> APIRouter:
    router = APIRouter(dependencies=[Depends(service.check_key)])

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """List the models with their labels and thresholds."""
        return {"models": [_described(batcher) for batcher in service.models.all()]}

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @router.post("/predict", openapi_extra=_BODY)
    async def predict(request: Request, model: str | None = None) -> JSONResponse:
        """Tag an image: its bytes, a multipart part `image`, or JSON with its `url`. Returns a results row."""
        kind = request.headers.get("content-type", "")
        with service.memory.held() as held:
            body = await read(request, held, service.max_bytes)
            batcher = service.models.find(model)
            takes_url = kind.lower().startswith("application/json") and not is_multipart(kind)
            url = url_in(body, kind) if takes_url else None
            content = await service.fetcher.fetch(url, held) if url else image_in(body, kind, _IMAGE_NAMES)
            row = await service.predict(batcher, content)
        known = batching.results_row(row) | {"uri": url and storage.public_uri(url)}
        return JSONResponse(known, 200 if row["status"] in TAGGED else of_row(row).status)

    return router


def _customvision_routes(service: Service) -> APIRouter:
    router = APIRouter(dependencies=[Depends(service.check_key)])

    @router.api_route("/{path:path}", methods=["GET", "POST", "PATCH", "DELETE"], include_in_schema=False)
    async def customvision_call(request: Request) -> Response:
        path = request.scope["raw_path"].decode("latin-1")
        if calls.is_training(path):
            return await routes.answer(service.training, service.memory, request, path)
        if request.method != "POST":
            raise Refused(404, "NotFound", "no such endpoint; see /docs")
        call = customvision.parse(path)
        try:
            return JSONResponse(await _predicted(service, call, request))
        except Refused:
            if not call.container:
                raise
            return PlainTextResponse("Error processing image", 200 if call.takes_url else 500)

    return router


async def _predicted(service: Service, call: customvision.Call, request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "")
    target = await service.target(call)
    with service.memory.held() as held:
        body = await read(request, held, service.max_bytes)
        content = await service.fetcher.fetch(url_in(body, kind), held) if call.takes_url else image_in(body, kind)
        row = await service.predict(target.batcher, content)
        if row["status"] not in TAGGED:
            raise of_row(row)
        stored = await service.record(row, content) if call.store else False
        if call.container:
            return customvision.container_answer(row, target.batcher.model.info)
        found = customvision.answer(call.project, row, target)
        project = service.training and service.training.projects.find(call.project)
        if project and call.store and service.stored_predictions:
            name = request.query_params.get("application", "")
            await asyncio.to_thread(predictions.store, project, found, row, content, name, service.stored_predictions)
    if service.store:
        found["tagger"]["stored"] = stored
    return found


def _described(batcher: Batcher) -> dict[str, Any]:
    info, config = batcher.model.info, batcher.model.config
    thresholds = config.thresholds(info)
    return {
        "name": info.name,
        "model_id": info.model_id,
        "task": info.task,
        "label_names": info.label_names,
        "thresholds": thresholds and dict(zip(info.label_names, thresholds, strict=True)),
        "unknown_cut": info.statistics and info.statistics.cut,
        "engine": batcher.model.engine.name,
    }


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Refused(error.status_code, "NotFound" if error.status_code == 404 else "BadRequest", error.detail).response()


async def _crashed(_: Request, error: Exception) -> Response:
    return Refused(500, "ErrorPrediction", f"the prediction failed ({type(error).__name__})").response()
