"""One side's answer to a message: a reply, and another one after each tool it calls.

The tools are the studio's own (`whorl.tools`): they compute, tell the time and look things up, and change
nothing. Neither side is told of them in its prompt; a model that was trained with them knows them, and is
judged with what they answer. What was called and what came back is part of what the person sees.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from starlette.concurrency import run_in_threadpool

from whorl.arena.store.records import Said
from whorl.base.nouns import Conversation, Message, SamplingParams, ToolCall
from whorl.studio.config import StudioLimits
from whorl.studio.models.pool import ModelPool
from whorl.studio.models.reply import Finished, Reply
from whorl.studio.models.tools import all_tools
from whorl.studio.web.markdown import render_finished
from whorl.studio.web.streams import EventLog
from whorl.tools.loop import answer

MOST_CALLS = 4  # in one answer; what is called beyond them stands unanswered at its end


@dataclass(kw_only=True)
class Answer:
    """`said` grows to all its messages, each reply with its trace; `done` is told how it ended. `show` is
    given the whole so far, rendered: {"html", "reasoning"}."""

    model: str
    conversation: Conversation
    params: SamplingParams
    show: Callable[[dict[str, str]], None]
    done: Callable[[Finished], None]
    said: list[Said] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    stopped: bool = False
    _reply: Reply | None = None
    _before: dict[str, str] = field(default_factory=lambda: {"html": "", "reasoning": ""})

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(one.message for one in self.said)

    def start(self, pool: ModelPool, limits: StudioLimits) -> None:
        self.task = asyncio.create_task(self._run(pool, limits))

    def stop(self) -> None:
        """End it here; what came so far is kept."""
        self.stopped = True
        if self._reply is not None:
            self._reply.stop()

    async def _run(self, pool: ModelPool, limits: StudioLimits) -> None:
        left = MOST_CALLS
        while True:
            finished = await self._one(pool, limits)
            if self.stopped and finished.ending == "tool_calls":
                finished = replace(finished, ending="stopped")  # what it wanted to know, it never heard
            message = _with_ids(finished.message, len(self.said))
            weights, trace = finished.weight_version, finished.record(self.params)
            self.said.append(Said(message=message, weight_version=weights, trace=trace))
            calls = message.tool_calls
            if finished.ending != "tool_calls" or self.stopped or len(calls) > left:
                self.done(finished)
                return
            left -= len(calls)
            for call in calls:
                self.said.append(Said(message=await run_in_threadpool(answer, call, all_tools())))
            self._before = await run_in_threadpool(rendered, self.messages)

    async def _one(self, pool: ModelPool, limits: StudioLimits) -> Finished:
        ended: list[Finished] = []

        async def keep(finished: Finished) -> dict[str, Any]:
            ended.append(finished)
            return {}

        messages = (*self.conversation.messages, *as_seen(self.messages))
        asked = replace(self.conversation, messages=messages)
        reply = Reply(
            model=self.model, conversation=asked, params=self.params, keep=keep, log=Shown(self._so_far)
        )
        self._reply = reply
        if self.stopped:
            return Finished(message=Message(role="assistant"), ending="stopped")
        reply.start(pool, limits)
        assert reply.task is not None
        try:
            await reply.task
        except asyncio.CancelledError:
            if not self.stopped or reply.task is None or not reply.task.cancelled():
                raise
        return ended[0] if ended else Finished(message=Message(role="assistant"), ending="stopped")

    def _so_far(self, text: dict[str, str]) -> None:
        before = self._before
        self.show(
            {"html": before["html"] + text["html"], "reasoning": before["reasoning"] + text["reasoning"]}
        )


class Shown(EventLog):
    """Hands a reply's text on; all else that a reply tells stays here."""

    def __init__(self, show: Callable[[dict[str, str]], None]) -> None:
        super().__init__()
        self._show = show

    def add(self, name: str, data: Any, *, replaces: bool = False) -> None:
        if name == "text":
            self._show({"html": data["html"], "reasoning": data["reasoning"]})


def _with_ids(message: Message, place: int) -> Message:
    """Calls that can be told apart: a server may leave their ids out."""
    calls = tuple(
        call if call.id else ToolCall(name=call.name, arguments=call.arguments, id=f"call-{place}-{number}")
        for number, call in enumerate(message.tool_calls)
    )
    return replace(message, tool_calls=calls)


def as_seen(said: Sequence[Message]) -> list[Message]:
    """As a model is told it again: without what it thought."""
    return [replace(message, reasoning=None) if message.reasoning else message for message in said]


def rendered(said: Sequence[Message]) -> dict[str, str]:
    """An answer as a page shows it: texts, and each call with what came of it. Call it from a thread."""
    html, reasoning = "", ""
    results = {message.tool_call_id: message.text for message in said if message.role == "tool"}
    for message in said:
        if message.role == "assistant":
            html += render_finished(message.text)
            reasoning += render_finished(message.reasoning or "")
            html += "".join(_call(call, results.get(call.id)) for call in message.tool_calls)
    return {"html": html, "reasoning": reasoning}


def _call(call: ToolCall, result: str | None) -> str:
    given = escape(json.dumps(call.arguments, ensure_ascii=False))
    came = "" if result is None else f'<p class="word">answered</p><pre>{escape(result)}</pre>'
    return f'<div class="call"><p class="head">{escape(call.name)}</p><pre>{given}</pre>{came}</div>'
