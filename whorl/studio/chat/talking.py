"""Saying something, and hearing the answer: messages, retries, edits, tools' permissions, streams."""

from __future__ import annotations

from functools import partial
from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from whorl.arena.store import Turn
from whorl.arena.store.records import Consent
from whorl.base.errors import InputError
from whorl.base.nouns import Message
from whorl.serve.api.errors import ApiError
from whorl.studio.chat.exchange import STOPPED, Exchange
from whorl.studio.chat.offered_tools import schemas
from whorl.studio.chat.rooms import Rooms
from whorl.studio.chat.sampling import Sampling
from whorl.studio.chat.titles import beginning
from whorl.studio.chat.turns import open_calls, own_chat, shown
from whorl.studio.studio import Studio
from whorl.studio.web.incoming import Incoming, check_length, read_message
from whorl.studio.web.streams import event_stream


class First(Incoming):
    """The message that begins a conversation."""

    model: str
    system: str = ""
    tools: list[str] = []
    consent: Consent = "none"
    sampling: Sampling = Sampling()


class Further(Incoming):
    """A message behind the turn `parent`; with 0 it begins anew, under `system`."""

    model: str
    parent: int
    system: str = ""
    sampling: Sampling = Sampling()


class Again(BaseModel):
    """A reply to what stands at the turn `parent`."""

    model: str
    parent: int
    sampling: Sampling = Sampling()


class Word(BaseModel):
    """Whether a call may be made: the one at `index` of the reply `turn`."""

    turn: int
    index: int
    decision: Literal["once", "refuse", "all"]


def add_talking(made: FastAPI, studio: Studio, rooms: Rooms) -> None:
    _add_saying(made, studio, rooms)
    _add_hearing(made, studio, rooms)


def _add_saying(made: FastAPI, studio: Studio, rooms: Rooms) -> None:
    async def exchange(conversation: str, leaf: int, asked: First | Further | Again) -> Exchange:
        head = await run_in_threadpool(studio.store.conversation, conversation)
        return Exchange(
            conversation=conversation, person=head.person, leaf=leaf, model=asked.model,
            params=asked.sampling.params(), tools=head.tools, store=studio.store, pool=studio.pool,
            limits=studio.config.limits, allowed=rooms.allowed,
        )  # fmt: skip

    @made.post("/api/chat")
    async def begin(request: Request, asked: First) -> Response:
        person = studio.person(request)
        studio.messages.take(person.id)
        studio.pool.find(asked.model)
        rooms.check(person.id)

        def keep() -> tuple[str, str, list[Turn]]:
            opening = [*_system(asked.system, studio), read_message(asked, studio.config.limits)]
            number = studio.store.start_chat(
                person.id, opening, consent=asked.consent, tools=schemas(asked.tools)
            )
            studio.store.rename_conversation(number, title := beginning(opening))
            return number, title, studio.store.turns(number)

        conversation, title, turns = await run_in_threadpool(keep)
        make = partial(exchange, conversation, turns[-1].id, asked)
        begun = await rooms.begin(conversation, person.id, make)
        told = {"id": conversation, "title": title, "consent": asked.consent, "tools": asked.tools}
        return JSONResponse({**told, "turns": [shown(one) for one in turns], "exchange": begun.number})

    @made.post("/api/chat/{conversation}")
    async def say(request: Request, conversation: str, asked: Further) -> Response:
        """A further message, or an edit of an earlier one: that is a message behind the same parent."""
        person = studio.person(request)
        studio.messages.take(person.id)
        studio.pool.find(asked.model)
        await run_in_threadpool(own_chat, studio.store, conversation, person.id)
        message = await run_in_threadpool(read_message, asked, studio.config.limits)
        said: list[Turn] = []

        async def make() -> Exchange:
            said.extend(await run_in_threadpool(_say, studio, conversation, asked, message))
            return await exchange(conversation, said[-1].id, asked)

        begun = await rooms.begin(conversation, person.id, make)
        return JSONResponse({"turns": [shown(one) for one in said], "exchange": begun.number})

    @made.post("/api/chat/{conversation}/retry")
    async def retry(request: Request, conversation: str, asked: Again) -> Response:
        """Another reply behind the same turn, or the first where none came."""
        person = studio.person(request)
        studio.messages.take(person.id)
        studio.pool.find(asked.model)

        def check() -> None:
            own_chat(studio.store, conversation, person.id)
            _turn(studio.store.turns(conversation), asked.parent)

        await run_in_threadpool(check)
        make = partial(exchange, conversation, asked.parent, asked)
        begun = await rooms.begin(conversation, person.id, make)
        return JSONResponse({"turns": [], "exchange": begun.number})


def _add_hearing(made: FastAPI, studio: Studio, rooms: Rooms) -> None:
    async def own(request: Request, conversation: str) -> None:
        person = studio.person(request)
        await run_in_threadpool(own_chat, studio.store, conversation, person.id)

    @made.get("/api/chat/{conversation}/stream")
    async def stream(request: Request, conversation: str, exchange: str) -> Response:
        """What happens in that exchange. 204 where it is long over: a browser then asks no more, and the
        page reads the conversation again."""
        await own(request, conversation)
        found = rooms.find(conversation, exchange)
        if found is None:
            return Response(status_code=204)
        return event_stream(request, found.log, studio.config.limits.keep_alive_seconds)

    @made.post("/api/chat/{conversation}/stop")
    async def stop(request: Request, conversation: str) -> Response:
        await own(request, conversation)
        await rooms.stop(conversation)
        return Response(status_code=204)

    @made.post("/api/chat/{conversation}/calls")
    async def decide(request: Request, conversation: str, word: Word) -> Response:
        await own(request, conversation)
        running = rooms.running(conversation)
        if running is None or not running.decide(word.turn, word.index, word.decision):
            raise ApiError(409, "this call has already been answered", code="decided")
        return Response(status_code=204)


def _system(text: str, studio: Studio) -> list[Message]:
    check_length(text, studio.config.limits, "system prompt")
    return [Message(role="system", content=(text,))] if text.strip() else []


def _say(studio: Studio, conversation: str, asked: Further, message: Message) -> list[Turn]:
    """Keep the message where it belongs; the turns that are new, the message last."""
    turns = studio.store.turns(conversation)
    said: list[Turn] = []

    def keep(one: Message, parent: int) -> int:
        number = studio.store.say(conversation, one, parent=parent)
        said.append(Turn(
            id=number, conversation=conversation, parent=parent or None, side="", message=one
        ))  # fmt: skip
        return number

    parent = asked.parent
    if parent == 0:
        for system in _system(asked.system, studio):
            same = [one.id for one in turns if one.parent is None and one.message == system]
            parent = same[0] if same else keep(system, 0)
    elif _turn(turns, parent).message is not None:
        for call in open_calls(turns, parent)[1]:  # broken off there: a model wants an answer to each call
            content = (STOPPED,)
            result = Message(role="tool", content=content, tool_call_id=call.id or None, name=call.name)
            parent = keep(result, parent)
    keep(message, parent)
    return said


def _turn(turns: list[Turn], number: int) -> Turn:
    found = next((one for one in turns if one.id == number), None)
    if found is None:
        raise InputError(f"turn {number} is not in this conversation; reload the page")
    return found
