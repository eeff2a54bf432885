"""Signing in and out, and the admin's page: who may vote, and with which token."""

from __future__ import annotations

from typing import Literal
from urllib.parse import parse_qs

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from whorl.base.errors import InputError
from whorl.serve.api.errors import ApiError
from whorl.studio.studio import Studio


class NewPerson(BaseModel):
    name: str
    role: Literal["voter", "admin"] = "voter"


def add_people(made: FastAPI, studio: Studio) -> None:
    _add_signing(made, studio)
    _add_admin(made, studio)


def _add_signing(made: FastAPI, studio: Studio) -> None:
    @made.get("/enter")
    async def enter(request: Request, key: str = "", next: str = "/") -> Response:
        """The address that the terminal shows: it signs the machine's own user in."""
        if not studio.sessions.fits(key):
            message = "This address is from an earlier start; take the new one from the terminal, or sign in."
            return _sign_in_page(studio, request, message=message, status=401)
        person = await run_in_threadpool(studio.sessions.admin)
        response = RedirectResponse(_inside(request, next), 303)
        studio.sessions.open(request, response, person)
        return response

    @made.get("/sign-in")
    async def sign_in_page(request: Request) -> Response:
        return _sign_in_page(studio, request)

    @made.post("/sign-in")
    async def sign_in(request: Request, next: str = "/") -> Response:
        """A plain form: it works before any script does, and password managers know it."""
        try:
            studio.sign_ins.take(request.client.host if request.client else "")
            form = parse_qs((await request.body()).decode("utf-8", "replace"))
            name, token = form.get("name", [""])[0].strip(), form.get("token", [""])[0].strip()
            person = await run_in_threadpool(studio.store.sign_in, name, token)
        except ApiError as error:
            return _sign_in_page(studio, request, message=error.message, status=error.status)
        except InputError as error:
            return _sign_in_page(studio, request, message=str(error), status=401, name=name)
        response = RedirectResponse(_inside(request, next), 303)
        studio.sessions.open(request, response, person)
        return response

    @made.post("/api/sign-out")
    async def sign_out(request: Request) -> Response:
        response = Response(status_code=204)
        studio.sessions.close(request, response)
        return response


def _sign_in_page(
    studio: Studio, request: Request, *, message: str = "", status: int = 200, name: str = ""
) -> Response:
    way = request.query_params.get("next", "/")
    return studio.pages.page(
        request, "sign_in.html", None, status=status, message=message, next=way, name=name
    )


def _inside(request: Request, way: str) -> str:
    """Where to go after signing in: a page of this studio, whatever the address says."""
    root = str(request.scope.get("root_path") or "")
    inside = way.startswith("/") and not way.startswith(("//", "/\\")) and way.isprintable()
    return root + (way if inside else "/")


def _add_admin(made: FastAPI, studio: Studio) -> None:
    @made.get("/people")
    async def people(request: Request) -> Response:
        person = studio.admin(request)
        known = await run_in_threadpool(studio.store.people)
        return studio.pages.page(request, "people.html", person, people=known)

    @made.post("/api/people")
    async def add(request: Request, asked: NewPerson) -> Response:
        studio.admin(request)
        person = await run_in_threadpool(studio.store.add_person, asked.name.strip(), role=asked.role)
        token = await run_in_threadpool(studio.store.new_token, person.id)
        return JSONResponse({"id": person.id, "name": person.name, "token": token})

    @made.post("/api/people/{number}/token")
    async def token(request: Request, number: int) -> Response:
        """A new token; what was signed in with the old one is signed out."""
        studio.admin(request)
        made_token = await run_in_threadpool(studio.store.new_token, number)
        studio.sessions.forget(number)
        return JSONResponse({"id": number, "token": made_token})
