"""A reply as it is made: read from a model, shown as it grows, stopped when asked, kept at its end.

It runs in a task of the studio's own and not in anyone's request: a page may be closed and opened again
while it goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from whorl.base.client import Delta, ReplySoFar
from whorl.base.errors import FaultError, WhorlError
from whorl.base.nouns import Conversation, Message, SamplingParams
from whorl.studio.config import StudioLimits
from whorl.studio.models.pool import ModelPool
from whorl.studio.web.markdown import rendered
from whorl.studio.web.streams import EventLog

SHOW_SECONDS = 0.06  # between two looks at the text so far; more where rendering it takes long
RENDER_SHARE = 5.0  # times what the last rendering took

SHORTEST = 0.01  # seconds of a reply whose speed says something; a call may come all at once
SAMPLING = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
    "repetition_penalty",
)  # fmt: skip
# Servers that can say which tokens they sampled; others may refuse to be asked.
TRACED = "return_token_ids"

Ending = Literal["stop", "length", "tool_calls", "stopped", "failed"]


@dataclass(kw_only=True)
class Finished:
    """How a reply ended. `message` is what came, also where it was stopped or the model failed midway;
    `tokens` are counted by their pieces where the server does not tell (`counted`); `seconds` run from the
    first token to the last. `sampled` is what the trace says of the tokens, {} where the server does not."""

    message: Message
    ending: Ending
    error: str = ""
    weight_version: str = ""
    tokens: int | None = None
    counted: bool = False
    first_seconds: float = 0.0  # until the first token
    seconds: float = 0.0
    sampled: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float | None:
        if not self.tokens or self.tokens < 2 or self.seconds <= 0:
            return None
        return (self.tokens - 1) / self.seconds

    def record(self, params: SamplingParams) -> dict[str, Any]:
        """What is kept of how the reply came about: its trace, and what a page shows beside it."""
        rate = self.tokens_per_second if self.seconds > SHORTEST else None
        kept: dict[str, Any] = {"ending": self.ending, "seed": params.seed, "sampling": {
            name: getattr(params, name) for name in SAMPLING
        }}  # fmt: skip
        kept |= {"tokens": self.tokens} if self.tokens else {}
        kept |= {"rate": round(rate, 1)} if rate is not None else {}
        kept |= {"counted": True} if self.counted and self.tokens else {}
        kept |= {"error": self.error} if self.error else {}
        return kept | self.sampled


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
    pieces: int = 0  # deltas that brought something: most servers send each token by itself
    stopped: bool = False
    where: str = ""  # its server is
    over: bool = False  # nothing more is read; what came is being kept

    def start(self, pool: ModelPool, limits: StudioLimits) -> None:
        self.task = asyncio.create_task(self._run(pool, limits))

    def stop(self) -> None:
        """End it here; what came so far is kept."""
        self.stopped = True
        if self.task is not None and not self.over:
            self.task.cancel()

    async def _run(self, pool: ModelPool, limits: StudioLimits) -> None:
        began, first, last = time.monotonic(), 0.0, 0.0
        ending, error = "stop", ""
        try:
            async with pool.using(self.model) as client:
                began, self.where = time.monotonic(), client.url
                more = _asking(pool.find(self.model).card)
                async with aclosing(client.chat(self.conversation, self.params, **more)) as deltas:
                    last_shown, pause = 0.0, 0.0
                    async for delta in _patiently(deltas, limits):
                        now = time.monotonic()
                        first, last = first or now, now
                        self._take(delta)
                        if now - last_shown >= pause:
                            await self._show()
                            last_shown = time.monotonic()
                            pause = max(SHOW_SECONDS, RENDER_SHARE * (last_shown - now))
            ending = self.so_far.finish or "stop"
        except asyncio.CancelledError:
            if not self.stopped:
                raise
            ending = "stopped"
        except WhorlError as failure:
            ending, error = "failed", self._said(failure, pool)
        self.over = True
        message = self.so_far.message()
        if message.tool_calls and ending in ("stop", "tool_calls"):
            ending = "tool_calls"
        await self._show(finished=True)
        finished = self._finished(message, _ending(ending), error, began, first, last)
        try:
            self.log.add("done", await self.keep(finished))
        except WhorlError as failure:  # it could not be kept: the page says so, and the text is still there
            self.log.add("done", {"ending": "failed", "error": str(failure)})
        self.log.end()

    def _finished(
        self, message: Message, ending: Ending, error: str, began: float, first: float, last: float
    ) -> Finished:
        so_far = self.so_far
        tokens = self.tokens or len(so_far.token_ids)
        return Finished(
            message=message, ending=ending, error=error, weight_version=so_far.weight_version,
            tokens=tokens or self.pieces or None, counted=not tokens,
            first_seconds=max(0.0, first - began), seconds=max(0.0, last - first), sampled=_sampled(so_far),
        )  # fmt: skip

    def _take(self, delta: Delta) -> None:
        self.so_far.add(delta)
        self.tokens = delta.tokens or self.tokens
        self.pieces += bool(delta.content or delta.reasoning or delta.calls)

    def _said(self, failure: WhorlError, pool: ModelPool) -> str:
        """The error in one line. Where a server is is nobody's business who talks to it."""
        said, place = str(failure), pool.find(self.model).address if self.model in pool.names() else ""
        for known in filter(None, (self.where, place.rstrip("/").removesuffix("/v1"))):
            said = said.replace(known, self.model)
        return said

    async def _show(self, *, finished: bool = False) -> None:
        html, reasoning = await rendered(self.so_far.content, self.so_far.reasoning, finished=finished)
        self.log.add("text", {"html": html, "reasoning": reasoning}, replaces=True)


def _asking(card: Mapping[str, Any]) -> dict[str, bool]:
    """What is asked of a server beyond the reply, where its card says that it can tell."""
    return {"logprobs": True, TRACED: True} if card.get(TRACED) else {}


def _sampled(reply: ReplySoFar) -> dict[str, Any]:
    """The tokens as they were sampled; nothing where any of it is missing."""
    if not reply.token_ids or len(reply.token_ids) != len(reply.logprobs):
        return {}
    return {
        "prompt_ids": reply.prompt_ids, "token_ids": reply.token_ids, "logprobs": reply.logprobs,
        "sampled_logprobs": reply.sampled_logprobs, "kept": reply.kept,
        "weight_version": reply.weight_version, "template_hash": reply.template_hash,
        "tokenizer_hash": reply.tokenizer_hash,
    }  # fmt: skip


async def _patiently(deltas: Any, limits: StudioLimits) -> Any:
    """The deltas; FaultError where the model stays silent too long."""
    patience = limits.first_token_seconds
    while True:
        try:
            # Not `wait_for`: in Python 3.11 it forgets that it was cancelled when a delta comes just then.
            async with asyncio.timeout(patience):
                delta = await anext(deltas)
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
