"""Right replies, and reading what a model called: shared by the tasks that use tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whorl.base.nouns import Conversation, Message, Part, ToolCall, Trace


def ask(*content: Part, tools: Sequence[dict[str, Any]] = (), id: str = "") -> Conversation:
    """A conversation of one user message."""
    return Conversation(messages=(Message(role="user", content=content),), tools=tuple(tools), id=id)


def calling(tool: str, /, **arguments: Any) -> Message:
    """The assistant's message that calls one tool and says nothing."""
    return Message(role="assistant", tool_calls=(ToolCall(name=tool, arguments=arguments),))


def saying(text: str) -> Message:
    return Message(role="assistant", content=(text,))


def traced(*replies: Message) -> Trace:
    """The trace of a conversation whose replies were these, without tokens: what an oracle gives."""
    trace: Trace | None = None
    for reply in replies:
        trace = Trace(message=reply, parent=trace)
    if trace is None:
        raise ValueError("a trace needs at least one reply")
    return trace


def calls(trace: Trace) -> tuple[ToolCall, ...]:
    """Every tool call on the way to `trace`, oldest first."""
    return tuple(call for reply in trace.chain for call in reply.message.tool_calls)


def only_call(trace: Trace) -> ToolCall | None:
    """The one call on the way to `trace`; None where there was none, or more."""
    made = calls(trace)
    return made[0] if len(made) == 1 else None
