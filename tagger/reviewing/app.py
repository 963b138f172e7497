"""The FastAPI application of the review page: its queries, images and decisions."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi import Query as Parameter
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from tagger import schema
from tagger.data.decisions import LabelsFile
from tagger.errors import ImageError, MissingExtra, SourceError, TaggerError, first_line
from tagger.redaction import public_uri, redact, visible
from tagger.reviewing import thumbnails
from tagger.reviewing.config import MAX_LABEL, ReviewConfig
from tagger.reviewing.images import PAGE, Images, Query
from tagger.serving.body import Memory, read
from tagger.serving.errors import Refused
from tagger.tagging.aggregates import Row
from tagger.tagging.query import plain

_FILES = {"/review.js": "text/javascript", "/review.css": "text/css"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_BODY = 1 << 20
_SHOWN = 12
"""Maximum number of tags per image in the grid."""
_MAX_ID = 1 << 40
_READERS = 8
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_Text = Annotated[str, Parameter(max_length=4096)]
_Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL)]


class Decided(BaseModel):
    """A decision about an image; null undoes an earlier one."""

    model_config = ConfigDict(extra="forbid")
    id: Annotated[int, Field(ge=1, le=_MAX_ID)]
    labels: Annotated[list[_Label], Field(max_length=100)] | None


class Decisions(BaseModel):
    """Decisions that are written together."""

    model_config = ConfigDict(extra="forbid")
    decisions: Annotated[list[Decided], Field(min_length=1, max_length=1000)]


class Session:
    """The state of a review: images, labels file and access token."""

    def __init__(self, images: Images, labels: LabelsFile, config: ReviewConfig) -> None:
        self.images, self.labels, self.config = images, labels, config
        self.token = secrets.token_urlsafe(24)
        self.memory = Memory()
        self.readers = ThreadPoolExecutor(_READERS)
        self._mutex, self._last = threading.Lock(), datetime.fromtimestamp(0, UTC)
        self.refresh()

    def refresh(self) -> None:
        """Load decisions that another process has written."""
        with self._mutex:
            if (table := self.labels.changed()) is not None:
                self.images.replace_decisions(table)
                self._last = max([self._last, *table["decided_at"].slice(len(table) - 1).to_pylist()])

    def decide(self, decided: Sequence[Decided]) -> list[Row]:
        """Write decisions to disk, then return the updated images. Raises Refused for an unknown image."""
        given = {each.id: each.labels for each in decided}
        found = self.images.find(list(given))
        if len(found) < len(given):
            raise Refused(404, "NotFound", "some of the images are not in this review; reload the page")
        with self._mutex:
            rows = [self._row(image, given[image["id"]]) for image in found]
            self.labels.append(rows)
            self.images.decide(rows)
        return self.images.find(list(given))

    def _row(self, image: Row, labels: list[str] | None) -> Row:
        return {
            "uri": image["uri"],
            "image_id": image["image_id"],
            "labels": labels and list(dict.fromkeys(labels)),
            "previous": [pair["tag"] for pair in image["tags"] or ()],
            "model_id": image["model_id"],
            "decided_at": self._now(),
            "by": self.config.by,
        }

    def _now(self) -> datetime:
        """Return the current time, but later than every earlier decision, since the latest one counts."""
        self._last = max(datetime.now(UTC), self._last + timedelta(microseconds=1))
        return self._last


def create(session: Session, port: int) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="tagger review", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(TaggerError, _failed)
    _add_page(app)
    _add_queries(app, session)
    _add_images(app, session)
    _add_decisions(app, session)
    app.add_middleware(Guard, token=session.token, cookie=f"tagger_review_{port}")
    return app


class Guard(BaseHTTPMiddleware):
    """Middleware that accepts only requests from the review page on this machine, with the token of its URL."""

    def __init__(self, app: Any, token: str, cookie: str) -> None:
        super().__init__(app)
        self._token, self._cookie = token.encode(), cookie

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Return 403, set the cookie and redirect, or pass the request on."""
        if not _is_own_page(request):
            response: Response = PlainTextResponse("Requests are accepted from the review page only.", 403)
        elif self._matches(request.query_params.get("token", "")) and request.scope["path"] == "/":
            response = RedirectResponse("/", 303)
            response.set_cookie(self._cookie, self._token.decode(), httponly=True, samesite="strict")
        elif self._matches(request.cookies.get(self._cookie, "")):
            response = await call_next(request)
        else:
            response = PlainTextResponse("Open the URL that `tagger review` printed; it contains an access token.", 403)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _matches(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self._token)


def _is_own_page(request: Request) -> bool:
    """Return whether a request names this machine as its host, and does not come from a page of another origin."""
    host = request.headers.get("host", "")
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
    top = request.method == "GET" and request.scope["path"] == "/"  # a link elsewhere may lead to the page
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name in _LOOPBACK and origin in (None, f"http://{host}") and (top or site in ("same-origin", "none"))


def _add_page(app: FastAPI) -> None:
    folder = resources.files("tagger.reviewing")
    page = folder.joinpath("page.html").read_text("utf-8")

    @app.get("/")
    def index() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    for path, kind in _FILES.items():
        app.get(path)(_file(folder.joinpath(path[1:]).read_text("utf-8"), kind))


def _file(content: str, kind: str) -> Callable[[], Response]:
    def answer() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8")

    return answer


def _add_queries(app: FastAPI, session: Session) -> None:
    images, config = session.images, session.config

    @app.get("/api/start")
    def start() -> JSONResponse:
        return _json(
            {
                "table": visible(public_uri(images.table)),
                "labels": visible(config.labels),
                "model": images.model,
                "others": images.others,
                "multilabel": images.has_several(),
                "palette": images.palette(),
                "statuses": images.statuses(),
                "queue": visible(config.queue or ""),
                "unknown": images.has_unknown(),
                "sort": config.first_sort,
                "tag": config.tag or "",
            }
        )

    @app.get("/api/images")
    def page(
        sort: Literal["uncertain", "unknown", "disagree", "newest", "tag", "queue"] = "uncertain",
        tag: _Text = "",
        folder: _Text = "",
        status: Annotated[str, Parameter(max_length=40)] = "tagged",
        reviewed: Literal["no", "yes", "all"] = "no",
        disagree: bool = False,
        unknown: bool = False,
        after: Annotated[int | None, Parameter(ge=0, le=_MAX_ID)] = None,
    ) -> JSONResponse:
        session.refresh()
        query = Query(sort, tag, folder, status, reviewed, disagree, unknown)
        found = images.page(query, after)
        counts = images.counts(query)
        more = len(found) == PAGE
        cards = [_card(row) for row in found]
        return _json({"images": cards, "more": more, "total": counts["images"], "done": counts["reviewed"]})

    @app.get("/api/images/{image}")
    def details(image: Annotated[int, Field(ge=0, le=_MAX_ID)]) -> JSONResponse:
        row = _one(images, image)
        return _json({**_card(row, most=100), **_facts(row)})

    @app.get("/api/images/{image}/neighbours")
    def neighbours(image: Annotated[int, Field(ge=0, le=_MAX_ID)]) -> JSONResponse:
        session.refresh()
        return _json({"images": [_card(row) | {"similarity": row["similarity"]} for row in images.neighbours(image)]})

    @app.get("/api/tags")
    def tags(q: _Text = "") -> JSONResponse:
        return _json({"tags": images.tags(q)})

    @app.get("/api/folders")
    def folders(q: _Text = "") -> JSONResponse:
        return _json({"folders": images.folders(q)})


def _add_images(app: FastAPI, session: Session) -> None:
    async def answer(image: int, read: Callable[[str, str | None], bytes]) -> Response:
        if (source := await asyncio.to_thread(session.images.source, image)) is None:
            raise Refused(404, "NotFound", "no such image in this review")
        try:
            content = await asyncio.get_running_loop().run_in_executor(session.readers, read, *source)
        except (SourceError, ImageError, MissingExtra) as error:
            raise Refused(404, "NoImage", visible(redact(first_line(error)))) from error
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    @app.get("/thumbnails/{image}")
    async def thumbnail(image: Annotated[int, Field(ge=0, le=_MAX_ID)]) -> Response:
        return await answer(image, thumbnails.thumbnail)

    @app.get("/full/{image}")
    async def full(image: Annotated[int, Field(ge=0, le=_MAX_ID)]) -> Response:
        return await answer(image, thumbnails.full)


def _add_decisions(app: FastAPI, session: Session) -> None:
    @app.post("/api/decisions")
    async def decide(request: Request) -> JSONResponse:
        """Respond once the decisions are on disk."""
        with session.memory.held() as held:
            body = await read(request, held, _MAX_BODY)
            try:
                given = Decisions.model_validate_json(body)
            except ValidationError as error:
                problem = error.errors(include_url=False, include_input=False)[0]["msg"]
                raise Refused(400, "BadRequest", f"not a list of decisions: {problem}") from error
        found = await asyncio.to_thread(session.decide, given.decisions)
        return _json({"images": [_card(row) for row in found]})


def _one(images: Images, image: int) -> Row:
    if not (found := images.find([image])):
        raise Refused(404, "NotFound", "no such image in this review")
    return found[0]


def _card(row: Row, most: int = _SHOWN) -> Row:
    """Return the facts about an image that the grid shows."""
    uri = visible(public_uri(row["uri"]))
    return {
        "id": row["id"],
        "version": (row["image_id"] or "")[:16],
        "name": uri.rstrip("/").rpartition("/")[2],
        "uri": uri,
        "status": row["status"],
        "error": row["error"] and visible(redact(row["error"])),
        "tagged": row["status"] in schema.TAGGED,
        "unknown": row["unknown"],
        "tags": (row["tags"] or [])[:most],
        "candidates": (row["candidates"] or [])[:most],
        "others": row["others"] or [],
        "reason": row["reason"],
        "given": row["given"],
        "disagrees": not row["agrees"],
        "labels": row["labels"],
        "by": row["decider"],
        "decided_at": row["decided_at"] and row["decided_at"].isoformat(),
    }


def _facts(row: Row) -> Row:
    """Return the additional facts in the view of a single image."""
    return {
        "width": row["width"],
        "height": row["height"],
        "format": row["format"],
        "bytes": row["bytes"],
        "tagged_at": row["tagged_at"] and row["tagged_at"].isoformat(),
    }


def _json(content: Row) -> JSONResponse:
    return JSONResponse(plain(content))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


async def _failed(_: Request, error: Exception) -> Response:
    return Refused(500, "Failed", visible(str(error))).response()
