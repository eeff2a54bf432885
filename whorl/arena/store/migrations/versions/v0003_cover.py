"""Chats come under the chain; later prompts of a conversation have clusters; erased prompts leave marks.

The chats there are go into the log as they are now, behind a `cover` row that counts them: what was
changed before this cannot be seen any more, what is changed later can.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("arena_prompts", sa.Column("size", sa.BigInteger))
    prompt = sa.ForeignKey("arena_prompts.id")
    op.create_table(
        "arena_prompt_marks",
        sa.Column("mark", sa.String, primary_key=True),
        sa.Column("prompt", sa.BigInteger, prompt, primary_key=True),
    )
    op.create_table(
        "arena_secrets",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    turn, prompt = sa.ForeignKey("arena_turns.id"), sa.ForeignKey("arena_prompts.id")
    op.create_table(
        "arena_turn_prompts",
        sa.Column("turn", sa.BigInteger, turn, primary_key=True, autoincrement=False),
        sa.Column("prompt", sa.BigInteger, prompt, nullable=False),
    )
    op.create_index("arena_turn_prompts_prompt", "arena_turn_prompts", ["prompt"])
    cover()


# -- the chats there are ---------------------------------------------------------------------------

LAST = "SELECT seq, hash, recorded FROM arena_log ORDER BY seq DESC LIMIT 1"
ADD = "INSERT INTO arena_log VALUES (:seq, :kind, :subject, :recorded, :body, :previous, :hash)"
CHATS = """
SELECT c.id, c.person, c.consent, c.started, c.prompt, k.digest AS tools, p.cluster, p.purpose
FROM arena_conversations c LEFT JOIN arena_contents k ON k.id = c.tools
LEFT JOIN arena_prompts p ON p.id = c.prompt WHERE c.kind = 'chat' ORDER BY c.started, c.id
"""
TURNS = """
SELECT t.id, t.side, t.role, k.digest, r.digest AS trace, t.parent, t.model, t.weights
FROM arena_turns t JOIN arena_contents k ON k.id = t.content LEFT JOIN arena_contents r ON r.id = t.trace
WHERE t.conversation = :chat ORDER BY t.id
"""
PREFERENCES = """
SELECT p.id, p.conversation, p.turn, p.person, p.kind, p.value, k.digest, p.time
FROM arena_preferences p LEFT JOIN arena_contents k ON k.id = p.content ORDER BY p.id
"""


def cover() -> None:
    connection = op.get_bind()
    if connection.execute(sa.text(LAST)).first() is None:
        return  # a new store: covered from its first row on
    chats = connection.execute(sa.text(CHATS)).all()
    said = {
        chat.id: [list(row) for row in connection.execute(sa.text(TURNS), {"chat": chat.id})]
        for chat in chats
    }
    heard = connection.execute(sa.text(PREFERENCES)).all()
    counts = {"chats": len(chats), "turns": sum(map(len, said.values())), "preferences": len(heard)}
    append(connection, "cover", "store", counts)
    for chat in chats:
        append(connection, "chat", chat.id, chat_body(chat, said[chat.id]))
        first = next((turn[0] for turn in said[chat.id] if turn[2] == "user"), None)
        if chat.prompt is not None and first is not None:
            row = {"turn": first, "prompt": chat.prompt}
            connection.execute(sa.text("INSERT INTO arena_turn_prompts VALUES (:turn, :prompt)"), row)
    for one in heard:
        fields = ("id", "turn", "person", "kind", "value", "digest", "time")
        append(connection, "preference", one.conversation, {name: getattr(one, name) for name in fields})


def chat_body(chat: Any, turns: list[list[Any]]) -> dict[str, Any]:
    first: Iterable[int] = (turn[0] for turn in turns if turn[2] == "user")
    placed = [[number, chat.prompt, chat.cluster, chat.purpose] for number in list(first)[:1]]
    return {
        "person": chat.person, "consent": chat.consent, "started": chat.started, "tools": chat.tools,
        "turns": turns, "prompts": placed if chat.prompt is not None else [],
    }  # fmt: skip


def append(connection: sa.Connection, kind: str, subject: str, body: dict[str, Any]) -> None:
    last = connection.execute(sa.text(LAST)).one()
    entry: dict[str, Any] = {
        "seq": last.seq + 1, "kind": kind, "subject": subject,
        "recorded": max(round(time.time() * 1_000_000), last.recorded + 1),
        "body": json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False),
        "previous": last.hash,
    }  # fmt: skip
    text = json.dumps(list(entry.values()), separators=(",", ":"))
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()
    connection.execute(sa.text(ADD), {**entry, "hash": digest})
