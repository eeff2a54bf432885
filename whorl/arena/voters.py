"""Voters whose votes are unlike the others': a hint for a person to look at, never a ban by itself.

Chiang et al., "Chatbot Arena" (2024), section 5.2: each vote gets p_i = (1 + #{h ≥ H'_i}) / (|H| + 1)
against the votes H of all others on the same pair; M_j = −2·Σ_{i≤j} log p_i is χ²_{2j} for a voter like the
others (Fisher's method). It is looked at after 5 random numbers of votes j ≤ 100, at level α/5 each. On 25
bad and 25 good voters α = 0.1 found 13 and 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

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

    At most a share `alpha` of voters like the others is flagged by chance. Their votes stay in: nothing
    here changes a rating.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha} is not between 0 and 1; 0.1 is usual")
    p = vote_p_values(battles)
    found = []
    order = np.argsort(battles.voter.codes, kind="stable")
    codes = battles.voter.codes[order]
    starts = np.searchsorted(codes, np.arange(len(battles.voter.names) + 1))
    for code, name in enumerate(battles.voter.names):
        rows = order[starts[code] : starts[code + 1]]  # in the order of the log
        if len(rows) < LOOKS:
            continue
        statistic = -2 * np.cumsum(np.log(p[rows[:MOST_VOTES]]))
        looks = looks_of(name, min(len(rows), MOST_VOTES), seed)
        threshold = chi2.isf(alpha / LOOKS, 2 * looks)
        excess = statistic[looks - 1] - threshold
        if excess.max() >= 0:
            at = int(np.argmax(excess))
            found.append(
                OddVoter(
                    name, len(rows), int(looks[at]), float(statistic[looks[at] - 1]), float(threshold[at])
                )
            )
    return sorted(found, key=lambda odd: (odd.threshold - odd.statistic, odd.voter))


def looks_of(voter: str, votes: int, seed: int) -> NDArray[np.int64]:
    """5 different numbers of votes up to `votes`, the voter's own for good: nobody can vote around them."""
    number = int.from_bytes(hashlib.sha256(voter.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    random = np.random.Generator(np.random.Philox(key=[seed, VOTERS], counter=[0, 0, 0, number]))
    looks: NDArray[np.int64] = np.sort(random.choice(np.arange(1, votes + 1), LOOKS, replace=False))
    return looks


def vote_p_values(battles: Battles) -> NDArray[np.float64]:
    """[N] of each vote against the others' on its pair; a vote on a pair without others has 1."""
    many = len(battles.models)
    flipped = battles.a > battles.b
    low = np.where(flipped, battles.b, battles.a).astype(np.int64)
    high = np.where(flipped, battles.a, battles.b)
    outcome = np.rint(2 * np.where(flipped, 1 - battles.points, battles.points)).astype(np.int64)
    _, pair = np.unique(low * many + high, return_inverse=True)
    pairs = int(pair.max()) + 1 if len(pair) else 0
    everybody = _at_least(pair * 3 + outcome, pairs)
    voters = battles.voter.codes.astype(np.int64) + 1  # 0: unknown, treated as one voter's
    _, own = np.unique(voters * pairs + pair, return_inverse=True)
    theirs = _at_least(own * 3 + outcome, int(own.max()) + 1 if len(own) else 0)
    others = everybody[pair, 0] - theirs[own, 0]
    as_high = everybody[pair, outcome] - theirs[own, outcome]
    p: NDArray[np.float64] = (1 + as_high) / (1 + others)
    return p


def _at_least(codes: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """[rows, 3] how many votes gave the first of the pair 0, ½ or 1 point or more than that."""
    counts = np.bincount(codes, minlength=3 * rows).reshape(rows, 3)
    at_least: NDArray[np.int64] = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    return at_least
