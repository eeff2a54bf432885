"""What the round trip has shown, as rows of the table: who is above whom by the votes; votes lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import ndtri

from whorl.arena.battles import Battles, Vote
from whorl.arena.journal import Journal, lost_votes, votes_of
from whorl.arena.ratings import Ratings, fit_bradley_terry
from whorl.arena.store.store import Store
from whorl.quickstart.figures import Figure

ABOVE = "chat model above base in the arena: intervals apart"
NOT_BELOW = "model after DPO not below chat: within 1.96 s.e."
LOST = "votes lost"
NO_VOTE = "does not apply: no vote that rates"
Z95 = float(ndtri(0.975))


def arena_rows(
    store: Store, journal: Journal, rounds: Sequence[str], names: Mapping[str, str], *, learnt: bool
) -> list[Figure]:
    """The rows by the votes of `rounds`; `names` are the store's names of base, chat and dpo."""
    votes = votes_of(store, journal.votes(*rounds))
    why_not = NO_VOTE if learnt else "does not apply: no vote preferred a reply, so nothing was learnt"
    cast = len(journal.votes())
    return [
        *rating_rows(votes, names, why_not),
        Figure(LOST, lost_votes(store, journal), cases=cast, floor=1, lower_is_better=True, unit="votes"),
    ]


def left_out_rows(why: str) -> list[Figure]:
    """The same rows where there was no round trip."""
    return [Figure(name, note=why) for name in (ABOVE, NOT_BELOW, LOST)]


def rating_rows(votes: Sequence[Vote], names: Mapping[str, str], why_not: str = NO_VOTE) -> list[Figure]:
    """Chat above base, and DPO not below chat, by one rating of all votes; `why_not` there is none of DPO."""
    ratings = fit_bradley_terry(Battles.from_rows(votes)) if votes else None
    rows = []
    for name, model, other, note in (
        (ABOVE, names["chat"], names["base"], NO_VOTE),
        (NOT_BELOW, names["dpo"], names["chat"], why_not),
    ):
        counted = met(votes, model, other)
        if ratings is None or not counted.votes:
            rows.append(Figure(name, note=note))
            continue
        points, error = ratings.contrast(model, other)
        floor = _reach(ratings, model, other) if name == ABOVE else -Z95 * error
        rows.append(Figure(name, points, error, counted.votes, floor, unit="points", note=counted.line()))
    return rows


def _reach(ratings: Ratings, model: str, other: str) -> float:
    """How far the interval of `model` reaches down and that of `other` up: a larger gap parts the two."""
    above, below = ratings.place(model), ratings.place(other)
    down = ratings.rating[above] - ratings.low[above]
    return float(down + ratings.high[below] - ratings.rating[below])


@dataclass(frozen=True)
class Met:
    """What one model made of its battles with another."""

    won: int
    tied: int
    lost: int

    @property
    def votes(self) -> int:
        return self.won + self.tied + self.lost

    def line(self) -> str:
        if self.tied == self.votes:
            return f"all {self.tied:,} tied, so the votes show no difference"
        return f"won {self.won:,}, tied {self.tied:,}, lost {self.lost:,}"


def met(votes: Sequence[Vote], model: str, other: str) -> Met:
    """The battles of `model` with `other` alone."""
    theirs = [vote for vote in votes if {vote.model_a, vote.model_b} == {model, other}]
    winners = [{"model_a": vote.model_a, "model_b": vote.model_b}.get(vote.winner) for vote in theirs]
    return Met(winners.count(model), winners.count(None), winners.count(other))
