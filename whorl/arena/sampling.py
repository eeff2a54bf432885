"""Which two models to show next, and with what probability that was drawn.

A vote tells most where a pair's share of points is least sure: P(pair) ∝ √(Σ̂/n) − √(Σ̂/(n + 1)), the
amount by which one more vote narrows it (Chiang et al., "Chatbot Arena", 2024, section 4). Every pair keeps
a floor, so that no weight 1/P is ever large and a model that changed would be noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from whorl.arena.battles import Battles
from whorl.arena.ratings import fit_bradley_terry
from whorl.arena.views import win_matrix
from whorl.base.errors import InputError

FLOOR = 0.1
UNSEEN = 0.5  # a pair without a battle counts as if it had half a one: before those that had one
PRIOR_VOTES = 4.0  # how many votes the fit's expectation of a pair's points is worth beside its own votes
LEAST_VARIANCE = 0.01  # of a vote: even the most one-sided pair can surprise
DRAW = 0xD4A3  # purpose of the random numbers


@dataclass(frozen=True, eq=False)
class PairSampler:
    """P unordered pairs of `models` with their probabilities, which sum to 1."""

    models: tuple[str, ...]
    pairs: NDArray[np.int64]  # [P, 2] places in `models`
    probability: NDArray[np.float64]  # [P]

    def draw(self, seed: int, number: int) -> tuple[str, str, float]:
        """(model_a, model_b, the pair's probability) of draw `number`: a pure function of its arguments.

        Which of the two stands left is a fair coin; the probability is that of the pair, either way round.
        """
        random = np.random.Generator(np.random.Philox(key=[seed, DRAW], counter=[0, 0, 0, number]))
        place = int(np.searchsorted(np.cumsum(self.probability), random.random(), side="right"))
        place = min(place, len(self.pairs) - 1)
        a, b = self.pairs[place] if random.random() < 0.5 else self.pairs[place][::-1]
        return self.models[a], self.models[b], float(self.probability[place])


def pair_sampler(
    models: Sequence[str], battles: Battles | None = None, *, floor: float = FLOOR
) -> PairSampler:
    """Probabilities for the pairs of `models` (those that can be shown now) from the votes so far.

    Σ̂ of a pair is the variance of a vote's points: from the pair's own votes and, as `PRIOR_VOTES` more,
    what the ratings expect of it. Each pair has at least `floor` / (number of pairs); floor 1 is uniform.
    """
    names = tuple(sorted(set(models)))
    if len(names) < 2:
        raise InputError(f"a battle needs two models that can be shown; available: {len(names)}")
    if not 0 < floor <= 1:
        raise InputError(f"floor {floor} is not in (0, 1]; 0.1 is usual")
    first, second = np.triu_indices(len(names), k=1)
    pairs = np.stack([first, second], axis=1)
    uniform = np.full(len(pairs), 1 / len(pairs))
    if battles is None or not len(battles):
        return PairSampler(names, pairs, uniform)
    count, variance = _pair_statistics(names, battles)
    n = np.maximum(count[first, second], UNSEEN)
    spread = variance[first, second]
    gain = np.sqrt(spread / n) - np.sqrt(spread / (n + 1))
    shares = floor * uniform + (1 - floor) * gain / gain.sum()
    return PairSampler(names, pairs, np.minimum(shares, 1.0))  # one pair's share may round to above 1


def _pair_statistics(
    names: tuple[str, ...], battles: Battles
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[M, M] battles of each pair, and the variance of one vote's points in it."""
    battles = battles.compact()
    ratings = fit_bradley_terry(battles, cut_repeated_prompts=False)
    matrix = win_matrix(battles)
    known = {name: place for place, name in enumerate(matrix.models)}
    where = np.array([known.get(name, -1) for name in names])
    both = np.ix_(where, where)
    there = (where[:, None] >= 0) & (where[None, :] >= 0)
    count = np.where(there, matrix.battles[both], 0).astype(np.float64)
    points = np.where(there, matrix.points[both], 0.0)
    expected = np.where(there, ratings.probability()[both], 0.5)
    share = (points + PRIOR_VOTES * expected) / (count + PRIOR_VOTES)
    # A tie is between the two: votes of a pair vary by p(1 − p) less a quarter of its share of ties.
    ties = np.zeros(matrix.battles.shape)
    tied = battles.points == 0.5
    np.add.at(ties, (battles.a[tied], battles.b[tied]), 1.0)
    tie_share = np.where(there, (ties + ties.T)[both], 0.0) / (count + PRIOR_VOTES)
    return count, np.maximum(share * (1 - share) - tie_share / 4, LEAST_VARIANCE)
