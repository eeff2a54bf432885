"""Votes, consent and erasure: what goes into the log, and what is read out of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from whorl.arena.store import chain, covering, prompts, saying, talks
from whorl.arena.store.naming import gives_away
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
from whorl.arena.store.schema import contents, conversations, log, models, turn_prompts, turns
from whorl.arena.style import style_counts
from whorl.base.errors import DataError, InputError

STYLES = ("tokens", "headers", "lists", "bold")
ROWS_AT_ONCE = 2000
BROKEN_OFF = ("stopped", "failed")  # how a reply's trace says that more was to come
NO_CONSENT = "no consent to rate"
LATER = "a later prompt in it is reserved for training"
NOT_TO_RATE: dict[Purpose, str] = {
    "rate": "",
    "train": "its prompt is reserved for training",
    "neither": "its prompt resembles prompts reserved for training",
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
    sa.select(conversations.c.prompt)
    .where(conversations.c.id == _OF_BATTLE)
    .scalar_subquery()
    .label("prompt"),
    sa.select(models.c.aliases).where(models.c.name == sa.bindparam("a")).scalar_subquery().label("names_a"),
    sa.select(models.c.aliases).where(models.c.name == sa.bindparam("b")).scalar_subquery().label("names_b"),
)


class Ballot(NamedTuple):
    """A vote that may be cast: nothing about its battle changes until the transaction ends."""

    pair: Pairing
    winner: Winner
    body: dict[str, Any]
    asked: list[Turn]  # turns that are prompts of their own: see `place`


def fill(
    connection: Connection, battle: str, winner: Winner, *, person: int | None, at: float | None
) -> Ballot:
    """All of a vote but its place in the log, which others wait for."""
    if winner not in WINNERS:
        raise InputError(f"winner {winner!r} is not one of {', '.join(WINNERS)}")
    when = chain.checked_time(at)
    held = talks.hold(connection, battle, "battle")
    pair = held.battle
    assert pair is not None  # else hold had refused it
    if person is not None and person != held.person:
        raise InputError(f"battle {battle} belongs to another person; only the person who asked may vote")
    about = connection.execute(ABOUT, {"battle": battle, "a": pair.model_a, "b": pair.model_b}).one()
    if about.voted:
        raise InputError(f"battle {battle} already has a vote; each battle takes one")
    rows = talks.turn_rows(connection, battle)
    said = [talks.as_turn(row) for row in rows]
    for side in ("a", "b"):
        if not any(turn.side == side for turn in said):
            raise InputError(f"battle {battle}: side {side} has not answered yet; vote when both have")
    names = {pair.model_a: json.loads(about.names_a), pair.model_b: json.loads(about.names_b)}
    reason = _stopped(said) or why_not_rated(pair, said, names, held.consent)
    body: dict[str, Any] = {
        "battle": battle, "model_a": pair.model_a, "model_b": pair.model_b, "winner": winner, "time": when,
        "probability": pair.probability, "voter": held.person, "category": pair.category,
        "cluster": pair.cluster, "purpose": pair.purpose, "consent": held.consent, "reason": reason,
        "turns": [covering.facts(row) for row in rows], "tools": about.tools, "prompt": about.prompt,
    }  # fmt: skip
    said = _counted_alike(said)
    for side in ("a", "b"):
        replies = [turn for turn in said if turn.side == side and _is_reply(turn)]
        body[f"weights_{side}"] = sorted({turn.weight_version for turn in replies} - {""})
        body[f"style_{side}"] = _style(replies)
    return Ballot(pair, winner, body, _asked_later(said))


def _asked_later(said: Sequence[Turn]) -> list[Turn]:
    """The turns that are prompts of their own, beside the one a battle began with."""
    asked = [turn for turn in said if turn.message is not None and turn.message.role in ("user", "system")]
    first = next((turn for turn in asked if turn.message is not None and turn.message.role == "user"), None)
    return [
        turn for turn in asked
        if turn is not first and turn.message is not None and prompts.stands_alone(turn.message)
    ]  # fmt: skip


def place(connection: Connection, ballot: Ballot) -> Ballot:
    """The ballot with the clusters of what was asked later on; one where they are of the other side does
    not count. A system message takes no side: many begin with the same one. The caller holds the PROMPTS
    lock."""
    pair, placed, sides = ballot.pair, [], set()
    for turn in ballot.asked:
        assert turn.message is not None  # else it would not be among them
        prompt = prompts.of_message(turn.message)
        if turn.message.role == "system" or pair.purpose == "neither":
            sides.add(prompts.look(connection, prompt) or pair.purpose)
            continue
        where = prompts.place(connection, prompt, train_share=0, founder=pair.purpose)
        placed.append((turn.id, where))
        sides.add(where.purpose)
    body = {**ballot.body, "prompts": covering.keep_places(connection, placed)}
    if pair.purpose == "rate" and sides - {"rate"} and body["reason"] in ("", NO_CONSENT):
        body["reason"] = LATER
    return ballot._replace(body=body)


def cast(connection: Connection, ballot: Ballot) -> Vote:
    """Append a vote. The caller holds the CHAIN lock."""
    pair, winner, body = ballot.pair, ballot.winner, ballot.body
    end = chain.append(connection, "vote", pair.id, body)
    reason = body["reason"]
    return Vote(battle=replace(pair, voted=True), winner=winner, rated=not reason, reason=reason, head=end)


def _stopped(said: Sequence[Turn]) -> str:
    """Why a vote on half an answer does not count, "" where all are whole."""
    cut = (turn for turn in said if turn.side and (turn.trace or {}).get("ending") in BROKEN_OFF)
    return next((f"reply {turn.side} was stopped early" for turn in cut), "")


def _counted_alike(said: list[Turn]) -> list[Turn]:
    """The turns without traces where not every reply's server has told its tokens: words are counted then,
    of both sides, so that like is set against like."""
    told = all((turn.trace or {}).get("token_ids") for turn in said if _is_reply(turn))
    return said if told else [replace(turn, trace=None) for turn in said]


def _is_reply(turn: Turn) -> bool:
    return turn.message is not None and turn.message.role == "assistant"


def why_not_rated(
    pair: Pairing, said: Sequence[Turn], names: Mapping[str, Sequence[str]], consent: Consent
) -> str:
    """ "" for a vote that counts on the board, or why it does not; `names` are the models' aliases."""
    for side, name in (("a", pair.model_a), ("b", pair.model_b)):
        own = [turn.message for turn in said if turn.side == side and turn.message is not None]
        for other, aliases in sorted(names.items(), key=lambda item: item[0] != name):
            for message in own:
                if told := gives_away(message, [other, *aliases]):
                    whose = "the other" if told in (other, *aliases) and other != name else "itself"
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


def set_consent(connection: Connection, conversation: str, consent: Consent, placed: covering.Placed) -> Head:
    """Change what may be done with a conversation from now on; where a chat is to train, `placed` says where
    its prompts belong. The caller holds the conversation and the CHAIN lock."""
    row: dict[str, Any] = {"consent": consent}
    body: dict[str, Any] = {"consent": consent}
    if placed:
        row["prompt"] = placed[0][1].prompt
        body["prompts"] = covering.keep_places(connection, placed)
    connection.execute(sa.update(conversations).where(conversations.c.id == conversation).values(row))
    return chain.append(connection, "consent", conversation, body)


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
    mine = turn_prompts.c.turn.in_(sa.select(turns.c.id).where(turns.c.conversation == conversation))
    asked: set[int] = set(connection.execute(sa.select(turn_prompts.c.prompt).where(mine)).scalars())
    connection.execute(sa.delete(turn_prompts).where(mine))
    gone = sa.update(conversations).where(conversations.c.id == conversation)
    connection.execute(gone.values(erased=now, prompt=None, title=""))
    if prompt is not None:
        asked.add(prompt)
    for number in sorted(asked):
        prompts.forget(connection, number)
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
        vote = as_vote(row.seq, vote_body(row.seq, row.body), changes)
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
    consent: Consent = chain.parse_body(body, "consent").get("consent", "none")
    if consent not in CONSENTS:
        raise DataError(f"a consent in the log is {consent!r}; run whorl arena verify")
    return consent


def why_not_now(reason: str, consent: Consent, purpose: Purpose) -> str:
    """Why a vote does not count now, by the `reason` of when it was cast; "" where it counts."""
    if consent == "none":
        return reason or NO_CONSENT
    return NOT_TO_RATE[purpose] if reason == NO_CONSENT else reason  # given afterwards


class VoteBody(msgspec.Struct, frozen=True, gc=False):
    """The body of a vote's row in the log; `reason` is why it did not count when it was cast."""

    battle: str
    model_a: str
    model_b: str
    winner: Winner
    time: float
    probability: float
    voter: int
    category: str
    cluster: int
    purpose: Purpose
    consent: Consent
    reason: str
    style_a: dict[str, float]
    style_b: dict[str, float]
    weights_a: tuple[str, ...]
    weights_b: tuple[str, ...]


_VOTE_BODIES = msgspec.json.Decoder(VoteBody)


def vote_body(seq: int, text: str) -> VoteBody:
    """DataError where it is none, or does not count both sides alike."""
    try:
        body = _VOTE_BODIES.decode(text)
    except msgspec.DecodeError as error:
        raise DataError(f"log row {seq}: not a vote ({error}); run whorl arena verify") from error
    if body.style_a.keys() != body.style_b.keys():
        raise DataError(f"log row {seq}: style_a and style_b count different things; run whorl arena verify")
    return body


def as_vote(seq: int, body: VoteBody, changes: Mapping[str, Consent]) -> BattleVote:
    consent = changes.get(body.battle, body.consent)
    reason = why_not_now(body.reason, consent, body.purpose)
    style = tuple((name, count, body.style_b[name]) for name, count in body.style_a.items())
    return BattleVote(
        seq=seq, battle=body.battle, model_a=body.model_a, model_b=body.model_b, winner=body.winner,
        time=body.time, probability=body.probability, voter=str(body.voter), category=body.category,
        prompt=str(body.cluster), style=style, purpose=body.purpose, consent=consent, rated=not reason,
        reason=reason, weights_a=body.weights_a, weights_b=body.weights_b,
    )  # fmt: skip
