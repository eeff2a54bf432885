"""A reply as it is made: read from a model, shown as it grows, stopped when asked, kept at its end.

It runs in a task of the studio's own and not in anyone's request: a page may be closed and opened again
while it goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from whorl.base.client import Delta, ReplySoFar
from whorl.base.errors import FaultError, WhorlError
from whorl.base.nouns import Conversation, Message, SamplingParams
from whorl.studio.config import StudioLimits
from whorl.studio.models.pool import ModelPool
from whorl.studio.web.markdown import render_markdown
from whorl.studio.web.streams import EventLog

SHOW_SECONDS = 0.06  # between two looks at the text so far; more where rendering it takes long
RENDER_SHARE = 5.0  # times what the last rendering took

Ending = Literal["stop", "length", "tool_calls", "stopped", "failed"]


@dataclass(kw_only=True)
class Finished:
    """How a reply ended. `message` is what came, also where it was stopped or the model failed midway;
    `tokens` is None where the server does not tell; `seconds` run from the first token to the last."""

    message: Message
    ending: Ending
    error: str = ""
    weight_version: str = ""
    tokens: int | None = None
    first_seconds: float = 0.0  # until the first token
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        if not self.tokens or self.tokens < 2 or self.seconds <= 0:
            return None
        return (self.tokens - 1) / self.seconds


@dataclass(kw_only=True)
class Reply:
    """One reply. `keep` is told how it ended before the listeners are.

    Listeners get `text` (the whole so far, rendered: {"html", "reasoning"}), `calls` (the tools it
    wants: [{"id", "name", "arguments"}]) and, from whoever made it, what `keep` returns as `done`.
    """

    model: str
    conversation: Conversation
    params: SamplingParams
    keep: Callable[[Finished], Awaitable[dict[str, Any]]]
    log: EventLog = field(default_factory=EventLog)
    task: asyncio.Task[None] | None = None
    so_far: ReplySoFar = field(default_factory=ReplySoFar)
    tokens: int | None = None
    stopped: bool = False

    def start(self, pool: ModelPool, limits: StudioLimits) -> None:
        self.task = asyncio.create_task(self._run(pool, limits))

    def stop(self) -> None:
        """End it here; what came so far is kept."""
        self.stopped = True
        if self.task is not None:
            self.task.cancel()

    async def _run(self, pool: ModelPool, limits: StudioLimits) -> None:
        began, first, last = time.monotonic(), 0.0, 0.0
        ending, error = "stop", ""
        try:
            async with pool.using(self.model) as client:
                began = time.monotonic()
                async with aclosing(client.chat(self.conversation, self.params)) as deltas:
                    last_shown, pause = 0.0, 0.0
                    async for delta in _patiently(deltas, limits):
                        now = time.monotonic()
                        first, last = first or now, now
                        self._take(delta)
                        if now - last_shown >= pause:
                            self._show()
                            last_shown = time.monotonic()
                            pause = max(SHOW_SECONDS, RENDER_SHARE * (last_shown - now))
            ending = self.so_far.finish or "stop"
        except asyncio.CancelledError:
            if not self.stopped:
                raise
            ending = "stopped"
        except WhorlError as failure:
            ending, error = "failed", str(failure)
        message = self.so_far.message()
        if message.tool_calls and ending in ("stop", "tool_calls"):
            ending = "tool_calls"
        self._show()
        finished = Finished(
            message=message, ending=_ending(ending), error=error, weight_version=self.so_far.weight_version,
            tokens=self.tokens, first_seconds=max(0.0, first - began), seconds=max(0.0, last - first),
        )  # fmt: skip
        try:
            self.log.add("done", await self.keep(finished))
        except WhorlError as failure:  # it could not be kept: the page says so, and the text is still there
            self.log.add("done", {"ending": "failed", "error": str(failure)})
        self.log.end()

    def _take(self, delta: Delta) -> None:
        self.so_far.add(delta)
        self.tokens = delta.tokens or self.tokens

    def _show(self) -> None:
        so_far = self.so_far
        rendered = {"html": render_markdown(so_far.content), "reasoning": render_markdown(so_far.reasoning)}
        self.log.add("text", rendered, replaces=True)


async def _patiently(deltas: Any, limits: StudioLimits) -> Any:
    """The deltas; FaultError where the model stays silent too long."""
    patience = limits.first_token_seconds
    while True:
        try:
            delta = await asyncio.wait_for(anext(deltas), patience)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise FaultError(f"the model has said nothing for {patience:g} s") from None
        patience = limits.silence_seconds
        yield delta


def _ending(word: str) -> Ending:
    """Servers have further words; each is an end like any other."""
    if word in ("length", "tool_calls", "stopped", "failed"):
        return word  # type: ignore[return-value]
    return "stop"
