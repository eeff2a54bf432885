"""The votes for a board that is always up to date: after a vote, only that vote is read.

What was read stays in columns that grow; a change of consent, which lets an old vote count or not, is
found by the battle it is about. So a board made from here equals one made from the whole log, byte for
byte, at the cost of what is new (and of the board).
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import DTypeLike, NDArray

from whorl.arena.battles import WINNERS, Battles, Labels
from whorl.arena.store import votes
from whorl.arena.store.records import CONSENTS, BattleVote, Consent
from whorl.arena.store.schema import log
from whorl.arena.store.store import Store

NEWER = (
    sa.select(log.c.seq, log.c.kind, log.c.subject, log.c.body)
    .where(log.c.seq > sa.bindparam("after"))
    .order_by(log.c.seq)
)
ROWS_AT_ONCE = 200
STYLES = sorted(votes.STYLES)


class LiveVotes:
    """A store's votes, read once. `refresh` before a look; may be used by many threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.seq = 0  # of the last row of the log that was read
        self.changes = 0  # how often an old vote has come to count, or ceased to
        self._lock = threading.Lock()
        self._cast: list[tuple[BattleVote, str]] = []  # as cast, with the reason of then
        self._place: dict[str, int] = {}  # battle → its place
        self._consents: dict[str, Consent] = {}  # where that was changed
        self._columns = _Columns()

    def refresh(self) -> int:
        """Read what is new; how many rows of the log that was."""
        with self._lock, self.store.read() as connection:
            before = self.seq
            found = connection.execute(
                NEWER, {"after": before}, execution_options={"yield_per": ROWS_AT_ONCE}
            )
            for rows in found.partitions():
                self._take(rows)
            return self.seq - before

    def _take(self, rows: Iterable[Any]) -> None:
        """Rows of the log, whose votes go into the columns together."""
        fresh: list[BattleVote] = []
        try:
            for row in rows:
                if row.kind == "vote":
                    fresh.append(self._add(row.seq, row.body))
                elif row.kind == "consent":
                    self._columns.extend(fresh)
                    fresh = []
                    self._change(row.subject, votes.as_consent(row.body))
                self.seq = row.seq
        finally:
            self._columns.extend(fresh)

    def _add(self, seq: int, text: str) -> BattleVote:
        body = votes.vote_body(seq, text)
        vote = votes.as_vote(seq, body, {})
        self._place[vote.battle] = len(self._cast)
        self._cast.append((vote, body.reason))
        return vote

    def _change(self, battle: str, consent: Consent) -> None:
        self._consents[battle] = consent
        if (place := self._place.get(battle)) is not None:
            self._columns.settle(place, self._now(place))
            self.changes += 1

    def _now(self, place: int) -> BattleVote:
        vote, reason = self._cast[place]
        consent = self._consents.get(vote.battle, vote.consent)
        reason = votes.why_not_now(reason, consent, vote.purpose)
        return vote._replace(consent=consent, reason=reason, rated=not reason)

    def rows(
        self, *, consent: Consent = "rate", rated: bool | None = True, after: int = 0
    ) -> list[BattleVote]:
        """What `Store.battles` gives, as of the last `refresh`."""
        with self._lock:
            first = self._until(after)
            return [self._now(place) for place in self._columns.chosen(consent, rated, slice(first, None))]

    def battles(
        self, *, consent: Consent = "rate", rated: bool | None = True, until: int | None = None
    ) -> Battles:
        """The same in columns, as `Battles.from_rows` makes them: no vote is looked at one by one. With
        `until`, those of the log's rows up to that `seq`."""
        with self._lock:
            end = None if until is None else self._until(until)
            return self._columns.battles(self._columns.chosen(consent, rated, slice(0, end)))

    def _until(self, seq: int) -> int:
        """How many votes were cast in the rows up to `seq`."""
        return bisect_right(self._cast, seq, key=lambda cast: cast[0].seq)


class _Numbers:
    """A growing column of numbers; room is doubled, so that adding costs the same always."""

    def __init__(self, dtype: DTypeLike, *shape: int) -> None:
        self._room = np.zeros((64, *shape), dtype=dtype)
        self._count = 0

    def extend(self, values: Sequence[Any]) -> None:
        end = self._count + len(values)
        while end > len(self._room):
            self._room = np.concatenate([self._room, np.zeros_like(self._room)])
        self._room[self._count : end] = values
        self._count = end

    @property
    def values(self) -> NDArray[Any]:
        return self._room[: self._count]


class _Words:
    """A growing column of words, as numbers in the order of their first coming."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._codes = _Numbers(np.int32)
        self._sorted: list[str] = []

    def extend(self, words: Iterable[str]) -> None:
        numbers = self._numbers
        self._codes.extend([numbers.setdefault(word, len(numbers)) for word in words])

    def labels(self, rows: NDArray[np.intp]) -> Labels:
        """Of these rows alone: the names there are, sorted; the empty word is none."""
        self._sorted += list(self._numbers)[len(self._sorted) :]
        self._sorted.sort()  # which was sorted but for its end
        codes = self._codes.values[rows]
        here = np.zeros(len(self._numbers), dtype=bool)
        here[codes] = True
        words = [word for word in self._sorted if word]
        order = np.array([self._numbers[word] for word in words], dtype=np.intp)
        names = [word for word, there in zip(words, here[order], strict=True) if there]
        place = np.full(len(self._numbers), -1, dtype=np.int32)
        place[order[here[order]]] = np.arange(len(names), dtype=np.int32)
        return Labels(tuple(names), place[codes])


class _Columns:
    """All votes, also those that do not count: `consent` and `rated` say which do, now."""

    def __init__(self) -> None:
        self._consent, self._rated = _Numbers(np.uint8), _Numbers(np.bool_)
        self._models, self._voter, self._category, self._prompt = (_Words() for _ in range(4))
        self._winner = _Numbers(np.uint8)
        self._time, self._probability = _Numbers(np.float64), _Numbers(np.float64)
        self._style = _Numbers(np.float64, len(STYLES), 2)

    def extend(self, fresh: Sequence[BattleVote]) -> None:
        """Column by column: an array takes a list in the time of a few single numbers."""
        if not fresh:
            return
        self._consent.extend([CONSENTS.index(vote.consent) for vote in fresh])
        self._rated.extend([vote.rated for vote in fresh])
        # model_a of row n is word 2n, model_b the next
        self._models.extend(name for vote in fresh for name in (vote.model_a, vote.model_b))
        self._voter.extend(vote.voter for vote in fresh)
        self._category.extend(vote.category for vote in fresh)
        self._prompt.extend(vote.prompt for vote in fresh)
        self._winner.extend([WINNERS.index(vote.winner) for vote in fresh])
        self._time.extend([vote.time for vote in fresh])
        self._probability.extend([vote.probability for vote in fresh])
        self._style.extend([_style(vote) for vote in fresh])

    def settle(self, row: int, vote: BattleVote) -> None:
        self._consent.values[row] = CONSENTS.index(vote.consent)
        self._rated.values[row] = vote.rated

    def chosen(self, consent: Consent, rated: bool | None, among: slice) -> NDArray[np.intp]:
        wanted = self._consent.values[among] >= CONSENTS.index(consent)
        if rated is not None:
            wanted &= self._rated.values[among] == rated
        return np.flatnonzero(wanted) + (among.start or 0)

    def battles(self, rows: NDArray[np.intp]) -> Battles:
        models = self._models.labels(np.concatenate([2 * rows, 2 * rows + 1]))
        style = self._style.values[rows]
        known = np.isfinite(style).all(axis=(0, 2)) & bool(len(rows))  # counted in every one
        return Battles(
            models=models.names, a=models.codes[: len(rows)], b=models.codes[len(rows) :],
            winner=self._winner.values[rows], time=self._time.values[rows],
            probability=self._probability.values[rows], voter=self._voter.labels(rows),
            category=self._category.labels(rows), prompt=self._prompt.labels(rows),
            style_names=tuple(name for name, there in zip(STYLES, known, strict=True) if there),
            style=style[:, known],
        )  # fmt: skip


def _style(vote: BattleVote) -> list[tuple[float, float]]:
    counts = {name: (in_a, in_b) for name, in_a, in_b in vote.style}
    return [counts.get(name, (np.nan, np.nan)) for name in STYLES]
