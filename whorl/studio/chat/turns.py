"""A conversation's turns: as a page shows them, and as a model reads them.

They are a tree: a retry or an edit is a sibling. What a page draws as a branch it finds by the parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whorl.arena.store import Preference, Store, Turn
from whorl.arena.store.talks import path
from whorl.base.errors import InputError
from whorl.base.nouns import Conversation, ToolCall
from whorl.serve.api.errors import ApiError
from whorl.studio.web.markdown import render_finished

BESIDE = ("ending", "error", "tokens", "rate", "counted", "seed")  # what a page shows of a reply's record


def own_chat(store: Store, conversation: str, person: int) -> Any:
    """The head of a person's own chat; ApiError 404 for another's, which nobody is told exists, and for
    a battle, whose turns name its models."""
    try:
        head = store.conversation(conversation) if conversation.isalnum() else None
    except InputError:
        head = None
    if head is None or head.person != person or head.kind != "chat" or head.erased is not None:
        raise ApiError(404, "you have no such conversation; it may have been erased")
    return head


def shown(turn: Turn) -> dict[str, Any]:
    """A turn for a page: its text, and that rendered (call it from a thread); images by their number."""
    message = turn.message
    assert message is not None, "a conversation that is not erased has its words"
    found: dict[str, Any] = {
        "id": turn.id, "parent": turn.parent, "role": message.role, "text": message.text,
        "images": len(message.images), "time": turn.time,
    }  # fmt: skip
    if message.role == "tool":
        found |= {"name": message.name, "call": message.tool_call_id}
    if message.role == "assistant":
        trace = turn.trace or {}
        calls = [{"name": one.name, "arguments": one.arguments} for one in message.tool_calls]
        found |= {
            "html": render_finished(message.text),
            "reasoning": render_finished(message.reasoning or ""),
        }
        found |= {"calls": calls, "model": turn.model or "", "weights": turn.weight_version}
        found |= {key: trace[key] for key in BESIDE if key in trace}
    return found


def with_judgements(turns: list[dict[str, Any]], said: Sequence[Preference]) -> list[dict[str, Any]]:
    """What the person said of each reply beside it; the last word counts."""
    by_number = {turn["id"]: turn for turn in turns}
    for one in said:
        turn = by_number[one.turn]
        if one.kind == "thumb":
            turn |= {"thumb": one.value, "reason": one.reason}
        elif one.better is not None:
            turn |= {"better": one.better.text, "better_html": render_finished(one.better.text)}
    return turns


def asked_of(turns: Sequence[Turn], leaf: int, tools: Sequence[dict[str, Any]]) -> Conversation:
    """What a model reads that is to answer the turn `leaf`."""
    said = [turn.message for turn in path(turns, leaf) if turn.message is not None]
    return Conversation(messages=tuple(said), tools=tuple(tools))


def open_calls(turns: Sequence[Turn], leaf: int) -> tuple[Turn | None, list[ToolCall]]:
    """The reply whose calls still want answers at `leaf`, and those calls: a talk that was broken off
    there may go on. (None, []) where all are answered."""
    answered = 0
    for turn in reversed(path(turns, leaf)):
        if turn.message is not None and turn.message.role == "tool":
            answered += 1
        elif turn.message is not None and turn.message.tool_calls:
            rest = list(turn.message.tool_calls)[answered:]
            return (turn, rest) if rest else (None, [])
        else:
            break
    return None, []
