"""The models' page: who is there, how each is, and joining and leaving."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from whorl.base.client import OpenAIClient
from whorl.base.errors import InputError
from whorl.evals.serving import is_address
from whorl.serve.api.errors import ApiError
from whorl.studio.models.pool import PooledModel
from whorl.studio.studio import Studio


class NewModel(BaseModel):
    """`address` is a directory of this machine, or a server's URL; `served_as` its name there."""

    address: str
    name: str = ""
    served_as: str = ""
    api_key: str = ""


def add_models(made: FastAPI, studio: Studio) -> None:
    @made.get("/models")
    async def page(request: Request) -> Response:
        person = studio.person(request)
        models = [card(model) for model in studio.pool.all()]
        return studio.pages.page(request, "models.html", person, models=models, workspace=studio.workspace)

    @made.get("/api/models")
    async def models(request: Request) -> Response:
        studio.person(request)
        return JSONResponse({"models": [card(model) for model in studio.pool.all()]})

    @made.post("/api/models")
    async def join(request: Request, asked: NewModel) -> Response:
        """An admin's: a path on this machine's disk and an address to call are nobody else's to choose."""
        studio.admin(request)
        address = asked.address.strip()
        served_as = asked.served_as.strip()
        if is_address(address):
            async with OpenAIClient(address, model=served_as, api_key=asked.api_key) as client:
                served_as = str((await client.connect())["id"])
        name = asked.name.strip() or served_as or address.rstrip("/").rpartition("/")[2]
        if name in studio.pool.names():
            raise InputError(f"a model is called {name} already; give this one another name")
        await run_in_threadpool(
            studio.join, name, address, served_as=served_as, api_key=asked.api_key.strip()
        )
        return JSONResponse(card(studio.pool.find(name)))

    @made.post("/api/models/start")
    async def start(request: Request, name: str) -> Response:
        """Start a directory's server, or look whether a dead model is back."""
        studio.person(request)
        model = studio.pool.find(name)
        await studio.pool.start(model)
        return JSONResponse(card(model))

    @made.delete("/api/models")
    async def leave(request: Request, name: str) -> Response:
        """Out of the studio; its votes and conversations stay."""
        studio.admin(request)
        model = studio.pool.find(name)
        if model.busy:
            raise ApiError(409, f"{name} is answering someone; try again in a moment")
        await studio.leave(name)
        return Response(status_code=204)


def card(model: PooledModel) -> dict[str, Any]:
    """What a page may know of a model: never its key."""
    facts = model.card
    return {
        "name": model.name, "address": model.address, "directory": model.is_directory, "state": model.state,
        "why": model.why, "images": model.images, "context": facts.get("max_model_len"),
        "weight_version": facts.get("weight_version"), "dtype": facts.get("dtype"),
    }  # fmt: skip
