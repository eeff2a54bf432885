"""`verify`: walk the log from its first row and name the first that is not as it was written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from whorl.arena.store import chain
from whorl.arena.store.records import Head
from whorl.arena.store.schema import battles, contents, conversations, log, turns

ROWS_AT_ONCE = 400
FACTS = ("model_a", "model_b", "probability", "category", "cluster", "purpose")  # battle and vote agree


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found: `problem` is empty for a log that is whole, and else names the first bad row."""

    entries: int  # rows that are as they were written, from the first on
    votes: int
    erased: int  # conversations of which only the tombstone is left
    head: Head
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem


class _BrokenRowError(Exception):
    """The first bad row, in words."""


def verify(
    connection: Connection, wanted: Head | None = None, *, advance: Callable[[int], object] | None = None
) -> Verification:
    """Check every hash, every message a vote is about, and that nothing was erased unsaid.

    `wanted` is a head printed earlier: a log that does not hold it has lost its tail, or was written
    anew. Without one, a cut tail cannot be told from a log that never went further. `advance` is told
    how many rows were read.
    """
    erased = set(connection.execute(sa.select(log.c.subject).where(log.c.kind == "erase")).scalars())
    end, votes, problem = chain.START, 0, ""
    consents: dict[str, str] = {}
    try:
        for rows in _pages(connection):
            for row in rows:
                end = _next(row, end, wanted)
                if row.kind == "consent":
                    consents[row.subject] = json.loads(row.body)["consent"]
            _check_votes(connection, [row for row in rows if row.kind == "vote"], erased, consents)
            votes += sum(row.kind == "vote" for row in rows)
            if advance is not None:
                advance(len(rows))
        _check_end(end, wanted)
        _check_consents(connection, consents)
        _check_unvoted(connection, erased)
    except _BrokenRowError as error:
        problem = str(error)
    return Verification(entries=end.seq, votes=votes, erased=len(erased), head=end, problem=problem)


def _pages(connection: Connection) -> Iterator[Sequence[Row[Any]]]:
    last = -(2**63)
    while True:
        query = sa.select(log).where(log.c.seq > last).order_by(log.c.seq).limit(ROWS_AT_ONCE)
        rows = connection.execute(query).all()
        if not rows:
            return
        yield rows
        last = rows[-1].seq


def _next(row: Row[Any], end: Head, wanted: Head | None) -> Head:
    """The head with `row` on it."""
    if row.seq > end.seq + 1:
        raise _BrokenRowError(f"row {end.seq + 1} of the log is missing")
    if row.seq != end.seq + 1:
        raise _BrokenRowError(f"row {row.seq} of the log was put in before its first")
    if row.hash != chain.entry_hash(row.seq, row.kind, row.subject, row.recorded, row.body, row.previous):
        raise _BrokenRowError(f"row {row.seq} of the log ({row.kind} {row.subject}) was changed")
    if row.previous != end.hash:
        raise _BrokenRowError(
            f"row {row.seq} of the log ({row.kind} {row.subject}) does not follow row {end.seq}"
        )
    if row.seq == 1 and row.kind != "open":
        raise _BrokenRowError("row 1 of the log is not its opening")
    if wanted is not None and row.seq == wanted.seq and row.hash != wanted.hash:
        raise _BrokenRowError(f"row {row.seq} of the log is not the one whose hash was written down")
    return Head(row.seq, row.hash)


def _check_end(end: Head, wanted: Head | None) -> None:
    if end.seq == 0:
        raise _BrokenRowError("row 1 of the log is missing")
    if wanted is not None and end.seq < wanted.seq:
        raise _BrokenRowError(
            f"row {end.seq + 1} of the log is missing: it ends there, and {wanted.seq} were written down"
        )


# -- what the votes are about ----------------------------------------------------------------------


def _check_votes(
    connection: Connection, votes: Sequence[Row[Any]], erased: set[str], consents: dict[str, str]
) -> None:
    subjects = [row.subject for row in votes]
    known = {row.id: row for row in connection.execute(sa.select(battles).where(battles.c.id.in_(subjects)))}
    said, tools = _turns(connection, subjects), _tools(connection, subjects)
    for row in votes:
        body, where = json.loads(row.body), f"row {row.seq} of the log (vote {row.subject})"
        battle = known.get(row.subject)
        if battle is None:
            raise _BrokenRowError(f"{where}: its battle is missing")
        for name in FACTS:
            if getattr(battle, name) != body[name]:
                raise _BrokenRowError(f"{where}: {name} of its battle was changed")
        consents.setdefault(row.subject, body["consent"])
        if tools.get(row.subject) != body["tools"]:
            raise _BrokenRowError(f"{where}: the tools of its conversation were changed")
        found = said.get(row.subject, [])
        for number, listed in enumerate(body["turns"]):
            if number >= len(found) or found[number].id != listed[0]:
                raise _BrokenRowError(f"{where}: turn {listed[0]} is missing")
            turn = found[number]
            if [turn.side, turn.role, turn.digest, turn.trace_digest] != listed[1:]:
                raise _BrokenRowError(f"{where}: turn {turn.id} was changed")
            gone = row.subject in erased
            _check_content(f"{where}: the message of turn {turn.id}", turn.digest, turn.salt, turn.body, gone)
            if turn.trace_digest is not None:
                trace = (turn.trace_digest, turn.trace_salt, turn.trace_body)
                _check_content(f"{where}: the trace of turn {turn.id}", *trace, gone)
        if len(found) > len(body["turns"]):
            raise _BrokenRowError(f"{where}: turn {found[len(body['turns'])].id} was put in")


def _turns(connection: Connection, subjects: Sequence[str]) -> dict[str, list[Any]]:
    traces = contents.alias()
    query = (
        sa.select(
            turns.c.id, turns.c.conversation, turns.c.side, turns.c.role,
            contents.c.digest, contents.c.salt, contents.c.body, traces.c.digest.label("trace_digest"),
            traces.c.salt.label("trace_salt"), traces.c.body.label("trace_body"),
        )
        .join(contents, contents.c.id == turns.c.content)
        .outerjoin(traces, traces.c.id == turns.c.trace)
        .where(turns.c.conversation.in_(subjects))
        .order_by(turns.c.id)
    )  # fmt: skip
    found: dict[str, list[Any]] = {}
    for row in connection.execute(query):
        found.setdefault(row.conversation, []).append(row)
    return found


def _tools(connection: Connection, subjects: Sequence[str]) -> dict[str, str]:
    """Conversation → digest of its tools."""
    query = sa.select(conversations.c.id, contents.c.digest, contents.c.salt, contents.c.body)
    query = query.join(contents, contents.c.id == conversations.c.tools)
    found = {}
    for row in connection.execute(query.where(conversations.c.id.in_(subjects))):
        whole = row.body is None or _fits(row.digest, row.salt or "", row.body)
        found[row.id] = row.digest if whole else ""
    return found


def _check_content(what: str, digest: str, salt: str | None, body: str | None, erased: bool) -> None:
    if salt is None or body is None:
        if not erased:
            raise _BrokenRowError(f"{what} is gone, and the log knows of no erasure")
    elif erased:
        raise _BrokenRowError(f"{what} is there, and the log says that it was erased")
    elif not _fits(digest, salt, body):
        raise _BrokenRowError(f"{what}, or its salt, was changed")


def _fits(digest: str, salt: str, body: str) -> bool:
    try:
        return chain.content_digest(salt, body) == digest
    except ValueError:  # a salt that is no hex any more
        return False


def _check_consents(connection: Connection, consents: dict[str, str]) -> None:
    """A conversation with a vote, or whose consent was ever changed, has the consent the log says."""
    for row in connection.execute(sa.select(conversations.c.id, conversations.c.consent)):
        if row.consent != consents.get(row.id, row.consent):
            raise _BrokenRowError(
                f"conversation {row.id} has consent {row.consent}; the log says {consents[row.id]}"
            )


def _check_unvoted(connection: Connection, erased: set[str]) -> None:
    """Contents that no vote covers: whole, and gone only where the log says so."""
    voted = sa.select(log.c.subject).where(log.c.kind == "vote")
    last = 0
    while True:
        query = sa.select(contents).where(contents.c.id > last, contents.c.conversation.not_in(voted))
        rows = connection.execute(query.order_by(contents.c.id).limit(ROWS_AT_ONCE)).all()
        if not rows:
            return
        for row in rows:
            what = f"content {row.id} of conversation {row.conversation}"
            _check_content(what, row.digest, row.salt, row.body, row.conversation in erased)
        last = rows[-1].id
