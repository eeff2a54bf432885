"""How few votes decide a place: the smallest number that, left out, puts the next model above.

Dropping 2 of 57,477 public votes changed who was first on a board (Huang et al., "Dropping just a handful
of preferences", 2025): an interval says what luck could do, this says what two people could.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from whorl.arena.battles import Battles, Vote
from whorl.arena.likelihood import CLOSE_ENOUGH, Array, Problem, minimise, one_thread
from whorl.arena.outcomes import collapse, cut_prompts, summed
from whorl.arena.posing import pose
from whorl.arena.ratings import Ratings, fit_bradley_terry

# What is left after the drop may be one-sided; so little of a prior moves no real board.
DROP_RIDGE = 1e-4
LEVEL = 1e-9  # log-odds within which two strengths are the same number
HALVED_FROM = 1.0  # log-odds: a longer first step is left to Newton's method


@dataclass(frozen=True)
class Flip:
    """Leaving out `votes` of them (`dropped`: model_a, model_b, points of a, how many) puts `below` above.

    A refit without these votes has shown it, so `votes` is enough; a smaller set that no ordering of
    votes by influence leads to is possible in principle. None: no set of votes that was tried does it.
    """

    above: str
    below: str
    gap: float  # points between them with all votes
    votes: int | None
    dropped: tuple[tuple[str, str, float, int], ...] = ()  # (model_a, model_b, points of a, votes)


def votes_to_flip(
    battles: Battles | Iterable[Vote], ratings: Ratings | None = None, *, top: int | None = None
) -> list[Flip]:
    """For each model and the next one below it (of the same group), the first `top` of them.

    `ratings` (of these battles; by default a plain fit) says who stands above whom. The drops are judged
    by ratings with ties as half wins, equal weights and no style, all models rated again; where those
    have the two the other way round already, no vote is needed.
    """
    battles = (battles if isinstance(battles, Battles) else Battles.from_rows(battles)).compact()
    ratings = fit_bradley_terry(battles) if ratings is None else ratings
    outcomes = collapse(cut_prompts(battles)[0])
    posed = pose(outcomes, "half", battles.models)
    problem = replace(posed.problem, ridge=np.maximum(posed.problem.ridge, DROP_RIDGE))
    theta = minimise(problem)
    order = ratings.order
    pairs = _Pairs.of(problem)
    found = []
    for above, below in list(pairwise(order))[:top]:
        if ratings.group[above] != ratings.group[below]:
            continue
        with one_thread():
            votes, dropped = _fewest(pairs, theta, above, below)
        names = ratings.models
        found.append(
            Flip(
                above=names[above],
                below=names[below],
                gap=float(ratings.rating[above] - ratings.rating[below]),
                votes=votes,
                dropped=tuple(
                    (names[outcomes.a[i]], names[outcomes.b[i]], float(outcomes.points[i]), int(dropped[i]))
                    for i in np.flatnonzero(dropped)
                ),
            )
        )
    return found


def _fewest(pairs: _Pairs, theta: Array, above: int, below: int) -> tuple[int | None, Array]:
    """The fewest votes in order of influence whose drop puts `below` strictly above, by refits.

    The order is taken at the full fit, and once more at the fit that the first answer leaves: influence
    moves as votes go. The fewer of the two counts.
    """
    drop = _Drop.ordered(pairs, theta, theta, above, below)
    votes = drop.fewest(drop.most)
    if votes == drop.most and (not votes or drop.gap(votes) >= -LEVEL):
        return None, np.zeros(len(pairs.problem.outcomes))
    again = _Drop.ordered(pairs, theta, drop.refit(votes), above, below)
    fewer = again.fewest(min(votes, again.most))
    if fewer < votes and again.gap(fewer) < -LEVEL:
        return fewer, again.dropped(fewer)
    return votes, drop.dropped(votes)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The problem by pairs of models: with ties as half wins, a pair's votes and points are all that its
    outcomes say together. `of_outcome` is the pair of each outcome."""

    problem: Problem
    a: NDArray[np.int32]
    b: NDArray[np.int32]
    of_outcome: NDArray[np.intp]
    votes: Array
    points: Array

    @classmethod
    def of(cls, problem: Problem) -> _Pairs:
        out = problem.outcomes
        found, places = np.unique(out.a.astype(np.int64) * out.models + out.b, return_inverse=True)
        a, b = np.divmod(found, out.models)
        votes = summed(places, out.count, len(found))
        points = summed(places, out.count * out.points, len(found))
        return cls(problem, a.astype(np.int32), b.astype(np.int32), places, votes, points)

    def gradient(self, theta: Array, votes: Array, points: Array) -> Array:
        models = self.problem.outcomes.models
        slope = votes * expit(theta[self.a] - theta[self.b]) - points
        moved = np.bincount(self.a, slope, models) - np.bincount(self.b, slope, models)
        return np.asarray(moved + self.problem.ridge * theta)


@dataclass(frozen=True, eq=False)
class _Drop:
    """Leaving out the first so many votes in an order of outcomes."""

    pairs: _Pairs
    theta: Array
    there: Array  # a fit near those that are asked for, …
    inverse: Array  # … and H⁻¹ of all votes there
    above: int
    below: int
    order: NDArray[np.intp]
    until: Array  # votes up to and with each outcome of the order
    start: int  # how many are needed to first order

    @classmethod
    def ordered(cls, pairs: _Pairs, theta: Array, there: Array, above: int, below: int) -> _Drop:
        """The votes that hold the gap open, the most influential (at the fit `there`) first.

        Without a vote of score s the minimum moves by H⁻¹s / (1 − leverage), to first order.
        """
        problem, out = pairs.problem, pairs.problem.outcomes
        terms = problem.terms(there)
        hessian = problem.hessian(terms)
        held = hessian + np.mean(np.diag(hessian)) * problem.gauge()
        inverse = np.asarray(np.linalg.inv(held), dtype=np.float64)
        gap, own, (a, b) = inverse[above] - inverse[below], np.diag(inverse), (pairs.a, pairs.b)
        spread = (own[a] + own[b] - 2 * inverse[a, b])[pairs.of_outcome]
        leverage = np.minimum(terms.by_dd * spread, 0.99)
        moved = terms.by_d * (gap[a] - gap[b])[pairs.of_outcome] / (1 - leverage)
        holding = np.flatnonzero(moved < 0)
        order = holding[np.argsort(moved[holding], kind="stable")]
        until, closed = np.cumsum(out.count[order]), np.cumsum(-moved[order] * out.count[order])
        cell = int(np.searchsorted(closed, theta[above] - theta[below]))
        start = int(until[min(cell, len(until) - 1)]) if len(until) else 0
        return cls(pairs, theta, there, inverse, above, below, order, until, start)

    @property
    def most(self) -> int:
        return int(self.until[-1]) if len(self.until) else 0

    def first(self, votes: int) -> tuple[NDArray[np.intp], Array]:
        """The outcomes that leaves something out of, and how many of each."""
        cells = self.order[: int(np.searchsorted(self.until, votes)) + 1]
        left = self.pairs.problem.outcomes.count[cells].copy()
        left[-1:] -= max(self.until[len(cells) - 1] - votes, 0) if len(cells) else 0
        return cells, left

    def dropped(self, votes: int) -> Array:
        """[n] how many of each outcome that leaves out."""
        dropped = np.zeros(len(self.pairs.problem.outcomes))
        cells, left = self.first(votes)
        dropped[cells] = left
        return dropped

    def refit(self, votes: int) -> Array:
        """The fit of the rest.

        So few votes hardly bend the likelihood: steps with the curvature of all votes get there in a few
        gradients. Where they do not halve each time, Newton's method does it.
        """
        pairs = self.pairs
        cells, left = self.first(votes)
        of, points = pairs.of_outcome[cells], pairs.problem.outcomes.points[cells]
        count = len(pairs.votes)
        rest = (
            pairs.votes - np.bincount(of, left, count),
            pairs.points - np.bincount(of, left * points, count),
        )
        theta, last = self.there, HALVED_FROM
        while last > CLOSE_ENOUGH:
            step = self.inverse @ pairs.gradient(theta, *rest)
            size = float(np.max(np.abs(step)))
            if not size < last / 2:
                return self._newton(votes)
            theta, last = theta - step, size
        return theta

    def _newton(self, votes: int) -> Array:
        problem = self.pairs.problem
        rest = problem.outcomes.recounted(problem.outcomes.count - self.dropped(votes))
        return minimise(replace(problem, outcomes=rest), self.theta)

    def gap(self, votes: int) -> float:
        """How far `above` then stands above, in log-odds."""
        refit = self.refit(votes)
        return float(refit[self.above] - refit[self.below])

    def fewest(self, most: int) -> int:
        """The fewest that flip the two where `most` do (it is not tried itself).

        The gap is nearly straight in the votes: a first-order guess, then in turn the line through what
        was seen and halves.
        """
        whole = float(self.theta[self.above] - self.theta[self.below])
        low, at_low, high, at_high = 0, whole, most, -whole
        guess, halve = self.start, False
        while high - low > 1:
            guess = min(max(guess, low + 1), high - 1)
            gap = self.gap(guess)
            if gap < -LEVEL:
                high, at_high = guess, gap
            else:
                low, at_low = guess, gap
            if halve:
                guess = (low + high) // 2
            elif high == most:  # nothing is known above: go on as far again as the line says, and a bit
                guess = int(low * whole / max(whole - at_low, 1e-12) * 1.02) + 1
            else:
                guess = low + int((high - low) * max(at_low, 0.0) / (at_low - at_high)) + 1
            halve = not halve
        return high
