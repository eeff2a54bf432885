"""The ASGI application: every page's routes, and what stands before them.

To add a page: write its room beside `people/` with `add_…(app, studio)`, a template that extends
shell.html, and call it here; an entry in `web.pages.PLACES` puts it into the navigation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from whorl import __version__
from whorl.serve.api.errors import ApiError, add_handlers, error_response
from whorl.serve.api.guards import BodyLimit, Linger
from whorl.studio.battles.pages import add_battles
from whorl.studio.board.pages import add_board
from whorl.studio.chat.pages import add_chat
from whorl.studio.datasets.pages import add_datasets
from whorl.studio.models.pages import add_models
from whorl.studio.people.pages import add_people
from whorl.studio.runs.pages import add_runs
from whorl.studio.studio import Studio
from whorl.studio.web.guards import SAFE, FewChanges, SameOrigin, SecurityHeaders, WholePath
from whorl.studio.web.pages import STATIC

READING_SECONDS = 0.5  # that the start waits for the votes to be read


class Files(StaticFiles):
    """The browser asks each time whether a file has changed, and is told with its ETag: an upgraded
    studio never meets yesterday's script."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def app(studio: Studio) -> FastAPI:
    """The studio's pages and their data."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        studio.pool.watch()
        studio.roster.watch()
        studio.battles.start()
        # When it says that it is open it has read a log of twenty thousand votes: the first pages would fight
        # with the reading for the machine. A longer one is read on beside them.
        await run_in_threadpool(studio.battles.board.is_read, READING_SECONDS)
        yield
        await studio.close()

    made = FastAPI(
        title="Whorl studio", version=__version__, root_path=studio.config.root_path, lifespan=lifespan,
        openapi_url=None, redirect_slashes=False,
    )  # fmt: skip
    add_handlers(made)
    _add_refusals(made, studio)
    made.mount("/static", Files(directory=Path(str(STATIC))), name="static")
    add_people(made, studio)
    add_battles(made, studio)
    add_board(made, studio)
    add_models(made, studio)
    add_runs(made, studio)
    add_datasets(made, studio)
    add_chat(made, studio)

    @made.get("/")
    async def front(request: Request) -> Response:
        studio.person(request)
        return RedirectResponse(f"{request.scope.get('root_path', '')}/chat", 303)

    @made.get("/health")
    async def health() -> Response:
        return Response('{"status": "ok"}', media_type="application/json")

    # The last one added is the first one asked.
    made.add_middleware(BodyLimit, size=studio.config.limits.body)
    made.add_middleware(FewChanges, take=studio.take_change)
    made.add_middleware(SameOrigin)
    made.add_middleware(SecurityHeaders)
    made.add_middleware(Linger)
    made.add_middleware(WholePath)
    return made


def _add_refusals(made: FastAPI, studio: Studio) -> None:
    """A person who opens a page is told in a page; a script that asks is told in JSON."""

    @made.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        if not _wants_page(request):
            return error_response(error)
        root = request.scope.get("root_path", "")
        if error.status == 401:
            way = request.url.path.removeprefix(root)
            way += f"?{request.url.query}" if request.url.query else ""
            return RedirectResponse(f"{root}/sign-in?next={quote(way)}", 303)
        return _page(request, error.status, error.message)

    @made.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        words = {
            404: f"Page not found: {request.url.path}",
            405: f"This page does not accept {request.method}.",
        }
        message = words.get(error.status_code, str(error.detail))
        if not _wants_page(request):
            return error_response(ApiError(error.status_code, message, headers=dict(error.headers or {})))
        return _page(request, error.status_code, message)

    def _page(request: Request, status: int, message: str) -> Response:
        person = studio.sessions.person(request)
        return studio.pages.page(request, "refused.html", person, status=status, message=message)


def _wants_page(request: Request) -> bool:
    return request.method in SAFE and "text/html" in request.headers.get("accept", "")
