"""The chat's pages, and one's conversations: listed, searched, named, erased."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from whorl.arena.store import Conversation, Person, Turn
from whorl.arena.store.records import Consent
from whorl.serve.api.errors import ApiError
from whorl.studio.chat.judging import add_judging
from whorl.studio.chat.offered_tools import WORDS
from whorl.studio.chat.rooms import Rooms
from whorl.studio.chat.talking import add_talking
from whorl.studio.chat.titles import title_of
from whorl.studio.chat.turns import own_chat, shown, with_judgements
from whorl.studio.models.pages import cards
from whorl.studio.studio import Studio
from whorl.studio.web.incoming import known_number
from whorl.studio.web.pages import PLACES

Talk = dict[str, Any]  # a conversation as its page needs it
LISTED = 40  # conversations a page of the list
FOUND = 100  # turns a search looks at
AROUND = 60  # characters on each side of what was searched for


class NewTitle(BaseModel):
    title: str


class NewConsent(BaseModel):
    consent: Consent


def add_chat(made: FastAPI, studio: Studio) -> None:
    rooms = Rooms()
    studio.closing.append(rooms.close)
    _add_pages(made, studio, rooms)
    _add_list(made, studio)
    add_judging(made, studio)  # before what is at /api/chat/{id}: it has ways beside it
    _add_settings(made, studio, rooms)
    add_talking(made, studio, rooms)


def _add_pages(made: FastAPI, studio: Studio, rooms: Rooms) -> None:
    async def page(
        request: Request, person: Person, first: dict[str, Any], talk: dict[str, Any] | None
    ) -> Response:
        data = {
            "models": await _models(studio, person), "tools": WORDS, "talk": talk, **first,
            "documents": any(place.path == "/data" for place in PLACES),
        }  # fmt: skip
        limit = studio.config.limits.prompt
        return studio.pages.page(
            request, "chat.html", person, data=data, limit=limit, title=talk["title"] if talk else "Chat"
        )

    @made.get("/chat")
    async def new(request: Request) -> Response:
        person = studio.person(request)
        return await page(request, person, await run_in_threadpool(_listed, studio, person.id), None)

    @made.get("/chat/{conversation}")
    async def old(request: Request, conversation: str) -> Response:
        person = studio.person(request)

        def read() -> tuple[dict[str, Any], Talk]:
            talk = _talk(studio, rooms, conversation, person.id)
            return _listed(studio, person.id), talk

        return await page(request, person, *await run_in_threadpool(read))

    @made.get("/api/chat/{conversation}/whole")
    async def whole(request: Request, conversation: str) -> Response:
        """All of a conversation: what a page asks for that has lost the thread."""
        person = studio.person(request)
        return JSONResponse(await run_in_threadpool(_talk, studio, rooms, conversation, person.id))

    @made.get("/api/chat/{conversation}/images/{turn}/{place}")
    async def image(request: Request, conversation: str, turn: int, place: int) -> Response:
        person = studio.person(request)
        known_number(turn, "turn")

        def read() -> tuple[bytes, str]:
            own_chat(studio.store, conversation, person.id)
            said = next((one for one in studio.store.turns(conversation) if one.id == turn), None)
            images = said.message.images if said is not None and said.message is not None else ()
            if not 0 <= place < len(images):
                raise ApiError(404, f"turn {turn} has no image {place}")
            return images[place].data, images[place].media_type

        data, kind = await run_in_threadpool(read)
        return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=86400, immutable"})


def _talk(studio: Studio, rooms: Rooms, conversation: str, person: int) -> Talk:
    """A conversation as its page needs it. What is running is looked at before the turns are read: a turn
    that comes in between is told twice rather than never."""
    head = own_chat(studio.store, conversation, person)
    running = rooms.running(conversation)
    turns = [shown(turn) for turn in studio.store.turns(conversation)]
    return {
        "id": conversation, "title": title_of(studio.store, head), "consent": head.consent,
        "tools": [one["function"]["name"] for one in head.tools],
        "turns": with_judgements(turns, studio.store.preferences(conversation)),
        "exchange": running.number if running is not None else None,
    }  # fmt: skip


async def _models(studio: Studio, person: Person) -> list[dict[str, Any]]:
    wanted = ("name", "state", "why", "images", "directory")
    return [{key: one[key] for key in wanted} for one in await cards(studio, person)]


# -- the list -----------------------------------------------------------------------------------------


def _add_list(made: FastAPI, studio: Studio) -> None:
    @made.get("/api/chat")
    async def listed(request: Request, before: str | None = None) -> Response:
        person = studio.person(request)
        return JSONResponse(await run_in_threadpool(_listed, studio, person.id, before))

    @made.get("/api/chat/search")
    async def search(request: Request, words: str) -> Response:
        person = studio.person(request)
        studio.changes.take(person.id)  # it reads all one has ever said
        return JSONResponse({"found": await run_in_threadpool(_search, studio, person.id, words.strip())})


def _listed(studio: Studio, person: int, before: str | None = None) -> dict[str, Any]:
    """A page of one's conversations, the newest first."""
    if before is not None:
        own_chat(studio.store, before, person)
    heads = studio.store.conversations(
        person=person, kind="chat", erased=False, limit=LISTED + 1, before=before
    )  # fmt: skip
    return {"conversations": [_entry(studio, one) for one in heads[:LISTED]], "more": len(heads) > LISTED}


def _entry(studio: Studio, head: Conversation) -> dict[str, Any]:
    return {"id": head.id, "title": title_of(studio.store, head), "started": head.started}


def _search(studio: Studio, person: int, words: str) -> list[dict[str, Any]]:
    """Conversations in which the words stand, each with the latest place. Chats alone: in a battle the
    turns name its models."""
    found: dict[str, Turn] = {}
    for turn in studio.store.search(person, words, kind="chat", limit=FOUND):
        found.setdefault(turn.conversation, turn)
    entries = []
    for conversation, turn in found.items():
        assert turn.message is not None, "matched by its text"
        said = _around(turn.message.text, words)
        entry = _entry(studio, studio.store.conversation(conversation))
        entries.append({**entry, "said": said, "turn": turn.id, "role": turn.message.role})
    return entries


def _around(text: str, words: str) -> str:
    place = max(0, text.casefold().find(words.casefold()))
    start, end = max(0, place - AROUND), place + len(words) + AROUND
    middle = " ".join(text[start:end].split())
    return f"{'…' if start else ''}{middle}{'…' if end < len(text) else ''}"


# -- what its person may change ------------------------------------------------------------------------


def _add_settings(made: FastAPI, studio: Studio, rooms: Rooms) -> None:
    @made.post("/api/chat/{conversation}/title")
    async def title(request: Request, conversation: str, asked: NewTitle) -> Response:
        person = studio.person(request)

        def change() -> str:
            own_chat(studio.store, conversation, person.id)
            studio.store.rename_conversation(conversation, asked.title)
            return title_of(studio.store, studio.store.conversation(conversation))

        return JSONResponse({"title": await run_in_threadpool(change)})

    @made.post("/api/chat/{conversation}/consent")
    async def consent(request: Request, conversation: str, asked: NewConsent) -> Response:
        """A row of the log for ever, so only where something changes, and not too often."""
        person = studio.person(request)
        studio.messages.take(person.id)

        def change() -> None:
            if own_chat(studio.store, conversation, person.id).consent != asked.consent:
                studio.store.set_consent(conversation, asked.consent)

        await run_in_threadpool(change)
        return Response(status_code=204)

    @made.delete("/api/chat/{conversation}")
    async def erase(request: Request, conversation: str) -> Response:
        """Gone from the store and its files; a tombstone without words stays in the log."""
        person = studio.person(request)
        studio.messages.take(person.id)
        await run_in_threadpool(own_chat, studio.store, conversation, person.id)
        await rooms.stop(conversation)
        await run_in_threadpool(studio.store.erase, conversation)
        rooms.forget(conversation)
        return Response(status_code=204)
