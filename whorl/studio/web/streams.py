"""Events that pages listen to: kept in order, sent as they come, resumed where a page lost them.

Server-sent events (WHATWG HTML, 9.2): the browser reconnects by itself and says with `Last-Event-ID`
what it had, so a reload in mid-answer loses nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import StreamingResponse


class Event(NamedTuple):
    """`name` is what a page listens for; `data` goes as JSON."""

    name: str
    data: Mapping[str, Any]


class EventLog:
    """Events of one thing that happens, with whoever listens. All in one event loop.

    An event that `replaces` those of its name before it (the text so far) is the only one of that name
    that a newcomer is given.
    """

    def __init__(self) -> None:
        self._events: list[Event | None] = []
        self._last: dict[str, int] = {}
        self._changed = asyncio.Event()
        self.ended = False

    def add(self, name: str, data: Mapping[str, Any], *, replaces: bool = False) -> None:
        if replaces and name in self._last:
            self._events[self._last[name]] = None
        self._last[name] = len(self._events)
        self._events.append(Event(name, data))
        self._wake()

    def end(self) -> None:
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, after: int = 0) -> AsyncIterator[tuple[int | str, Event]]:
        """(number, event) from `after` on, until the end."""
        # A number from a log that a restart has ended says nothing about this one.
        place = after if after <= len(self._events) else 0
        while True:
            changed = self._changed
            while place < len(self._events):
                place += 1
                if (event := self._events[place - 1]) is not None:
                    yield place, event
            if self.ended and place == len(self._events):
                return
            if place == len(self._events):
                await changed.wait()


def event_stream(request: Request, log: EventLog, keep_alive: float) -> StreamingResponse:
    """The log as server-sent events, from where this browser left."""
    seen = request.headers.get("last-event-id") or request.query_params.get("after", "")
    return send_events(log.follow(int(seen) if seen.isdecimal() else 0), keep_alive)


def send_events(events: AsyncIterator[tuple[int | str, Event]], keep_alive: float) -> StreamingResponse:
    """(id, event) as server-sent events; a silence of `keep_alive` seconds is filled with a comment."""

    async def lines() -> AsyncIterator[str]:
        waiting: asyncio.Future[tuple[int | str, Event]] | None = None
        try:
            while True:
                waiting = waiting or asyncio.ensure_future(anext(events))
                done, _ = await asyncio.wait([waiting], timeout=keep_alive)
                if not done:
                    yield ": still here\n\n"
                    continue
                try:
                    number, event = waiting.result()
                except StopAsyncIteration:
                    yield "event: end\ndata: {}\n\n"  # else the browser would come again
                    return
                waiting = None
                yield f"id: {number}\nevent: {event.name}\ndata: {json.dumps(event.data)}\n\n"
        finally:
            if waiting is not None:
                waiting.cancel()

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)
