"""Votes, consent and erasure: what goes into the log, and what is read out of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store import chain, prompts, saying, talks
from whorl.arena.store.naming import names_itself
from whorl.arena.store.records import (
    CONSENTS,
    WINNERS,
    BattleVote,
    Consent,
    Head,
    Pairing,
    Purpose,
    Turn,
    Vote,
    Winner,
)  # fmt: skip
from whorl.arena.store.schema import contents, conversations, log, models
from whorl.arena.style import style_counts
from whorl.base.errors import InputError

STYLES = ("tokens", "headers", "lists", "bold")
ROWS_AT_ONCE = 2000
NO_CONSENT = "no consent to rate"
NOT_TO_RATE: dict[Purpose, str] = {
    "rate": "",
    "train": "its prompt is kept for training",
    "neither": "its prompt is like prompts for training",
}


# What a vote's row says beside the turns: read once the battle is held.
_OF_BATTLE = sa.bindparam("battle", type_=sa.String)
ABOUT = sa.select(
    sa.exists().where(log.c.subject == _OF_BATTLE, log.c.kind == "vote").label("voted"),
    sa.select(contents.c.digest)
    .join(conversations, conversations.c.tools == contents.c.id)
    .where(conversations.c.id == _OF_BATTLE)
    .scalar_subquery()
    .label("tools"),
    sa.select(models.c.aliases).where(models.c.name == sa.bindparam("a")).scalar_subquery().label("names_a"),
    sa.select(models.c.aliases).where(models.c.name == sa.bindparam("b")).scalar_subquery().label("names_b"),
)


class Ballot(NamedTuple):
    """A vote that may be cast: nothing about its battle changes until the transaction ends."""

    pair: Pairing
    winner: Winner
    body: dict[str, Any]


def fill(
    connection: Connection, battle: str, winner: Winner, *, person: int | None, at: float | None
) -> Ballot:
    """All of a vote but its place in the log, which others wait for."""
    if winner not in WINNERS:
        raise InputError(f"winner {winner!r} is none of {', '.join(WINNERS)}")
    when = chain.checked_time(at)
    held = talks.hold(connection, battle, "battle")
    pair = held.battle
    assert pair is not None  # else hold had refused it
    if person is not None and person != held.person:
        raise InputError(f"battle {battle} belongs to another person; only who asked may vote")
    about = connection.execute(ABOUT, {"battle": battle, "a": pair.model_a, "b": pair.model_b}).one()
    if about.voted:
        raise InputError(f"battle {battle} has its vote already; a battle is voted on once")
    rows = talks.turn_rows(connection, battle)
    said = [talks.as_turn(row) for row in rows]
    for side in ("a", "b"):
        if not any(turn.side == side for turn in said):
            raise InputError(f"battle {battle}: side {side} has not answered yet; vote when both have")
    names = {pair.model_a: json.loads(about.names_a), pair.model_b: json.loads(about.names_b)}
    reason = why_not_rated(pair, said, names, held.consent)
    covered = [[row.id, row.side, row.role, row.digest, row.trace_digest] for row in rows]
    body: dict[str, Any] = {
        "battle": battle, "model_a": pair.model_a, "model_b": pair.model_b, "winner": winner, "time": when,
        "probability": pair.probability, "voter": held.person, "category": pair.category,
        "cluster": pair.cluster, "purpose": pair.purpose, "consent": held.consent, "reason": reason,
        "turns": covered, "tools": about.tools,
    }  # fmt: skip
    for side in ("a", "b"):
        replies = [turn for turn in said if turn.side == side and _is_reply(turn)]
        body[f"weights_{side}"] = sorted({turn.weight_version for turn in replies} - {""})
        body[f"style_{side}"] = _style(replies)
    return Ballot(pair, winner, body)


def cast(connection: Connection, ballot: Ballot) -> Vote:
    """Append a vote. The caller holds the CHAIN lock."""
    pair, winner, body = ballot
    end = chain.append(connection, "vote", pair.id, body)
    reason = body["reason"]
    return Vote(battle=replace(pair, voted=True), winner=winner, rated=not reason, reason=reason, head=end)


def _is_reply(turn: Turn) -> bool:
    return turn.message is not None and turn.message.role == "assistant"


def why_not_rated(
    pair: Pairing, said: Sequence[Turn], names: Mapping[str, Sequence[str]], consent: Consent
) -> str:
    """ "" for a vote that counts on the board, or why it does not; `names` are the models' aliases."""
    for side, name in (("a", pair.model_a), ("b", pair.model_b)):
        text = "\n".join(turn.message.text for turn in said if turn.side == side and turn.message is not None)
        for other, aliases in names.items():
            if told := names_itself(text, [other, *aliases]):
                whose = "itself" if other == name else "the other"
                return f"reply {side} names {whose}: {told}"
    return NO_CONSENT if consent == "none" else NOT_TO_RATE[pair.purpose]


def _style(replies: Iterable[Turn]) -> dict[str, int]:
    total = dict.fromkeys(STYLES, 0)
    for turn in replies:
        assert turn.message is not None  # replies have one: _is_reply
        ids = (turn.trace or {}).get("token_ids")
        for name, count in style_counts(turn.message.text, len(ids) if ids else None).items():
            total[name] += count
    return total


# -- consent and erasure ---------------------------------------------------------------------------


def set_consent(
    connection: Connection, conversation: str, consent: Consent, place: prompts.Place | None
) -> Head:
    """Change what may be done with a conversation from now on; `place` is its prompt's where it is to
    train. The caller holds the conversation and the CHAIN lock."""
    row: dict[str, Any] = {"consent": consent}
    if place is not None:
        row["prompt"] = place.prompt
    connection.execute(sa.update(conversations).where(conversations.c.id == conversation).values(row))
    return chain.append(connection, "consent", conversation, {"consent": consent})


def erase(connection: Connection, conversation: str) -> Head:
    """Take away everything that was said in a conversation; the vote and the digests stay. The caller
    holds the conversation and the PROMPTS and CHAIN locks."""
    now = chain.microseconds(time.time())
    connection.execute(
        sa.update(contents).where(contents.c.conversation == conversation).values(salt=None, body=None)
    )
    prompt = connection.execute(
        sa.select(conversations.c.prompt).where(conversations.c.id == conversation)
    ).scalar()
    gone = sa.update(conversations).where(conversations.c.id == conversation)
    connection.execute(gone.values(erased=now, prompt=None, title=""))
    if prompt is not None:
        prompts.forget(connection, prompt)
    return chain.append(connection, "erase", conversation, {})


# -- reading ---------------------------------------------------------------------------------------


def read_votes(
    connection: Connection,
    *,
    at: float | None = None,
    after: int = 0,
    category: str | None = None,
    consent: Consent = "none",
    rated: bool | None = None,
) -> Iterator[BattleVote]:
    """Votes in the order they came in, as the log knew them at time `at`."""
    saying.check_consent(consent)
    until = chain.microseconds(chain.checked_time(at)) if at is not None else None
    changes = _consents(connection, until, after)
    least = CONSENTS.index(consent)
    query = (
        sa.select(log.c.seq, log.c.body).where(log.c.kind == "vote", log.c.seq > after).order_by(log.c.seq)
    )
    if until is not None:
        query = query.where(log.c.recorded <= until)
    for row in connection.execute(query, execution_options={"yield_per": ROWS_AT_ONCE}):
        vote = as_vote(row.seq, chain.parse_body(row.body, f"log row {row.seq}"), changes)
        if category is not None and vote.category != category:
            continue
        if CONSENTS.index(vote.consent) < least or (rated is not None and vote.rated != rated):
            continue
        yield vote


def _consents(connection: Connection, until: int | None, after: int) -> dict[str, Consent]:
    """Conversation → its consent, where that was changed. A vote knows of the changes before it."""
    query = sa.select(log.c.subject, log.c.body).where(log.c.kind == "consent", log.c.seq > after)
    if until is not None:
        query = query.where(log.c.recorded <= until)
    return {row.subject: as_consent(row.body) for row in connection.execute(query.order_by(log.c.seq))}


def as_consent(body: str) -> Consent:
    consent: Consent = chain.parse_body(body, "consent")["consent"]
    return consent


def why_not_now(reason: str, consent: Consent, purpose: Purpose) -> str:
    """Why a vote does not count now, by the `reason` of when it was cast; "" where it counts."""
    if consent == "none":
        return reason or NO_CONSENT
    return NOT_TO_RATE[purpose] if reason == NO_CONSENT else reason  # given afterwards


def as_vote(seq: int, body: Mapping[str, Any], changes: Mapping[str, Consent]) -> BattleVote:
    consent: Consent = changes.get(body["battle"], body["consent"])
    reason = why_not_now(body["reason"], consent, body["purpose"])
    style = tuple((name, body["style_a"][name], body["style_b"][name]) for name in body["style_a"])
    return BattleVote(
        seq=seq, battle=body["battle"], model_a=body["model_a"], model_b=body["model_b"],
        winner=body["winner"], time=body["time"], probability=body["probability"],
        voter=str(body["voter"]), category=body["category"], prompt=str(body["cluster"]), style=style,
        purpose=body["purpose"], consent=consent, rated=not reason, reason=reason,
        weights_a=tuple(body["weights_a"]), weights_b=tuple(body["weights_b"]),
    )  # fmt: skip
