"""What chat and completions share: a request that is admitted, prepared, generated and answered."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Generic, TypeVar

from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from whorl.serve.api.metrics import Timer
from whorl.serve.api.schemas import Request, ignored_header
from whorl.serve.api.served import Served, event_error, merged, unless_gone
from whorl.serve.api.streaming import sse
from whorl.serve.api.traces import Traces
from whorl.serve.requests import EngineEvent, EngineRequest

Asked = TypeVar("Asked", bound=Request)
Prompts = TypeVar("Prompts")  # what was prepared


class Generation(ABC, Generic[Asked, Prompts]):
    """One request on its way. `count` is how many sequences it needs room for."""

    kind: str  # OpenAI's name for it
    prefix: str  # of its id

    def __init__(self, served: Served, traces: Traces | None, asked: Asked, lenient: bool) -> None:
        self.served, self.traces, self.asked = served, traces, asked
        self.ignored = asked.check_fields(lenient=lenient)
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())
        self.model, self.adapter = served.find(asked.model)
        self.version = self.model.version(self.adapter)
        self.count = asked.n

    @abstractmethod
    async def prepare(self) -> Prompts:
        """The prompts; ApiError where they cannot be made or do not fit."""

    @abstractmethod
    def requests(self, prompts: Prompts) -> list[EngineRequest]: ...

    @abstractmethod
    async def whole(self, prompts: Prompts) -> dict[str, Any]:
        """The answer's body."""

    @abstractmethod
    def chunks(self, prompts: Prompts) -> AsyncIterator[dict[str, Any]]:
        """The bodies of a streamed answer."""

    async def answer(self, http: HttpRequest) -> Response:
        """A stream has its room and its prompt before its first byte goes, so that what is refused has its
        status."""
        headers = {"X-Whorl-Weights": self.version, **ignored_header(self.ignored)}
        async with AsyncExitStack() as room:
            await room.enter_async_context(self.served.admitted(self.model, self.count))
            if not self.asked.stream:
                return JSONResponse(await unless_gone(http, self._prepared_whole()), headers=headers)
            prompts = await unless_gone(http, self.prepare())
            kept = room.pop_all()  # the stream gives it back at its end
        return sse(self.chunks(prompts), kept, self.served.limits.keep_alive_seconds, headers)

    async def _prepared_whole(self) -> dict[str, Any]:
        return await self.whole(await self.prepare())

    async def events(self, prompts: Prompts) -> AsyncIterator[tuple[int, EngineEvent]]:
        """What the engine says, with the place of its sequence; ApiError where one fails."""
        timer = Timer(self.served.metrics, self.model.name)
        stream = merged(self.model.client, self.requests(prompts))
        try:
            async for place, event in stream:
                if event.error:
                    raise event_error(event)
                timer.saw(place, event)
                yield place, event
        finally:
            await stream.aclose()  # type: ignore[attr-defined]

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.asked.stream_options is not None and self.asked.stream_options.include_usage

    def body(self, choices: list[Any], kind: str = "") -> dict[str, Any]:
        return {
            "id": self.id, "object": kind or self.kind, "created": self.created, "model": self.asked.model,
            "system_fingerprint": self.version, "choices": choices,
        }  # fmt: skip


def usage_of(prompt: int, reply: int, cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip
