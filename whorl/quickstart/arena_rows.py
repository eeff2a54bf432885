"""What the round trip has shown, as rows of the table: who is above whom by the votes; votes lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import norm

from whorl.arena.battles import Battles
from whorl.arena.ratings import SCALE, Ratings, fit_bradley_terry
from whorl.arena.store.store import Store
from whorl.quickstart.battles import Journal, lost_votes, votes_of
from whorl.quickstart.figures import Figure

ABOVE = "chat model above base in the arena: intervals apart"
NOT_BELOW = "model after DPO not below chat: intervals meet"
LOST = "votes lost"
Z95 = float(norm.ppf(0.975))


def arena_rows(
    store: Store, journal: Journal, rounds: Sequence[str], names: Mapping[str, str], *, learnt: bool
) -> list[Figure]:
    """The rows by the votes of `rounds`; `names` are the store's names of base, chat and dpo."""
    votes = votes_of(store, journal.votes(*rounds))
    ratings = fit_bradley_terry(Battles.from_rows(votes)) if votes else None
    none = "does not apply: no vote that rates"
    why_not = none if learnt else "does not apply: no vote preferred a reply, so nothing was learnt"
    cast = len(journal.votes())
    return [
        _gap(ABOVE, ratings, names["chat"], names["base"], apart=True, none=none),
        _gap(NOT_BELOW, ratings, names["dpo"], names["chat"], apart=False, none=why_not),
        Figure(LOST, lost_votes(store, journal), cases=cast, floor=1, lower_is_better=True, unit="votes"),
    ]


def left_out_rows(why: str) -> list[Figure]:
    """The same rows where there was no round trip."""
    return [Figure(name, note=why) for name in (ABOVE, NOT_BELOW, LOST)]


def _gap(name: str, ratings: Ratings | None, model: str, other: str, *, apart: bool, none: str) -> Figure:
    """How many points `model` is rated above `other`.

    Their 95 % intervals are apart where that is more than both reach towards each other, and meet where it
    is not as far below 0: this reach is the row's floor.
    """
    if ratings is None or not {model, other} <= set(ratings.models):
        return Figure(name, note=none)
    points, low, high = ratings.difference(model, other)
    places = [ratings.place(model), ratings.place(other)]
    reach = float(Z95 * SCALE * np.sqrt(np.maximum(np.diag(ratings.covariance)[places], 0)).sum())
    return Figure(
        name, points, (high - low) / 2 / Z95, ratings.votes, floor=reach if apart else -reach, unit="points"
    )
