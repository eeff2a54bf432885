"""The bounded call loop: the model calls, the tool runs, the result goes back, the model answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from whorl.base.errors import InputError
from whorl.base.nouns import Conversation, Message, ToolCall, Trace
from whorl.tools.definition import Tool

Reply = Callable[[list[Conversation]], list[Trace]]
Ending = Literal["answer", "length", "max_calls"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a conversation went on: every reply and tool result appended, and the last reply's trace.

    `ending` is "answer" (a reply without a call), "length" (that reply was cut by its token limit)
    or "max_calls" (the model wanted another call after its last one was spent; those calls stand
    unanswered at the end of `conversation`).
    """

    conversation: Conversation
    trace: Trace  # its `chain` holds the replies before it
    ending: Ending


def converse(
    reply: Reply, conversations: Sequence[Conversation], tools: Sequence[Tool], *, max_calls: int
) -> list[Outcome]:
    """Let the model answer each conversation, running the tools it calls.

    `reply` is asked in rounds, each time with all conversations that still wait for the model, so
    that it can batch them. A conversation may spend `max_calls` tool calls. What a conversation
    offers the model is its own `tools`; a call to a tool that is not in `tools` gets an error as
    its result and the conversation goes on.
    """
    if max_calls < 0:
        raise InputError(f"max_calls {max_calls} must be 0 or more")
    by_name = {tool.name: tool for tool in tools}
    if len(by_name) < len(tools):
        raise InputError(f"two tools share a name among {', '.join(tool.name for tool in tools)}; rename one")
    outcomes: list[Outcome | None] = [None] * len(conversations)
    waiting = list(range(len(conversations)))
    state = list(conversations)
    parents: list[Trace | None] = [None] * len(conversations)
    calls_left = [max_calls] * len(conversations)
    while waiting:
        traces = reply([state[index] for index in waiting])
        if len(traces) != len(waiting):
            raise ValueError(f"reply gave {len(traces)} traces for {len(waiting)} conversations")
        still_waiting = []
        for index, trace in zip(waiting, traces, strict=True):
            trace = replace(trace, parent=parents[index])
            state[index] = _append(state[index], trace.message)
            calls = trace.message.tool_calls
            if not calls or len(calls) > calls_left[index]:
                ending: Ending = "max_calls" if calls else "answer" if trace.finish == "stop" else "length"
                outcomes[index] = Outcome(conversation=state[index], trace=trace, ending=ending)
                continue
            state[index] = _append(state[index], *(answer(call, by_name) for call in calls))
            calls_left[index] -= len(calls)
            parents[index] = trace
            still_waiting.append(index)
        waiting = still_waiting
    return [outcome for outcome in outcomes if outcome is not None]


def answer(call: ToolCall, tools: Mapping[str, Tool]) -> Message:
    """Run one call; its result (or error) as the tool message that goes back to the model."""
    if call.name in tools:
        text = tools[call.name].call(call.arguments)
    else:
        text = f"error: there is no tool {call.name!r}; known: {', '.join(sorted(tools)) or 'none'}"
    return Message(role="tool", content=(text,), tool_call_id=call.id or None, name=call.name)


def _append(conversation: Conversation, *messages: Message) -> Conversation:
    return replace(conversation, messages=(*conversation.messages, *messages))
