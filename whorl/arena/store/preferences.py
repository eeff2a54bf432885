"""What people say of single replies in their chats: thumbs with a reason, and the reply as they would
have written it. Kept apart from votes: whoever sees a model's name is not a blind judge."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store import chain, talks
from whorl.arena.store.records import Preference
from whorl.arena.store.schema import contents, preferences, turns
from whorl.base.errors import InputError
from whorl.base.nouns import Message


def add_thumb(connection: Connection, turn: int, value: int, *, person: int, reason: str) -> int:
    """+1 or -1 for a reply, 0 to take it back; the last one counts."""
    if value not in (-1, 0, 1) or isinstance(value, bool):
        raise InputError(f"thumb {value!r} must be 1 (up), -1 (down) or 0 (withdrawn)")
    conversation = _reply(connection, turn, person)
    content = None
    if reason:
        content = _keep(connection, conversation, {"reason": reason}, "reason")
    return _add(connection, conversation, turn, person, "thumb", value, content)


def add_better(connection: Connection, turn: int, message: Message, *, person: int) -> int:
    """The reply `turn` as the person would have it."""
    if message.role != "assistant":
        raise InputError(f"a better reply is an assistant message, not a {message.role} message")
    if not message.content and not message.tool_calls:
        raise InputError("the better reply is empty; write one")
    conversation = _reply(connection, turn, person)
    content = _keep(connection, conversation, message.to_openai(), "better reply")
    return _add(connection, conversation, turn, person, "better", 0, content)


def _reply(connection: Connection, turn: int, person: int) -> str:
    """The conversation of a reply that `person` may judge."""
    row = connection.execute(sa.select(turns.c.conversation, turns.c.role).where(turns.c.id == turn)).first()
    if row is None:
        raise InputError(f"turn {turn} is not in the store")
    held = talks.hold(connection, row.conversation)
    if held.battle is not None:
        raise InputError(f"turn {turn} belongs to a battle; vote on that instead")
    if row.role != "assistant":
        raise InputError(f"turn {turn} is a {row.role} message; only replies can be judged")
    if held.person != person:
        raise InputError(f"turn {turn} belongs to another person's conversation")
    return held.id


def _keep(connection: Connection, conversation: str, value: dict[str, Any], what: str) -> int:
    return chain.add_contents(connection, [chain.sealed(conversation, value, what)])[0]


def _add(
    connection: Connection,
    conversation: str,
    turn: int,
    person: int,
    kind: Literal["thumb", "better"],
    value: int,
    content: int | None,
) -> int:
    row: dict[str, Any] = {"conversation": conversation, "turn": turn, "person": person, "kind": kind}
    row |= {"value": value, "content": content, "time": chain.microseconds(time.time())}
    number: int = connection.execute(
        sa.insert(preferences).values(row).returning(preferences.c.id)
    ).scalar_one()
    return number


def read_preferences(connection: Connection, conversation: str) -> list[Preference]:
    """All that was said of a conversation's replies, oldest first; without words once it is erased."""
    query = (
        sa.select(preferences, contents.c.body)
        .outerjoin(contents, contents.c.id == preferences.c.content)
        .where(preferences.c.conversation == conversation)
        .order_by(preferences.c.id)
    )
    found = []
    for row in connection.execute(query):
        reason = json.loads(row.body)["reason"] if row.kind == "thumb" and row.body else ""
        better = talks.as_message(row.body, f"preference {row.id}") if row.kind == "better" else None
        found.append(Preference(
            id=row.id, conversation=row.conversation, turn=row.turn, person=row.person, kind=row.kind,
            value=row.value, reason=reason, better=better, time=chain.seconds(row.time),
        ))  # fmt: skip
    return found
