"""What of chats goes into the log, and the clusters of what people ask after a conversation's beginning.

A vote's row says all of its battle. A chat has no vote, and yet its turns and what people say of them
train: so its beginning, each turn and each preference have rows of their own, with digests for words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store import chain, prompts
from whorl.arena.store.records import Head, Purpose
from whorl.arena.store.schema import contents, conversations, preferences, turn_prompts, turns
from whorl.base.nouns import Message

_TRACES = contents.alias()
# A turn as the log has it. The order is that of the lists in the log's bodies.
FACTS = (
    turns.c.id, turns.c.side, turns.c.role, contents.c.digest, _TRACES.c.digest.label("trace_digest"),
    turns.c.parent, turns.c.model, turns.c.weights,
)  # fmt: skip
NUMBER, SIDE, ROLE, DIGEST, TRACE, PARENT, MODEL, WEIGHTS = range(8)


def with_contents(*more: Any) -> sa.Select[Any]:
    """Turns with their FACTS and `more`."""
    return (
        sa.select(*FACTS, *more)
        .join(contents, contents.c.id == turns.c.content)
        .outerjoin(_TRACES, _TRACES.c.id == turns.c.trace)
    )


WORDS = (
    contents.c.salt, contents.c.body, _TRACES.c.salt.label("trace_salt"), _TRACES.c.body.label("trace_body")
)  # fmt: skip
OF_TURNS = with_contents().where(turns.c.id.in_(sa.bindparam("numbers", expanding=True))).order_by(turns.c.id)
PLACED = sa.insert(turn_prompts)
Placed = list[tuple[int, prompts.Place]]  # turn's number, its prompt's place


def facts(row: Any) -> list[Any]:
    """A turn as the log has it, from a row that has these columns."""
    return [
        row.id, row.side, row.role, row.digest, row.trace_digest, row.parent, row.model, row.weights
    ]  # fmt: skip


def asks(connection: Connection, message: Message, parent: int | None) -> bool:
    """Whether a message of a chat is a prompt: the first that a person says, and each later one that stands
    for itself."""
    if message.role != "user":
        return False
    if parent is None or prompts.stands_alone(message):
        return True
    above = connection.execute(sa.select(turns.c.role).where(turns.c.id == parent)).scalar()
    return above == "system"


def keep_places(connection: Connection, placed: Placed) -> list[list[Any]]:
    """Say which prompts turns are; the same as the log has it."""
    if placed:
        known = set(connection.execute(
            sa.select(turn_prompts.c.turn).where(turn_prompts.c.turn.in_([turn for turn, _ in placed]))
        ).scalars())  # fmt: skip
        fresh = [{"turn": turn, "prompt": where.prompt} for turn, where in placed if turn not in known]
        if fresh:
            connection.execute(PLACED, fresh)
    return [[turn, *where] for turn, where in placed]


def log_chat(connection: Connection, chat: str, placed: Placed) -> Head:
    """A chat's beginning. The caller holds the CHAIN lock, as below."""
    query = sa.select(
        conversations.c.person, conversations.c.consent, conversations.c.started, contents.c.digest
    )
    query = query.outerjoin(contents, contents.c.id == conversations.c.tools)
    row = connection.execute(query.where(conversations.c.id == chat)).one()
    said = connection.execute(with_contents().where(turns.c.conversation == chat).order_by(turns.c.id))
    body = {
        "person": row.person, "consent": row.consent, "started": row.started, "tools": row.digest,
        "turns": [facts(turn) for turn in said], "prompts": keep_places(connection, placed),
    }  # fmt: skip
    return chain.append(connection, "chat", chat, body)


def log_turn(connection: Connection, chat: str, turn: int, placed: Placed) -> Head:
    said = connection.execute(OF_TURNS, {"numbers": [turn]}).one()
    body = {"turns": [facts(said)], "prompts": keep_places(connection, placed)}
    return chain.append(connection, "turn", chat, body)


# A preference as the log has it, by name.
JUDGED = sa.select(
    preferences.c.id, preferences.c.conversation, preferences.c.turn, preferences.c.person,
    preferences.c.kind, preferences.c.value, preferences.c.time, contents.c.digest, contents.c.salt,
    contents.c.body,
).outerjoin(contents, contents.c.id == preferences.c.content)  # fmt: skip
OF_PREFERENCE = ("id", "turn", "person", "kind", "value", "time", "digest")


def log_preference(connection: Connection, number: int) -> Head:
    row = connection.execute(JUDGED.where(preferences.c.id == number)).one()
    body = {name: getattr(row, name) for name in OF_PREFERENCE}
    return chain.append(connection, "preference", row.conversation, body)


def purposes(connection: Connection, conversation: str) -> dict[int, Purpose]:
    """Turn → what its prompt's cluster is for, where the turn is a prompt."""
    from whorl.arena.store.schema import prompts as table

    query = sa.select(turn_prompts.c.turn, table.c.purpose).join(table, table.c.id == turn_prompts.c.prompt)
    query = query.join(turns, turns.c.id == turn_prompts.c.turn)
    found: Sequence[Any] = connection.execute(query.where(turns.c.conversation == conversation)).all()
    return {row.turn: row.purpose for row in found}
