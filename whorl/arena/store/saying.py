"""What goes into a conversation: its beginning, a battle's pair, the turns.

Whatever can be done without the store (checks, JSON, digests) is done in a `Draft` before a
transaction begins; inside there are few statements, since others may wait for them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store import chain, prompts, talks
from whorl.arena.store.records import CONSENTS, Pairing, Said, Side
from whorl.arena.store.schema import battles, conversations, log, models, people, turns
from whorl.base.errors import InputError
from whorl.base.nouns import Message

Row = dict[str, Any]


@dataclass(frozen=True)
class Draft:
    """A turn on its way: its row as far as known, and its message and trace, sealed."""

    turn: Row
    contents: tuple[Row, ...]


@dataclass(frozen=True)
class Opening:
    """A conversation on its way, with what comes before the first reply."""

    row: Row
    drafts: tuple[Draft, ...]
    tools: Row | None
    pair: tuple[str, ...] = ()
    battle: Row = field(default_factory=dict)


def draft(conversation: str, said: Said, side: Side = "") -> Draft:
    message, what = said.message, f"{said.message.role} message"
    chain.check_text(message.text, what)
    chain.check_name(said.weight_version, "weight version", empty=True)
    if said.trace is not None and message.role != "assistant":
        raise InputError(f"a {message.role} message has no trace; only replies have one")
    kept = [chain.sealed(conversation, message.to_openai(), what)]
    if said.trace is not None:
        kept.append(chain.sealed(conversation, chain.packed(said.trace), "trace"))
    turn = {"conversation": conversation, "side": side, "role": message.role, "model": None}
    return Draft({**turn, "weights": said.weight_version}, tuple(kept))


def draft_side(battle: str, said: Sequence[Said], side: Side) -> list[Draft]:
    """What one side of a battle said, and its tools."""
    for one in said:
        check_side(one.message.role, side)
    return [draft(battle, one, side) for one in said]


def open_conversation(
    person: int, kind: str, messages: Sequence[Message], consent: str, tools: Sequence[Mapping[str, Any]]
) -> Opening:
    """A new conversation; its id is random, since it stands in addresses of pages."""
    check_consent(consent)
    number = secrets.token_hex(12)
    row = {"id": number, "person": person, "kind": kind, "consent": consent, "tools": None, "prompt": None}
    sealed = chain.sealed(number, {"tools": [dict(tool) for tool in tools]}, "tools") if tools else None
    return Opening(row, tuple(draft(number, Said(message=message)) for message in messages), sealed)


def open_battle(
    person: int, messages: Sequence[Message], consent: str, tools: Sequence[Mapping[str, Any]],
    pair: tuple[str, str], probability: float, category: str,
) -> Opening:  # fmt: skip
    for message in messages:
        check_side(message.role, "")
    if pair[0] == pair[1]:
        raise InputError(f"a battle needs two models; {pair[0]!r} is paired with itself")
    number = isinstance(probability, int | float) and not isinstance(probability, bool)
    if not number or not 0 < probability <= 1:
        raise InputError(f"probability {probability!r} of the pair must be above 0 and at most 1")
    chain.check_name(category, "category", empty=True)
    made = open_conversation(person, "battle", messages, consent, tools)
    battle: Row = {"id": made.row["id"], "model_a": pair[0], "model_b": pair[1]}
    battle |= {"probability": float(probability), "category": category}
    return Opening(made.row, made.drafts, made.tools, pair, battle)


def check_consent(consent: str) -> None:
    if consent not in CONSENTS:
        raise InputError(f"consent {consent!r} is not one of {', '.join(CONSENTS)}")


# -- a beginning -----------------------------------------------------------------------------------

KNOWN = sa.union_all(
    sa.select(sa.literal("person").label("what"), sa.cast(people.c.id, sa.String).label("name")).where(
        people.c.id == sa.bindparam("person")
    ),
    sa.select(sa.literal("model"), models.c.name).where(
        models.c.name.in_(sa.bindparam("pair", expanding=True))
    ),
)
ADD_CONVERSATION = sa.insert(conversations)
SET_TOOLS = (
    sa.update(conversations)
    .where(conversations.c.id == sa.bindparam("number"))
    .values(tools=sa.bindparam("kept"))
)
SET_PROMPT = (
    sa.update(conversations)
    .where(conversations.c.id == sa.bindparam("number"))
    .values(prompt=sa.bindparam("place"))
)
ADD_BATTLE = sa.insert(battles)


def begin(connection: Connection, opening: Opening, place: prompts.Place | None) -> list[int]:
    """Keep a conversation and its first turns; their numbers. `place` is its prompt's, if known yet."""
    person, pair = opening.row["person"], opening.pair
    found = connection.execute(KNOWN, {"person": person, "pair": list(pair)}).all()
    if not any(row.what == "person" for row in found):
        raise InputError(f"person {person} is not in the store; add them with add_person")
    known = {row.name for row in found if row.what == "model"}
    for name in pair:
        if name not in known:
            raise InputError(f"model {name!r} is not in the store; add it with add_model")
    row = {**opening.row, "started": chain.microseconds(time.time())}
    connection.execute(ADD_CONVERSATION, {**row, "prompt": place.prompt if place else None})
    if opening.tools is not None:
        [kept] = chain.add_contents(connection, [opening.tools])
        connection.execute(SET_TOOLS, {"number": row["id"], "kept": kept})
    return add_turns(connection, [Chain(None, None, opening.drafts)])[0]


def set_prompt(connection: Connection, conversation: str, place: prompts.Place) -> None:
    connection.execute(SET_PROMPT, {"number": conversation, "place": place.prompt})


def begin_battle(connection: Connection, opening: Opening, place: prompts.Place) -> Pairing:
    now = chain.microseconds(time.time())
    row = {**opening.battle, "cluster": place.cluster, "purpose": place.purpose, "time": now}
    connection.execute(ADD_BATTLE, row)
    return Pairing(**{**row, "time": chain.seconds(now)})


# -- turns -----------------------------------------------------------------------------------------

ADD_TURN = sa.insert(turns).returning(turns.c.id, turns.c.content)
# The last turn of each side, and whether there is a vote: once the conversation is held.
STATE = sa.union_all(
    sa.select(turns.c.side, sa.func.max(turns.c.id).label("last"))
    .where(turns.c.conversation == sa.bindparam("conversation"))
    .group_by(turns.c.side),
    sa.select(sa.literal("vote"), log.c.seq).where(
        log.c.subject == sa.bindparam("conversation"), log.c.kind == "vote"
    ),
)
OF_TURN = sa.select(turns.c.conversation).where(turns.c.id == sa.bindparam("number"))


class Kept(NamedTuple):
    """A turn that was added, the one it follows, and its conversation."""

    turn: int
    parent: int | None
    held: talks.Held


def say(
    connection: Connection, drafted: Draft, *, parent: int | None = None, model: str | None = None
) -> Kept:
    """Add a turn behind `parent` (0: as a new beginning), or behind the last one; its number, and the
    conversation."""
    conversation, side = drafted.turn["conversation"], drafted.turn["side"]
    held = talks.hold(connection, conversation)
    if held.battle is not None:
        model = _player(held.battle, drafted.turn["role"], side, model)
    elif side:
        raise InputError(f"conversation {conversation} is a chat, so it has no side {side!r}")
    elif model is not None:
        _check_model(connection, model)
    if parent is None or held.battle is not None:
        last = _last_turns(connection, conversation)
        parent = (_behind(last, side) or 0) if parent is None else parent
    if parent and connection.execute(OF_TURN, {"number": parent}).scalar() != conversation:
        raise InputError(f"turn {parent} is not in conversation {conversation}")
    [[number]] = add_turns(connection, [Chain(parent or None, model, [drafted])])
    return Kept(number, parent or None, held)


def answer(connection: Connection, battle: str, sides: Mapping[Side, Sequence[Draft]]) -> list[list[int]]:
    """Add what both sides of a battle said, each behind what it saw last; the turns' numbers."""
    held = talks.hold(connection, battle, "battle")
    assert held.battle is not None  # else hold had refused it
    last = _last_turns(connection, battle)
    chains = []
    for side, drafts in sides.items():
        chains.append(Chain(_behind(last, side), _player(held.battle, "assistant", side, None), drafts))
    return add_turns(connection, chains)


def check_side(role: str, side: str) -> None:
    """In a battle a reply belongs to one side, what people say to both."""
    if side not in ("", "a", "b"):
        raise InputError(f"side {side!r} of a battle must be a or b")
    spoken = role in ("assistant", "tool")
    if spoken and not side:
        raise InputError(f"a battle's {role} message needs its side, a or b")
    if not spoken and side:
        raise InputError(f"a battle's {role} message goes to both sides; omit the side")


def _player(pair: Pairing, role: str, side: Side, model: str | None) -> str | None:
    """The model of a battle's turn."""
    check_side(role, side)
    wanted = {"a": pair.model_a, "b": pair.model_b}.get(side)
    if model is not None and model != wanted:
        raise InputError(f"side {side} of battle {pair.id} is not played by {model!r}")
    return wanted


def _check_model(connection: Connection, model: str) -> None:
    if connection.execute(sa.select(models.c.name).where(models.c.name == model)).first() is None:
        raise InputError(f"model {model!r} is not in the store; add it with add_model")


def _last_turns(connection: Connection, conversation: str) -> dict[str, int]:
    """Side → its last turn; InputError where the vote is cast."""
    last = {row.side: row.last for row in connection.execute(STATE, {"conversation": conversation})}
    if "vote" in last:
        raise InputError(
            f"battle {conversation} already has its vote and is over; start another conversation"
        )
    return last


def _behind(last: Mapping[str, int], side: Side) -> int | None:
    seen = ("", side) if side else ("", "a", "b")
    return max((last[one] for one in seen if one in last), default=None)


class Chain(NamedTuple):
    """Turns of one side, each behind the one before."""

    parent: int | None
    model: str | None
    drafts: Sequence[Draft]


def add_turns(connection: Connection, chains: Sequence[Chain]) -> list[list[int]]:
    """Keep turns; their numbers, chain by chain."""
    kept = iter(
        chain.add_contents(
            connection, [row for one in chains for said in one.drafts for row in said.contents]
        )
    )
    now = chain.microseconds(time.time())
    rows: list[list[Row]] = []
    for one in chains:
        rows.append([])
        for said in one.drafts:
            places = [next(kept) for _ in said.contents]
            row = {"content": places[0], "trace": places[1] if len(places) > 1 else None, "time": now}
            rows[-1].append({**said.turn, **row, "model": one.model})
    made: list[list[int]] = [[] for _ in chains]
    for place in range(max(map(len, rows))):  # those that have the same place know their parents by now
        batch = {}
        for number, of_chain in enumerate(rows):
            if place < len(of_chain):
                parent = made[number][-1] if made[number] else chains[number].parent
                batch[of_chain[place]["content"]] = number, {**of_chain[place], "parent": parent}
        values = [row for _, row in batch.values()]
        for added in connection.execute(ADD_TURN, values if len(values) > 1 else values[0]):
            made[batch[added.content][0]].append(added.id)
    return made
