"""One exchange: a person's message is answered, through as many tool calls as it takes.

Every turn is in the store before a page hears of it, so whatever ends the studio takes away no more than
the reply that was being made. A page may leave and come back: the log says again what it needs.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from starlette.concurrency import run_in_threadpool

from whorl.arena.store import Store, Turn
from whorl.base.errors import WhorlError
from whorl.base.nouns import Message, SamplingParams, ToolCall
from whorl.studio.chat.offered_tools import MOST_CALLS, may_act, run_call
from whorl.studio.chat.turns import asked_of, open_calls, shown
from whorl.studio.config import StudioLimits
from whorl.studio.models.pool import ModelPool
from whorl.studio.models.reply import Finished, Reply
from whorl.studio.web.streams import EventLog
from whorl.studio.web.tasks import watched

Decision = Literal["once", "refuse", "all"]
REFUSED = "error: the person refused this call"
STOPPED = "error: the person stopped before this call was made"
SPENT = f"error: {MOST_CALLS} calls are spent; answer with what is known"


@dataclass(kw_only=True)
class Exchange:
    """`leaf` is the turn that is answered. Pages hear, of the log:

    - `begin` {parent, model}: a reply is being made behind `parent`
    - `text` {parent, html, reasoning}: the whole of it so far
    - `turn`: a turn that is in the store now, as `turns.shown` has it
    - `calls` {turn, states}: of each call of that turn: asking, running, answered
    - `fault` {parent, ending, error}: no turn came of the reply, and why
    - `done` {}
    """

    conversation: str
    person: int
    leaf: int
    model: str
    params: SamplingParams
    tools: tuple[dict[str, Any], ...]
    store: Store
    pool: ModelPool
    limits: StudioLimits
    allowed: set[str]  # conversations whose calls need no asking
    number: str = field(default_factory=lambda: secrets.token_hex(6))
    log: EventLog = field(default_factory=EventLog)
    task: asyncio.Task[None] | None = None
    stopped: bool = False
    _reply: Reply | None = None
    _asked: dict[tuple[int, int], asyncio.Future[Decision]] = field(default_factory=dict)

    def start(self) -> None:
        self.task = watched(asyncio.create_task(self._run()), f"conversation {self.conversation}")

    def stop(self) -> None:
        """End here. What came of the reply is kept; calls that wait for an answer are not made."""
        self.stopped = True
        if self._reply is not None:
            self._reply.stop()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_result("refuse")

    def decide(self, turn: int, index: int, decision: Decision) -> bool:
        """The person's word on a call; False where none is asked for."""
        waiting = self._asked.get((turn, index))
        if waiting is None or waiting.done():
            return False
        waiting.set_result(decision)
        if decision == "all":
            self.allowed.add(self.conversation)
            for other in self._asked.values():
                if not other.done():
                    other.set_result("once")
        return True

    # -- the loop ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._talk()
        except WhorlError as error:  # the store: the page says so, and the message can be sent again
            self._fault("failed", str(error))
        except Exception:
            self._fault("failed", "the studio failed here; see its terminal for details")
            raise
        finally:
            self.log.add("done", {})
            self.log.end()

    async def _talk(self) -> None:
        spent = await self._use_tools(0)  # those that an earlier exchange left open
        while not self.stopped:
            turn = await self._answer()
            if turn is None or turn.message is None or not turn.message.tool_calls:
                return
            if self.stopped or (turn.trace or {}).get("ending") == "failed":
                return  # what it wanted may be asked about later, when its person goes on from here
            warned = spent > MOST_CALLS
            spent = await self._use_tools(spent)
            if warned:
                self._fault(
                    "failed", f"the model wants more than {MOST_CALLS} tool calls; rephrase the question"
                )
                return

    async def _answer(self) -> Turn | None:
        """A reply, from its first token to its place in the store; None where nothing came."""
        turns = await run_in_threadpool(self.store.turns, self.conversation)
        kept: list[Turn] = []
        reply = Reply(
            model=self.model, conversation=asked_of(turns, self.leaf, self.tools), params=self.params,
            keep=self._keeper(kept),
        )  # fmt: skip
        # Not whether it has to be started first: that would tell who answers in an open battle.
        self.log.add("begin", {"parent": self.leaf, "model": self.model}, replaces=True)
        self._reply = reply
        reply.start(self.pool, self.limits)
        assert reply.task is not None
        reply.task.add_done_callback(lambda _: reply.log.end())  # also where it fails in a way of its own
        parent = self.leaf
        async for _, event in reply.log.follow():
            if event.name == "text":
                self.log.add("text", {"parent": parent, **event.data}, replaces=True)
            elif event.data.get("ending") in ("failed", "stopped") and not kept:
                self._fault(event.data["ending"], event.data.get("error", ""))
        await asyncio.wait({reply.task})
        self._reply = None
        if reply.task.cancelled():  # before it had begun at all
            self._fault("stopped", "")
        elif (failure := reply.task.exception()) is not None:
            raise failure
        if kept:
            self.leaf = kept[0].id
            await self._tell(kept[0])
        return kept[0] if kept else None

    def _keeper(self, kept: list[Turn]) -> Callable[[Finished], Awaitable[dict[str, Any]]]:
        async def keep(finished: Finished) -> dict[str, Any]:
            message = _with_ids(finished.message)
            told = {"ending": finished.ending, "error": finished.error}
            if message.content or message.tool_calls or message.reasoning:
                kept.append(await self._say(message, finished))
            elif finished.ending not in ("failed", "stopped"):
                told = {"ending": "failed", "error": f"{self.model} returned an empty reply"}
            return told

        return keep

    async def _say(self, message: Message, finished: Finished | None = None) -> Turn:
        """A turn behind the leaf, which is in the store when this returns."""
        given: dict[str, Any] = {"parent": self.leaf}
        if finished is not None:
            trace = finished.record(self.params)
            given |= {"model": self.model, "weight_version": finished.weight_version, "trace": trace}
        number = await run_in_threadpool(partial(self.store.say, self.conversation, message, **given))
        return Turn(
            id=number, conversation=self.conversation, parent=self.leaf, side="", message=message,
            model=given.get("model"), weight_version=given.get("weight_version", ""),
            trace=given.get("trace"),
        )  # fmt: skip

    async def _tell(self, turn: Turn) -> None:
        self.log.add("turn", await run_in_threadpool(shown, turn))

    def _fault(self, ending: str, error: str) -> None:
        self.log.add("fault", {"parent": self.leaf, "ending": ending, "error": error})

    # -- tools ---------------------------------------------------------------------------------------

    async def _use_tools(self, spent: int) -> int:
        """Answer the calls that are open at the leaf, one after the other; how many are spent then."""
        turns = await run_in_threadpool(self.store.turns, self.conversation)
        turn, calls = open_calls(turns, self.leaf)
        if turn is None or turn.message is None:
            return spent
        first = len(turn.message.tool_calls) - len(calls)
        left = max(0, MOST_CALLS - spent)
        states = {first + place: "asking" if may_act(call) else "running"
                  for place, call in enumerate(calls)}  # fmt: skip
        if self.conversation in self.allowed:
            states = dict.fromkeys(states, "running")
        for place in list(states)[left:]:
            states[place] = "running"  # nothing is asked of what will not be made
        for place in states:
            if states[place] == "asking":
                self._asked[turn.id, place] = asyncio.get_running_loop().create_future()
        self._show_calls(turn, states)
        for place, call in zip(list(states), calls, strict=True):
            result = await self._result(turn, place, call, states, left)
            left -= 1
            said = await self._say(_tool_message(call, result))
            states[place] = "answered"
            self.leaf = said.id
            await self._tell(said)
            self._show_calls(turn, states)
        self._asked.clear()
        return spent + len(calls)

    async def _result(self, turn: Turn, place: int, call: ToolCall, states: dict[int, str], left: int) -> str:
        decision: Decision = "once"
        if (waiting := self._asked.get((turn.id, place))) is not None:
            decision = await waiting
        if self.stopped:
            return STOPPED
        if decision == "refuse":
            return REFUSED
        if left <= 0:
            return SPENT
        states[place] = "running"
        self._show_calls(turn, states)
        return await run_in_threadpool(run_call, call)

    def _show_calls(self, turn: Turn, states: dict[int, str]) -> None:
        told = {str(place): state for place, state in states.items()}
        self.log.add("calls", {"turn": turn.id, "states": told}, replaces=True)


def _with_ids(message: Message) -> Message:
    """Calls that a server gave no id get one: the answer to each names it."""
    calls = tuple(
        replace(call, id=call.id or f"call_{number}") for number, call in enumerate(message.tool_calls)
    )
    return replace(message, tool_calls=calls)


def _tool_message(call: ToolCall, result: str) -> Message:
    return Message(role="tool", content=(result,), tool_call_id=call.id or None, name=call.name)
