"""Voters whose votes are unlike the others': a hint for a person to look at, never a ban by itself.

After Chiang et al., "Chatbot Arena" (2024), section 5.2: each vote gets a p-value against the votes H of all
others on the same pair; M_j = −2·Σ_{i≤j} log p_i is χ²_{2j} for a voter like the others (Fisher's method).
It is looked at after 5 random numbers of votes j ≤ 100, at level α/5 each.

Two things are otherwise here. "High" is a vote for the one of the two that people like less: their
p = (1 + #{h ≥ H'}) / (|H| + 1) sees a contrary voter only in pairs that happen to stand that way round. And
a vote has but three values, so that this p is far from uniform and M_j far below χ² whoever votes; votes
h = H' are therefore counted in part, by a random number: p = (#{h > H'} + U·(1 + #{h = H'})) / (|H| + 1),
which is uniform exactly. In simulation (`tests/arena/test_rank_voters.py`) theirs finds no voter that
tosses a coin, this one most of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from whorl.arena.battles import Battles
from whorl.base.errors import InputError

LOOKS = 5
MOST_VOTES = 100
VOTERS = 0x70E5  # purpose of the random numbers


@dataclass(frozen=True)
class OddVoter:
    """After `after` votes the statistic M_j stood above its threshold. `votes`: how many there are in all."""

    voter: str
    votes: int
    after: int
    statistic: float
    threshold: float


def odd_voters(battles: Battles, *, alpha: float = 0.1, seed: int = 0) -> list[OddVoter]:
    """Voters to look at, the most striking first; those with fewer than 5 votes cannot be judged.

    A voter like the others is flagged with probability `alpha` at most. Their votes stay in: nothing here
    changes a rating. Where voters could know it, `seed` should be a secret.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha} is not between 0 and 1; 0.1 is usual")
    against = Crowd.of(battles)
    found = []
    order = np.argsort(battles.voter.codes, kind="stable")
    codes = battles.voter.codes[order]
    starts = np.searchsorted(codes, np.arange(len(battles.voter.names) + 1))
    for code, name in enumerate(battles.voter.names):
        rows = order[starts[code] : starts[code + 1]][:MOST_VOTES]  # in the order of the log
        if len(rows) < LOOKS:
            continue
        random = voters_random(name, seed)
        looks = np.sort(random.choice(np.arange(1, len(rows) + 1), LOOKS, replace=False))
        p = against.p_values(rows, random.random(len(rows)))
        statistic = -2 * np.cumsum(np.log(p))[looks - 1]
        threshold = chdtri(2 * looks, alpha / LOOKS)
        at = int(np.argmax(statistic - threshold))
        if statistic[at] >= threshold[at]:
            votes = int(starts[code + 1] - starts[code])
            found.append(OddVoter(name, votes, int(looks[at]), float(statistic[at]), float(threshold[at])))
    return sorted(found, key=lambda odd: (odd.threshold - odd.statistic, odd.voter))


def voters_random(voter: str, seed: int) -> np.random.Generator:
    """Random numbers that are this voter's for good, whoever else votes."""
    number = int.from_bytes(hashlib.sha256(voter.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    return np.random.Generator(np.random.Philox(key=[seed, VOTERS], counter=[0, 0, 0, number]))


@dataclass(frozen=True, eq=False)
class Crowd:
    """Of each vote: the others' votes on its pair that give more, and as much, to the one liked less.

    "Others" are all voters but its own; votes without a voter count as one voter's.
    """

    more: NDArray[np.int64]
    as_much: NDArray[np.int64]
    others: NDArray[np.int64]

    @classmethod
    def of(cls, battles: Battles) -> Crowd:
        many = len(battles.models)
        flipped = battles.a > battles.b
        low = np.where(flipped, battles.b, battles.a).astype(np.int64)
        high = np.where(flipped, battles.a, battles.b)
        outcome = np.rint(2 * np.where(flipped, 1 - battles.points, battles.points)).astype(np.int64)
        pair = low * many + high
        voter = battles.voter.codes.astype(np.int64) + 1
        others = _counts(pair, outcome) - _counts(pair * (len(battles.voter.names) + 1) + voter, outcome)
        total = others.sum(axis=1)
        # With this vote among them: then all of them are alike, and its place among them is uniform.
        liked = others[:, 1] + 2 * others[:, 2] + outcome > total + 1
        others = np.where(liked[:, None], others[:, ::-1], others)
        value = np.where(liked, 2 - outcome, outcome)
        more = (others * (np.arange(3) > value[:, None])).sum(axis=1)
        return cls(more, np.take_along_axis(others, value[:, None], axis=1)[:, 0], total)

    def p_values(self, rows: NDArray[np.intp], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of these votes; `uniform` in [0, 1) says how much of the votes alike counts."""
        part = (1 - uniform) * (1 + self.as_much[rows])  # 1 − U: never 0
        p: NDArray[np.float64] = (self.more[rows] + part) / (1 + self.others[rows])
        return p


def _counts(groups: NDArray[np.int64], outcome: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N, 3] how many votes of each row's group gave 0, ½ and 1 point."""
    _, place = np.unique(groups, return_inverse=True)
    size = int(place.max()) + 1 if len(place) else 0
    counts: NDArray[np.int64] = np.bincount(place * 3 + outcome, minlength=3 * size).reshape(size, 3)
    return counts[place]
