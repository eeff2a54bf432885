"""The models' page: who is there, how each is, and joining and leaving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from whorl.arena.store import Person
from whorl.base.client import OpenAIClient
from whorl.base.errors import InputError
from whorl.evals.serving import is_address
from whorl.serve.api.errors import ApiError
from whorl.studio.models.places import check_key, find_place
from whorl.studio.models.pool import PooledModel
from whorl.studio.studio import Studio

NOT_WELL = "It does not answer; admins can see why."


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
        await studio.roster.look()
        models, judged = await cards(studio, person), await studio.battles.judged(person.id)
        return studio.pages.page(
            request, "models.html", person, models=models, workspace=studio.workspace,
            judged=judged if person.role == "admin" else "",
        )  # fmt: skip

    @made.get("/api/models")
    async def models(request: Request) -> Response:
        return JSONResponse({"models": await cards(studio, studio.person(request))})

    @made.post("/api/models")
    async def join(request: Request, asked: NewModel) -> Response:
        """An admin's: a path on this machine's disk and an address to call are nobody else's to choose."""
        studio.admin(request)
        place = find_place(asked.address.strip(), studio.workspace)
        served_as, key = asked.served_as.strip(), check_key(asked.api_key.strip())
        if is_address(place):
            async with OpenAIClient(place, model=served_as, api_key=key) as client:
                served_as = str((await client.connect())["id"])
        name = asked.name.strip() or await run_in_threadpool(studio.roster.name_for, place, served_as)
        if name in studio.pool.names():
            raise InputError(f"there is already a model named {name}; choose another name")
        await run_in_threadpool(studio.join, name, place, served_as=served_as, api_key=key)
        return JSONResponse(card(studio.pool.find(name)))

    @made.post("/api/models/start")
    async def start(request: Request, name: str) -> Response:
        """Start a directory's server, or look whether a dead model is back. An admin's: how long it takes
        says whether someone has started it before."""
        person = studio.admin(request)
        model = studio.pool.find(name)
        await studio.pool.start(model)
        return JSONResponse(card(model, blind=bool(await studio.battles.judged(person.id))))

    @made.delete("/api/models")
    async def leave(request: Request, name: str) -> Response:
        """Out of the studio; its votes and conversations stay."""
        studio.admin(request)
        model = studio.pool.find(name)
        if model.busy:
            raise ApiError(409, f"{name} is answering someone; try again in a moment")
        await studio.leave(name)
        return Response(status_code=204)


async def cards(studio: Studio, person: Person) -> list[dict[str, Any]]:
    """All models, as this person may know them now. Which of them run is told to admins alone, and not
    while they have a battle to vote on: two that were just started would be its pair."""
    admin = person.role == "admin"
    blind = not admin or bool(await studio.battles.judged(person.id))
    return [card(model, blind=blind, inside=admin) for model in studio.pool.all()]


def card(model: PooledModel, *, blind: bool = False, inside: bool = True) -> dict[str, Any]:
    """What a page may know of a model: never its key. To who is `blind` a model is down or not, with
    nothing of what is known of started ones alone; where it is and how it fails is for who is `inside`."""
    facts, state, images = model.card, model.state, model.images
    if blind:
        facts, images = {}, _sees(model)
        state = "down" if state == "down" else "ready"
    return {
        "name": model.name, "address": model.address if inside else "", "directory": model.is_directory,
        "state": state, "why": model.why if inside or not model.why else NOT_WELL, "images": images,
        "context": facts.get("max_model_len"), "weight_version": facts.get("weight_version"),
        "dtype": facts.get("dtype"),
    }  # fmt: skip


def _sees(model: PooledModel) -> bool:
    """Whether it sees images, as far as is known without having started it."""
    if not model.is_directory:
        return True
    return (Path(model.address) / "preprocessor_config.json").is_file()
