"""Conversations and their turns, read: what was said, by whom, and what may be done with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from whorl.arena.store import chain
from whorl.arena.store.records import Consent, Conversation, Pairing, Side, Turn
from whorl.arena.store.schema import battles, contents, conversations, log, turns
from whorl.base.errors import InputError
from whorl.base.nouns import Message


class Held(NamedTuple):
    """A conversation that does not change until the transaction ends, and its battle."""

    id: str
    person: int
    consent: Consent
    battle: Pairing | None  # its `voted` is not looked up


HOLD = (
    sa.select(
        conversations.c.id, conversations.c.person, conversations.c.consent, conversations.c.erased,
        battles.c.model_a, battles.c.model_b, battles.c.probability, battles.c.category,
        battles.c.cluster, battles.c.purpose, battles.c.time,
    )
    .outerjoin(battles, battles.c.id == conversations.c.id)
    .where(conversations.c.id == sa.bindparam("conversation"))
    .with_for_update(of=conversations)
)  # fmt: skip


def hold(connection: Connection, conversation: str, what: str = "conversation") -> Held:
    """The conversation, kept from changing until the transaction ends; InputError where it is erased.

    What else is to be read of it is read afterwards, by a statement of its own: in PostgreSQL this one
    may have waited, and sees the rest as it was before."""
    row = connection.execute(HOLD, {"conversation": conversation}).first()
    if row is None or (what == "battle" and row.model_a is None):
        raise InputError(f"{what} {conversation!r} is not in the store")
    if row.erased is not None:
        raise InputError(f"{what} {conversation} is erased; start another conversation")
    return Held(row.id, row.person, row.consent, None if row.model_a is None else as_pairing(row, False))


LONGEST_TITLE = 200


def rename(connection: Connection, conversation: str, title: str) -> None:
    hold(connection, conversation)
    this = conversations.c.id == conversation
    connection.execute(sa.update(conversations).where(this).values(title=title))


def as_title(text: str) -> str:
    """One line of at most LONGEST_TITLE characters."""
    line = " ".join("".join(" " if ord(letter) < 32 else letter for letter in text).split())
    if len(line) > LONGEST_TITLE:
        raise InputError(f"title is {len(line):,} characters long, more than {LONGEST_TITLE}; shorten it")
    return line


def hold_all(connection: Connection, person: int) -> list[str]:
    """All conversations of a person that are not erased, held."""
    mine = sa.select(conversations.c.id).where(
        conversations.c.person == person, conversations.c.erased.is_(None)
    )
    query = mine.order_by(conversations.c.id).with_for_update()
    return list(connection.execute(query).scalars())


def head(connection: Connection, conversation: str) -> Conversation:
    row = connection.execute(heads().where(conversations.c.id == conversation)).first()
    if row is None:
        raise InputError(f"conversation {conversation!r} is not in the store")
    return as_conversation(row)


def read_heads(
    connection: Connection, person: int | None, kind: str | None, erased: bool | None, limit: int | None,
    before: str | None,
) -> list[Conversation]:  # fmt: skip
    """Heads, the newest first; see `Store.conversations`."""
    _check_limit(limit)
    query = heads().order_by(conversations.c.started.desc(), conversations.c.id).limit(limit)
    if person is not None:
        query = query.where(conversations.c.person == person)
    if kind is not None:
        query = query.where(conversations.c.kind == kind)
    if erased is not None:
        gone = conversations.c.erased.is_not(None)
        query = query.where(gone if erased else sa.not_(gone))
    if before is not None:
        seen = connection.execute(
            sa.select(conversations.c.started).where(conversations.c.id == before)
        ).scalar()
        if seen is None:
            raise InputError(f"conversation {before!r} is not in the store; start with the first page")
        older = conversations.c.started < seen
        query = query.where(older | ((conversations.c.started == seen) & (conversations.c.id > before)))
    return [as_conversation(row) for row in connection.execute(query)]


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} of a page must be 1 or more")


def heads() -> sa.Select[Any]:
    """Conversations with the text of their tools."""
    tools = contents.alias()
    return sa.select(conversations, tools.c.body.label("tools_body")).outerjoin(
        tools, tools.c.id == conversations.c.tools
    )


def as_conversation(row: Row[Any]) -> Conversation:
    erased = None if row.erased is None else chain.seconds(row.erased)
    return Conversation(
        id=row.id, person=row.person, kind=row.kind, consent=row.consent,
        started=chain.seconds(row.started), erased=erased,
        tools=tuple(json.loads(row.tools_body)["tools"]) if row.tools_body else (), title=row.title,
    )  # fmt: skip


def pairing(connection: Connection, battle: str) -> Pairing:
    row = connection.execute(sa.select(battles).where(battles.c.id == battle)).first()
    if row is None:
        raise InputError(f"battle {battle!r} is not in the store")
    vote = sa.select(log.c.seq).where(log.c.subject == battle, log.c.kind == "vote")
    return as_pairing(row, connection.execute(vote).first() is not None)


def open_battle(connection: Connection, person: int) -> str:
    """See `Store.open_battle`. From the person's latest on: one look, where they vote on what they begin."""
    answered = [
        sa.exists().where(turns.c.conversation == battles.c.id, turns.c.side == side) for side in ("a", "b")
    ]
    voted = sa.exists().where(log.c.subject == battles.c.id, log.c.kind == "vote")
    mine = sa.and_(conversations.c.person == person, conversations.c.erased.is_(None))
    query = (
        sa.select(battles.c.id)
        .join(conversations, conversations.c.id == battles.c.id)
        .where(mine, sa.not_(voted), *answered)
        .order_by(conversations.c.started.desc())
        .limit(1)
    )
    return connection.execute(query).scalar() or ""


def as_pairing(row: Any, voted: bool) -> Pairing:
    return Pairing(
        id=row.id, model_a=row.model_a, model_b=row.model_b, probability=row.probability,
        category=row.category, cluster=row.cluster, purpose=row.purpose, time=chain.seconds(row.time),
        voted=voted,
    )  # fmt: skip


def whole_turns() -> sa.Select[Any]:
    """Turns with the texts of their messages and traces, and the digests of both."""
    traces = contents.alias()
    return (
        sa.select(
            turns, contents.c.body, contents.c.digest, traces.c.body.label("trace_body"),
            traces.c.digest.label("trace_digest"),
        )
        .join(contents, contents.c.id == turns.c.content)
        .outerjoin(traces, traces.c.id == turns.c.trace)
    )  # fmt: skip


TURNS = whole_turns().where(turns.c.conversation == sa.bindparam("in_conversation")).order_by(turns.c.id)


def turn_rows(connection: Connection, conversation: str) -> Sequence[Row[Any]]:
    return connection.execute(TURNS, {"in_conversation": conversation}).all()


def read_turns(connection: Connection, conversation: str) -> list[Turn]:
    """All turns of a conversation, branches too, oldest first."""
    return [as_turn(row) for row in turn_rows(connection, conversation)]


def read_turn(connection: Connection, turn: int) -> Turn:
    row = connection.execute(whole_turns().where(turns.c.id == turn)).first()
    if row is None:
        raise InputError(f"turn {turn} is not in the store")
    return as_turn(row)


def search(
    connection: Connection, person: int, words: str, *, kind: str | None, limit: int, before: int | None
) -> list[Turn]:
    """Turns of a person's conversations whose text holds `words`, the newest first."""
    _check_limit(limit)
    # As the words stand in JSON; what matches there by accident (a key, an escape) is sorted out below.
    sqlite = connection.dialect.name == "sqlite"
    inside = json.dumps(words.casefold() if sqlite else words, ensure_ascii=False)[1:-1]
    body = sa.func.whorl_fold(contents.c.body, type_=sa.Text) if sqlite else contents.c.body
    query = whole_turns().join(conversations, conversations.c.id == turns.c.conversation)
    query = query.where(conversations.c.person == person, body.icontains(inside, autoescape=True))
    if kind is not None:
        query = query.where(conversations.c.kind == kind)
    if before is not None:
        query = query.where(turns.c.id < before)
    found: list[Turn] = []
    # A page at a time: most of what is found here is wanted, and a word may be in every turn.
    for row in connection.execute(query.order_by(turns.c.id.desc()), execution_options={"yield_per": limit}):
        turn = as_turn(row)
        if turn.message is not None and words.casefold() in turn.message.text.casefold():
            found.append(turn)
        if len(found) == limit:
            break
    return found


def as_turn(row: Row[Any]) -> Turn:
    trace = None if row.trace_body is None else chain.unpacked(row.trace_body, f"turn {row.id}")
    return Turn(
        id=row.id, conversation=row.conversation, parent=row.parent, side=row.side,
        message=as_message(row.body, f"turn {row.id}"), model=row.model, weight_version=row.weights,
        trace=trace, time=chain.seconds(row.time),
    )  # fmt: skip


def as_message(body: str | None, where: str) -> Message | None:
    if body is None:
        return None
    from whorl.text.forms import read_conversation

    return read_conversation({"messages": [json.loads(body)]}, where).messages[0]


def path(known: Sequence[Turn], leaf: int) -> list[Turn]:
    """The turns from the first to `leaf`, by their parents."""
    by_number = {turn.id: turn for turn in known}
    found: list[Turn] = []
    number: int | None = leaf
    while number is not None:
        found.append(by_number[number])
        number = by_number[number].parent
    return found[::-1]


def side_of(known: Iterable[Turn], side: Side) -> list[Turn]:
    """A battle as one of its models saw it."""
    return [turn for turn in known if turn.side in ("", side)]
