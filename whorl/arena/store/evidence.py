"""What the log's rows say, held against the tables: battles, chats, turns, preferences, prompts, consents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from whorl.arena.store import chain
from whorl.arena.store.covering import (
    JUDGED,
    MODEL,
    NUMBER,
    OF_PREFERENCE,
    SIDE,
    WEIGHTS,
    WORDS,
    facts,
    with_contents,
)  # fmt: skip
from whorl.arena.store.records import CONSENTS
from whorl.arena.store.schema import (
    battles,
    contents,
    conversations,
    log,
    preferences,
    prompts,
    turn_prompts,
    turns,
)  # fmt: skip

ROWS_AT_ONCE = 400
FACTS = ("model_a", "model_b", "probability", "category", "cluster", "purpose")  # battle and vote agree
TEXT = (str, type(None))
SHAPES: dict[str, dict[str, Any]] = {
    "vote": {
        **dict.fromkeys(FACTS, (str, int, float)), "voter": int, "turns": list, "tools": TEXT, "consent": str,
        "weights_a": list, "weights_b": list,
    },
    "chat": {"person": int, "consent": str, "started": int, "tools": TEXT, "turns": list, "prompts": list},
    "turn": {"turns": list, "prompts": list},
    "preference": {"id": int, "turn": int, "person": int, "kind": str, "value": int, "digest": TEXT},
    "consent": {"consent": str},
}  # fmt: skip
TURN_SIZES, PLACE_SIZE = (5, 8), 4  # a vote of the first revisions lists five facts of a turn


class BrokenRowError(Exception):
    """The first bad row, in words."""


def name_of(row: Row[Any]) -> str:
    return f"row {row.seq} of the log ({row.kind} {row.subject})"


def body_of(row: Row[Any]) -> dict[str, Any]:
    """A row's body, checked: it was written by whoever could write the row."""
    try:
        body = json.loads(row.body)
    except (ValueError, RecursionError) as error:
        raise BrokenRowError(f"{name_of(row)} has a body that is not JSON") from error
    if not isinstance(body, dict):
        raise BrokenRowError(f"{name_of(row)} has a body that is not a JSON object")
    if row.kind not in SHAPES:
        return body
    for name, wanted in SHAPES[row.kind].items():
        if name not in body or not isinstance(body[name], wanted):
            raise BrokenRowError(f"{name_of(row)} does not say its {name}")
    if body.get("consent", "none") not in CONSENTS:
        raise BrokenRowError(f"{name_of(row)} has a consent that is not one of {', '.join(CONSENTS)}")
    for turn in body.get("turns", ()):
        if not isinstance(turn, list) or len(turn) not in TURN_SIZES or not isinstance(turn[NUMBER], int):
            raise BrokenRowError(f"{name_of(row)} lists an invalid turn")
    placed = body.get("prompts", [])
    if not isinstance(placed, list) or any(
        not isinstance(one, list) or len(one) != PLACE_SIZE or not all(isinstance(n, int) for n in one[:3])
        for one in placed
    ):
        raise BrokenRowError(f"{name_of(row)} lists an invalid prompt place")
    return body


class Evidence:
    """Holds the tables against the log's rows, page by page; `check_rest` finds what the log knows not of."""

    def __init__(self, connection: Connection, erased: set[str]) -> None:
        self.connection, self.erased = connection, erased
        self.consents: dict[str, str] = {}
        self.prompts: dict[str, int | None] = {}  # chat → the prompt it began with
        self.turns: set[int] = set()  # of chats
        self.preferences: set[int] = set()
        self.placed: set[int] = set()  # turns that are prompts of their own

    def check(self, rows: Sequence[Row[Any]]) -> None:
        bodies = [(row, body_of(row)) for row in rows if row.kind in SHAPES]
        talks = self._conversations({row.subject for row, _ in bodies if row.kind in ("vote", "chat")})
        fights = {row.id: row for row in self._in(sa.select(battles), battles.c.id, talks)}
        numbers = [
            turn[NUMBER] for row, body in bodies if row.kind != "vote" for turn in body.get("turns", ())
        ]
        said = {row.id: row for row in self._in(self._whole_turns(), turns.c.id, numbers)}
        of_battles: dict[str, list[Row[Any]]] = {}
        for turn in self._in(self._whole_turns(), turns.c.conversation, fights):
            of_battles.setdefault(turn.conversation, []).append(turn)
        heard = [body["id"] for row, body in bodies if row.kind == "preference"]
        judged = {row.id: row for row in self._in(JUDGED, preferences.c.id, heard)}
        for row, body in bodies:
            if row.kind == "vote":
                self._check_vote(row, body, talks.get(row.subject), fights.get(row.subject))
                self._check_battle(row, body, of_battles.get(row.subject, []))
            elif row.kind == "chat":
                self._check_chat(row, body, talks.get(row.subject))
            elif row.kind == "preference":
                self._check_preference(row, body, judged.get(body["id"]))
            elif row.kind == "consent":
                self.consents[row.subject] = body["consent"]
            if row.kind in ("chat", "turn"):
                for listed in body["turns"]:
                    self.turns.add(listed[NUMBER])
                    self._check_turn(row, listed, said.get(listed[NUMBER]))
            if row.kind in ("chat", "consent") and body.get("prompts"):
                self.prompts[row.subject] = body["prompts"][0][1]
        self._check_places(bodies)

    def _in(self, query: sa.Select[Any], column: Any, wanted: Iterable[Any]) -> list[Row[Any]]:
        """Rows of `query` whose `column` is one of many, a few hundred at a time."""
        listed = list(wanted)
        found: list[Row[Any]] = []
        for at in range(0, len(listed), ROWS_AT_ONCE):
            found += self.connection.execute(query.where(column.in_(listed[at : at + ROWS_AT_ONCE]))).all()
        return found

    def _conversations(self, wanted: set[str]) -> dict[str, Row[Any]]:
        query = sa.select(conversations, contents.c.digest, contents.c.salt, contents.c.body)
        query = query.outerjoin(contents, contents.c.id == conversations.c.tools)
        return {row.id: row for row in self._in(query, conversations.c.id, wanted)}

    def _whole_turns(self) -> sa.Select[Any]:
        return with_contents(turns.c.conversation, *WORDS).order_by(turns.c.id)

    # -- battles -----------------------------------------------------------------------------------

    def _check_vote(
        self, row: Row[Any], body: dict[str, Any], talk: Row[Any] | None, battle: Row[Any] | None
    ) -> None:
        where = name_of(row)
        if battle is None or talk is None:
            raise BrokenRowError(
                f"{where}: its {'battle' if talk is not None else 'conversation'} is missing"
            )
        for name in FACTS:
            if getattr(battle, name) != body[name]:
                raise BrokenRowError(f"{where}: {name} of its battle was changed")
        if talk.person != body["voter"] or talk.kind != "battle":
            raise BrokenRowError(f"{where}: the person of its conversation was changed")
        if (
            body.get("prompt") is not None
            and talk.prompt != body["prompt"]
            and row.subject not in self.erased
        ):
            raise BrokenRowError(f"{where}: the prompt of its conversation was changed")
        self.consents.setdefault(row.subject, body["consent"])
        self._check_tools(where, talk, body["tools"])

    def _check_tools(self, where: str, talk: Row[Any], digest: str | None) -> None:
        whole = talk.body is None or _fits(talk.digest, talk.salt or "", talk.body)
        if talk.digest != digest or not whole:
            raise BrokenRowError(f"{where}: the tools of its conversation were changed")

    def _check_battle(self, row: Row[Any], body: dict[str, Any], found: Sequence[Row[Any]]) -> None:
        where = name_of(row)
        earlier: dict[int | None, str] = {None: ""}
        for number, listed in enumerate(body["turns"]):
            if number >= len(found) or found[number].id != listed[NUMBER]:
                raise BrokenRowError(f"{where}: turn {listed[NUMBER]} is missing")
            turn = found[number]
            self._check_turn(row, listed, turn)
            # What a vote of the first revisions does not list of a turn follows from the battle.
            wanted = {"a": body["model_a"], "b": body["model_b"]}.get(turn.side)
            if turn.model != wanted:
                raise BrokenRowError(f"{where}: the model of turn {turn.id} was changed")
            if turn.parent not in earlier or earlier[turn.parent] not in (
                "",
                turn.side or earlier[turn.parent],
            ):
                raise BrokenRowError(f"{where}: the turn before turn {turn.id} was changed")
            earlier[turn.id] = turn.side
        if len(found) > len(body["turns"]):
            raise BrokenRowError(f"{where}: turn {found[len(body['turns'])].id} was inserted")
        for side in ("a", "b"):
            replies = {turn.weights for turn in found if turn.side == side and turn.role == "assistant"}
            if sorted(replies - {""}) != body[f"weights_{side}"]:
                raise BrokenRowError(f"{where}: the weights that answered on side {side} were changed")

    def _check_turn(self, row: Row[Any], listed: list[Any], turn: Row[Any] | None) -> None:
        where, gone = name_of(row), row.subject in self.erased
        if turn is None:
            raise BrokenRowError(f"{where}: turn {listed[NUMBER]} is missing")
        if facts(turn)[: len(listed)] != listed or turn.conversation != row.subject:
            raise BrokenRowError(f"{where}: turn {turn.id} was changed{_what(facts(turn), listed)}")
        _check_content(f"{where}: the message of turn {turn.id}", turn.digest, turn.salt, turn.body, gone)
        if turn.trace_digest is not None:
            trace = (turn.trace_digest, turn.trace_salt, turn.trace_body)
            _check_content(f"{where}: the trace of turn {turn.id}", *trace, gone)

    # -- chats -------------------------------------------------------------------------------------

    def _check_chat(self, row: Row[Any], body: dict[str, Any], talk: Row[Any] | None) -> None:
        where = name_of(row)
        if talk is None:
            raise BrokenRowError(f"{where}: its conversation is missing")
        if talk.kind != "chat" or talk.person != body["person"] or talk.started != body["started"]:
            raise BrokenRowError(f"{where}: the person, kind or time of its conversation was changed")
        self.consents[row.subject] = body["consent"]
        self.prompts[row.subject] = None
        self._check_tools(where, talk, body["tools"])

    def _check_preference(self, row: Row[Any], body: dict[str, Any], found: Row[Any] | None) -> None:
        where, number = name_of(row), body["id"]
        self.preferences.add(number)
        if found is None:
            raise BrokenRowError(f"{where}: preference {number} is missing")
        for name in OF_PREFERENCE:
            if getattr(found, name) != body.get(name):
                raise BrokenRowError(f"{where}: {name} of preference {number} was changed")
        if found.conversation != row.subject:
            raise BrokenRowError(f"{where}: the conversation of preference {number} was changed")
        if found.digest is not None:
            words = (found.digest, found.salt, found.body)
            _check_content(f"{where}: the words of preference {number}", *words, row.subject in self.erased)

    # -- prompts -----------------------------------------------------------------------------------

    def _check_places(self, bodies: Sequence[tuple[Row[Any], dict[str, Any]]]) -> None:
        """The clusters of prompts, and which turns they are."""
        placed = [(row, *one) for row, body in bodies for one in body.get("prompts", ())]
        known = {
            row.id: row for row in self._in(sa.select(prompts), prompts.c.id, {one[2] for one in placed})
        }
        query = sa.select(turn_prompts)
        here = {
            row.turn: row.prompt for row in self._in(query, turn_prompts.c.turn, {one[1] for one in placed})
        }
        for row, turn, prompt, cluster, purpose in placed:
            self.placed.add(turn)
            found = known.get(prompt)
            if found is None or (found.cluster, found.purpose) != (cluster, purpose):
                raise BrokenRowError(f"{name_of(row)}: the cluster or purpose of prompt {prompt} was changed")
            if row.subject not in self.erased and here.get(turn) != prompt:
                raise BrokenRowError(f"{name_of(row)}: turn {turn} is no longer prompt {prompt}")

    # -- what the log should know of ---------------------------------------------------------------

    def check_rest(self) -> None:
        self._check_conversations()
        self._check_orphans()
        self._check_unknown("turn", turns.c.id, turns.c.conversation, self.turns)
        self._check_unknown("preference", preferences.c.id, preferences.c.conversation, self.preferences)
        query = sa.select(battles.c.id).join(conversations, conversations.c.id == battles.c.id)
        query = query.join(prompts, prompts.c.id == conversations.c.prompt)
        other = (prompts.c.purpose != battles.c.purpose) | (prompts.c.cluster != battles.c.cluster)
        for battle in self.connection.execute(query.where(other).limit(1)).scalars():
            raise BrokenRowError(f"battle {battle}: its prompt's cluster or purpose was changed")
        for turn in self.connection.execute(sa.select(turn_prompts.c.turn)).scalars():
            if turn not in self.placed:
                raise BrokenRowError(f"turn {turn} is marked as a prompt, but the log does not say so")
        self._check_unvoted()

    def _check_conversations(self) -> None:
        """Each has the consent the log says, is erased as it says, and is in it if it is a chat."""
        columns = ("id", "kind", "consent", "erased", "prompt")
        for row in self.connection.execute(sa.select(*(conversations.c[name] for name in columns))):
            what = f"conversation {row.id}"
            if row.consent != self.consents.get(row.id, row.consent):
                raise BrokenRowError(
                    f"{what} has consent {row.consent}; the log says {self.consents[row.id]}"
                )
            if (row.erased is not None) != (row.id in self.erased):
                now, then = ("is", "no") if row.erased is not None else ("is not", "an")
                raise BrokenRowError(f"{what} {now} marked as erased; the log records {then} erasure")
            if row.kind != "chat":
                continue
            if row.id not in self.prompts:
                raise BrokenRowError(f"{what} is a chat that is not in the log")
            if row.prompt != (None if row.erased is not None else self.prompts[row.id]):
                raise BrokenRowError(f"{what} has a different prompt from the one in the log")

    def _check_orphans(self) -> None:
        """Whatever is referred to is there; foreign keys can be switched off."""
        for table, column, other in (
            (turns, turns.c.conversation, conversations), (turns, turns.c.content, contents),
            (turns, turns.c.trace, contents), (contents, contents.c.conversation, conversations),
            (battles, battles.c.id, conversations), (conversations, conversations.c.tools, contents),
            (preferences, preferences.c.content, contents), (conversations, conversations.c.prompt, prompts),
        ):  # fmt: skip
            query = sa.select(table.c.id, column.label("wanted")).outerjoin(other, other.c.id == column)
            lost = query.where(column.is_not(None), other.c.id.is_(None)).limit(1)
            for row in self.connection.execute(lost):
                kind = other.name.removeprefix("arena_").removesuffix("s")
                raise BrokenRowError(
                    f"{kind} {row.wanted} is missing, but row {row.id} of {table.name} refers to it"
                )
        talks = sa.select(conversations.c.id).outerjoin(battles, battles.c.id == conversations.c.id)
        lost = talks.where(conversations.c.kind == "battle", battles.c.id.is_(None)).limit(1)
        for talk in self.connection.execute(lost).scalars():
            raise BrokenRowError(f"battle {talk} is missing, but its conversation exists")

    def _check_unknown(self, what: str, number: Any, conversation: Any, known: set[int]) -> None:
        """Rows of chats that no row of the log has told of."""
        query = sa.select(number).join(conversations, conversations.c.id == conversation)
        for found in self.connection.execute(query.where(conversations.c.kind == "chat")).scalars():
            if found not in known:
                raise BrokenRowError(f"{what} {found} is of a chat, but it is not in the log")

    def _check_unvoted(self) -> None:
        """Contents that no vote covers: whole, and gone only where the log says so."""
        voted = sa.select(log.c.subject).where(log.c.kind == "vote")
        last = 0
        while True:
            query = sa.select(contents).where(contents.c.id > last, contents.c.conversation.not_in(voted))
            rows = self.connection.execute(query.order_by(contents.c.id).limit(ROWS_AT_ONCE)).all()
            if not rows:
                return
            for row in rows:
                what = f"content {row.id} of conversation {row.conversation}"
                _check_content(what, row.digest, row.salt, row.body, row.conversation in self.erased)
            last = rows[-1].id


def _what(found: list[Any], listed: list[Any]) -> str:
    """Which of the facts that have no check of their own is another one."""
    names = {SIDE: "side", 5: "the turn before it", MODEL: "model", WEIGHTS: "weights"}
    other = [names[at] for at in names if at < len(listed) and found[at] != listed[at]]
    return f" ({', '.join(other)})" if other else ""


def _check_content(what: str, digest: str, salt: str | None, body: str | None, erased: bool) -> None:
    if salt is None or body is None:
        if not erased:
            raise BrokenRowError(f"{what} is gone, but the log records no erasure")
    elif erased:
        raise BrokenRowError(f"{what} exists, but the log says it was erased")
    elif not _fits(digest, salt, body):
        raise BrokenRowError(f"{what}, or its salt, was changed")


def _fits(digest: str, salt: str, body: str) -> bool:
    try:
        return chain.content_digest(salt, body) == digest
    except (ValueError, TypeError, AttributeError):  # a salt that is no hex any more, a body that is no text
        return False
