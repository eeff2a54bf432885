"""Conversations and their turns: what is said, by whom, and what may be done with it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from whorl.arena.store import chain, prompts
from whorl.arena.store.records import CONSENTS, Consent, Conversation, Pairing, Purpose, Side, Turn
from whorl.arena.store.schema import battles, contents, conversations, log, models, people, turns
from whorl.base.errors import InputError
from whorl.base.nouns import Message


def begin(
    connection: Connection,
    person: int,
    kind: str,
    consent: Consent,
    place: prompts.Place | None,
    tools: Sequence[Mapping[str, Any]],
) -> str:
    """A new conversation's id: random, since it stands in addresses of pages."""
    check_consent(consent)
    if connection.execute(sa.select(people.c.id).where(people.c.id == person)).first() is None:
        raise InputError(f"person {person} is not in the store; add_person makes one")
    number = secrets.token_hex(12)
    row = {"id": number, "person": person, "kind": kind, "consent": consent}
    row |= {"prompt": place.prompt if place else None, "started": chain.microseconds(time.time())}
    connection.execute(sa.insert(conversations).values(row))
    if tools:
        kept = chain.add_content(connection, number, {"tools": [dict(tool) for tool in tools]}, "tools")
        this = conversations.c.id == number
        connection.execute(sa.update(conversations).where(this).values(tools=kept))
    return number


def begin_battle(
    connection: Connection,
    conversation: str,
    pair: tuple[str, str],
    probability: float,
    category: str,
    place: prompts.Place,
) -> Pairing:
    known = set(connection.execute(sa.select(models.c.name).where(models.c.name.in_(pair))).scalars())
    for name in pair:
        if name not in known:
            raise InputError(f"model {name!r} is not in the store; add_model makes it known")
    if pair[0] == pair[1]:
        raise InputError(f"a battle needs two models; {pair[0]!r} is against itself")
    if isinstance(probability, bool) or not 0 < probability <= 1:
        raise InputError(f"probability {probability!r} of the pair must be above 0 and at most 1")
    now = chain.microseconds(time.time())
    row = {"id": conversation, "model_a": pair[0], "model_b": pair[1], "probability": float(probability)}
    row |= {"category": category, "cluster": place.cluster, "purpose": place.purpose, "time": now}
    connection.execute(sa.insert(battles).values(row))
    return pairing(connection, conversation)


def check_consent(consent: str) -> None:
    if consent not in CONSENTS:
        raise InputError(f"consent {consent!r} is none of {', '.join(CONSENTS)}")


def say(
    connection: Connection,
    conversation: str,
    message: Message,
    *,
    side: Side = "",
    parent: int | None = None,
    model: str | None = None,
    weight_version: str = "",
    trace: Mapping[str, Any] | None = None,
) -> int:
    """Add a turn behind `parent` (0: as a new beginning), or behind the last one; its number."""
    chain.check_text(message.text, f"{message.role} message")
    held = hold(connection, conversation)
    if held.kind == "battle":
        pair = pairing(connection, conversation)
        if pair.voted:
            raise InputError(f"battle {conversation} has its vote and is over; begin another conversation")
        model = _side_model(pair, message, side, model)
    elif side:
        raise InputError(f"conversation {conversation} is a chat and has no side {side!r}")
    if trace is not None and message.role != "assistant":
        raise InputError(f"a {message.role} message has no trace; only replies have")
    if parent is None:
        parent = _last_turn(connection, conversation, side)
    elif parent == 0:
        parent = None
    elif _conversation_of(connection, parent) != conversation:
        raise InputError(f"turn {parent} is not of conversation {conversation}")
    what = f"{message.role} message"
    row: dict[str, Any] = {"conversation": conversation, "parent": parent, "side": side, "model": model}
    row |= {"role": message.role, "weights": weight_version, "time": chain.microseconds(time.time())}
    row["content"] = chain.add_content(connection, conversation, message.to_openai(), what)
    kept = None if trace is None else chain.add_content(connection, conversation, dict(trace), "trace")
    row["trace"] = kept
    number: int = connection.execute(sa.insert(turns).values(row).returning(turns.c.id)).scalar_one()
    return number


def _side_model(pair: Pairing, message: Message, side: Side, model: str | None) -> str | None:
    """The model of a battle's turn; a reply belongs to one side, what people say to both."""
    if side not in ("", "a", "b"):
        raise InputError(f"side {side!r} of a battle is none of a and b")
    spoken = message.role in ("assistant", "tool")
    if spoken and not side:
        raise InputError(f"a battle's {message.role} message needs its side, a or b")
    if not spoken and side:
        raise InputError(f"a battle's {message.role} message goes to both sides; leave the side out")
    wanted = {"a": pair.model_a, "b": pair.model_b}.get(side)
    if model is not None and model != wanted:
        raise InputError(f"side {side} of battle {pair.id} is not played by {model!r}")
    return wanted


def _last_turn(connection: Connection, conversation: str, side: Side) -> int | None:
    query = sa.select(sa.func.max(turns.c.id)).where(turns.c.conversation == conversation)
    if side:
        query = query.where(turns.c.side.in_(("", side)))
    number: int | None = connection.execute(query).scalar()
    return number


def _conversation_of(connection: Connection, turn: int) -> str | None:
    found: str | None = connection.execute(sa.select(turns.c.conversation).where(turns.c.id == turn)).scalar()
    return found


# -- reading ---------------------------------------------------------------------------------------


def hold(connection: Connection, conversation: str) -> Conversation:
    """The conversation, kept from changing until the transaction ends; InputError where it is erased."""
    found = head(connection, conversation, hold=True)
    if found.erased is not None:
        raise InputError(f"conversation {conversation} is erased; begin another")
    return found


def head(connection: Connection, conversation: str, *, hold: bool = False) -> Conversation:
    query = heads().where(conversations.c.id == conversation)
    row = connection.execute(query.with_for_update(of=conversations) if hold else query).first()
    if row is None:
        raise InputError(f"conversation {conversation!r} is not in the store")
    return as_conversation(row)


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
        tools=tuple(json.loads(row.tools_body)["tools"]) if row.tools_body else (),
    )  # fmt: skip


def pairing(connection: Connection, battle: str) -> Pairing:
    row = connection.execute(sa.select(battles).where(battles.c.id == battle)).first()
    if row is None:
        raise InputError(f"battle {battle!r} is not in the store")
    vote = sa.select(log.c.seq).where(log.c.subject == battle, log.c.kind == "vote")
    purpose: Purpose = row.purpose
    return Pairing(
        id=row.id, model_a=row.model_a, model_b=row.model_b, probability=row.probability,
        category=row.category, cluster=row.cluster, purpose=purpose, time=chain.seconds(row.time),
        voted=connection.execute(vote).first() is not None,
    )  # fmt: skip


def read_turns(connection: Connection, conversation: str) -> list[Turn]:
    """All turns of a conversation, branches too, oldest first."""
    query = _whole_turns().where(turns.c.conversation == conversation).order_by(turns.c.id)
    return [as_turn(row) for row in connection.execute(query)]


def _whole_turns() -> sa.Select[Any]:
    """Turns with the texts of their messages and traces."""
    traces = contents.alias()
    return (
        sa.select(turns, contents.c.body, traces.c.body.label("trace_body"))
        .join(contents, contents.c.id == turns.c.content)
        .outerjoin(traces, traces.c.id == turns.c.trace)
    )


def search(connection: Connection, person: int, words: str, limit: int) -> list[Turn]:
    """Turns of a person's conversations whose text holds `words`, the newest first."""
    # As the words stand in JSON; what matches there by accident (a key, an escape) is sorted out below.
    inside = json.dumps(words, ensure_ascii=False)[1:-1]
    query = _whole_turns().join(conversations, conversations.c.id == turns.c.conversation)
    query = query.where(conversations.c.person == person, contents.c.body.icontains(inside, autoescape=True))
    found: list[Turn] = []
    for row in connection.execute(query.order_by(turns.c.id.desc())):
        turn = as_turn(row)
        if turn.message is not None and words.casefold() in turn.message.text.casefold():
            found.append(turn)
        if len(found) == limit:
            break
    return found


def as_turn(row: Row[Any]) -> Turn:
    trace = None if row.trace_body is None else json.loads(row.trace_body)
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
