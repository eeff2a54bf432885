"""What both ways to an engine share: open requests, calls that wait for their answer, the last health."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from whorl.base.errors import FaultError, InputError
from whorl.serve.requests import EngineEvent, EngineHealth, EngineInfo, EngineRequest
from whorl.serve.wire import (
    Abort,
    Answer,
    Beat,
    Events,
    Generate,
    LoadAdapter,
    Message,
    Ready,
    UnloadAdapter,
)


@dataclass(frozen=True)
class LoadedAdapter:
    """What a client remembers of an adapter, so that another worker can have it too."""

    directory: str
    version: str


@dataclass(frozen=True)
class _Call:
    message: LoadAdapter | UnloadAdapter
    answer: asyncio.Future[Answer]


class BaseClient:
    """An `EngineClient` but for how messages come and go."""

    def __init__(self) -> None:
        self._open: dict[str, asyncio.Queue[EngineEvent]] = {}
        self._calls: dict[int, _Call] = {}
        self._numbers = itertools.count(1)
        self._health = EngineHealth(status="starting")
        self._info: EngineInfo | None = None
        self._adapters: dict[str, LoadedAdapter] = {}

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise FaultError("the engine has not started")
        return self._info

    async def health(self) -> EngineHealth:
        return self._health

    @property
    def down(self) -> str:
        """Why nothing can be asked now, in one line."""
        return f"the engine is down: {self._health.reason}"

    async def generate(self, request: EngineRequest) -> AsyncIterator[EngineEvent]:
        """See `EngineClient.generate`."""
        if request.id in self._open:
            yield EngineEvent(id=request.id, error=f"request id {request.id!r} is in use")
            return
        if self._health.status == "down":
            yield EngineEvent(id=request.id, error=self.down, fault=True)
            return
        self._send(Generate(request))  # before it is open: what cannot be sent is aborted nowhere
        events: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self._open[request.id] = events
        done = False
        try:
            while not done:
                event = await events.get()
                done = event.last
                yield event
        finally:
            del self._open[request.id]
            if not done:
                self._send(Abort(request.id))

    async def abort(self, id: str) -> None:
        """End a request; its reader gets an error."""
        self._send(Abort(id))
        if id in self._open:
            self._open[id].put_nowait(EngineEvent(id=id, error="the request was aborted"))

    async def load_adapter(self, name: str, directory: str) -> str:
        if self._health.status != "ready":
            raise FaultError(self.down)
        return await self._call(LoadAdapter(next(self._numbers), name, directory))

    async def unload_adapter(self, name: str) -> None:
        if self._health.status != "ready":
            raise FaultError(self.down)
        await self._call(UnloadAdapter(next(self._numbers), name))

    async def _call(self, message: LoadAdapter | UnloadAdapter) -> str:
        self._send(message)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._calls[message.call] = _Call(message, answer)
        got = await answer
        if got.error:
            raise (FaultError if got.fault else InputError)(got.error)
        return got.text

    def _send(self, message: Message) -> None:
        """Hand a message to the engine; InputError where it cannot be sent."""
        raise NotImplementedError

    def _received(self, message: Message) -> None:
        match message:
            case Ready(info):
                self._info = info
                self._health = replace(self._health, status="ready", reason="")
            case Events(events, health):
                self._update(health)
                for event in events:
                    if event.id in self._open:
                        self._open[event.id].put_nowait(event)
            case Beat(health, _):
                self._update(health)
            case Answer():
                self._answered(message)

    def _update(self, health: EngineHealth) -> None:
        """The engine's figures; whether it may be asked is the client's to say."""
        kept = self._health
        self._health = replace(health, status=kept.status, reason=kept.reason, restarts=kept.restarts)

    def _answered(self, answer: Answer) -> None:
        self._info = answer.info
        call = self._calls.pop(answer.call, None)
        if call is None:
            return
        if not answer.error:  # also where nobody waits for the answer any more
            match call.message:
                case LoadAdapter(_, name, directory):
                    self._adapters[name] = LoadedAdapter(directory, answer.text)
                case UnloadAdapter(_, name):
                    self._adapters.pop(name, None)
        if not call.answer.done():
            call.answer.set_result(answer)

    def _fail_all(self, reason: str) -> None:
        """Nobody waits for an engine that is gone."""
        self._health = EngineHealth(status="down", reason=reason, restarts=self._health.restarts)
        for id, events in self._open.items():
            events.put_nowait(EngineEvent(id=id, error=f"{reason}; try again in a moment", fault=True))
        for call in self._calls.values():
            if not call.answer.done():
                call.answer.set_exception(FaultError(reason))
        self._calls.clear()
