"""Signing in and out, and the admin's page: who may vote, and with which token."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from whorl.arena.store import Person
from whorl.arena.store.records import Role
from whorl.arena.voters import odd_voters
from whorl.base.errors import InputError
from whorl.serve.api.errors import ApiError
from whorl.studio.studio import Studio
from whorl.studio.web.incoming import known_number
from whorl.studio.web.sessions import is_removed

LONGEST_NAME = 80


class NewPerson(BaseModel):
    name: str
    role: Role = "voter"


class NewRole(BaseModel):
    role: Role


def add_people(made: FastAPI, studio: Studio) -> None:
    _add_signing(made, studio)
    _add_admin(made, studio)
    _add_changes(made, studio)


def _add_signing(made: FastAPI, studio: Studio) -> None:
    @made.get("/enter")
    async def enter(request: Request, key: str = "", next: str = "/") -> Response:
        """The address that the terminal shows: it signs the machine's own user in."""
        if not studio.sessions.fits(key):
            message = (
                "This address is from an earlier start; use the new one shown in the terminal, or sign in."
            )
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
            if "\0" in name:  # no database looks for it
                raise InputError("wrong name or token; ask an admin for a new token")
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
        await run_in_threadpool(studio.sessions.close, request, response)
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
        known = await run_in_threadpool(_known, studio)
        odd = await run_in_threadpool(_odd, studio, known)
        shown = [{"id": one.id, "name": one.name, "role": one.role} for one in known]
        return studio.pages.page(request, "people.html", person, people=shown, odd=odd)

    @made.post("/api/people")
    async def add(request: Request, asked: NewPerson) -> Response:
        studio.admin(request)
        name = _checked_name(asked.name)
        person = await run_in_threadpool(studio.store.add_person, name, role=asked.role)
        token = await run_in_threadpool(studio.store.new_token, person.id)
        return JSONResponse({"id": person.id, "name": person.name, "role": person.role, "token": token})

    @made.post("/api/people/{number}/token")
    async def token(request: Request, number: int) -> Response:
        """A new token; what was signed in with the old one is signed out."""
        studio.admin(request)
        known_number(number, "person")
        made_token = await run_in_threadpool(studio.store.new_token, number)
        studio.sessions.forget(number)
        return JSONResponse({"id": number, "token": made_token})


def _add_changes(made: FastAPI, studio: Studio) -> None:
    one_by_one = asyncio.Lock()  # two admins who demote each other at once must not both succeed

    @made.post("/api/people/{number}/role")
    async def role(request: Request, number: int, asked: NewRole) -> Response:
        studio.admin(request)
        async with one_by_one:
            person = await run_in_threadpool(_find, studio, number)
            if asked.role != "admin":
                await run_in_threadpool(_keep_an_admin, studio, person)
            await run_in_threadpool(studio.store.set_role, number, asked.role)
            studio.sessions.forget(number)
        return JSONResponse({"id": number, "role": asked.role})

    @made.delete("/api/people/{number}")
    async def remove(request: Request, number: int) -> Response:
        """The name, the token and all conversations go for good; votes stay in the log, without words."""
        studio.admin(request)
        async with one_by_one:
            person = await run_in_threadpool(_find, studio, number)
            await run_in_threadpool(_keep_an_admin, studio, person)
            await run_in_threadpool(studio.store.erase_person, number)
            studio.sessions.forget(number)
            studio.battles.forget(number)
        return Response(status_code=204)


def _checked_name(name: str) -> str:
    name = name.strip()
    if len(name) > LONGEST_NAME:
        raise InputError(f"the name has {len(name):,} characters; at most {LONGEST_NAME}, shorten it")
    if not name.isprintable():
        raise InputError("the name has invisible characters; remove them")
    return name


def _known(studio: Studio) -> list[Person]:
    """All but those who were removed: of them the votes' numbers are left."""
    return [one for one in studio.store.people() if not is_removed(one)]


def _find(studio: Studio, number: int) -> Person:
    known_number(number, "person")
    found = next((one for one in _known(studio) if one.id == number), None)
    if found is None:
        raise ApiError(404, f"there is no person {number}; reload the page")
    return found


def _keep_an_admin(studio: Studio, person: Person) -> None:
    """ApiError 409 where nobody would be left who may do this."""
    if person.role == "admin" and [one.role for one in _known(studio)].count("admin") == 1:
        raise ApiError(409, f"{person.name} is the only admin; make another person admin first")


def _odd(studio: Studio, known: Sequence[Person]) -> list[dict[str, Any]]:
    """Whose votes are unlike the others': for a person to look at, and nothing follows by itself."""
    names = {str(one.id): one.name for one in known}
    found = odd_voters(studio.battles.board.snapshot.battles, seed=studio.sessions.number("odd voters"))
    return [
        {"name": names.get(one.voter, f"number {one.voter}"), "votes": one.votes, "after": one.after}
        for one in found
    ]
