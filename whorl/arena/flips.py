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

from whorl.arena.battles import Battles, Vote
from whorl.arena.likelihood import Array, Problem, minimise, one_thread
from whorl.arena.outcomes import collapse, cut_prompts
from whorl.arena.posing import pose
from whorl.arena.ratings import Ratings, fit_bradley_terry

# What is left after the drop may be one-sided; so little of a prior moves no real board.
DROP_RIDGE = 1e-4
LEVEL = 1e-9  # log-odds within which two strengths are the same number


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
    found = []
    for above, below in list(pairwise(order))[:top]:
        if ratings.group[above] != ratings.group[below]:
            continue
        votes, dropped = _fewest(problem, theta, above, below)
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


def _fewest(problem: Problem, theta: Array, above: int, below: int) -> tuple[int | None, Array]:
    """The fewest votes in order of influence whose drop puts `below` strictly above, by refits.

    The order is taken at the full fit, and once more at the fit that the first answer leaves: influence
    moves as votes go. The fewer of the two counts.
    """
    drop = _Drop.ordered(problem, theta, theta, above, below)
    votes = drop.fewest(drop.most)
    if votes == drop.most and (not votes or drop.gap(votes) >= -LEVEL):
        return None, np.zeros(len(problem.outcomes))
    again = _Drop.ordered(problem, theta, drop.refit(votes), above, below)
    fewer = again.fewest(min(votes, again.most))
    if fewer < votes and again.gap(fewer) < -LEVEL:
        return fewer, again.dropped(fewer)
    return votes, drop.dropped(votes)


@dataclass(frozen=True, eq=False)
class _Drop:
    """Leaving out the first so many votes in an order of outcomes."""

    problem: Problem
    theta: Array
    above: int
    below: int
    order: NDArray[np.intp]
    start: int  # how many are needed to first order

    @classmethod
    def ordered(cls, problem: Problem, theta: Array, there: Array, above: int, below: int) -> _Drop:
        """The votes that hold the gap open, the most influential (at the fit `there`) first.

        Without a vote of score s the minimum moves by H⁻¹s / (1 − leverage), to first order.
        """
        out = problem.outcomes
        terms = problem.terms(there)
        hessian = problem.hessian(terms)
        with one_thread():
            inverse = np.linalg.inv(hessian + np.mean(np.diag(hessian)) * problem.gauge())
        gap = inverse[above] - inverse[below]
        spread = np.diag(inverse)[out.a] + np.diag(inverse)[out.b] - 2 * inverse[out.a, out.b]
        leverage = np.minimum(terms.by_dd * spread, 0.99)
        moved = terms.by_d * (gap[out.a] - gap[out.b]) / (1 - leverage)
        order = np.argsort(moved, kind="stable")
        order = order[moved[order] < 0]
        closed = np.cumsum(-moved[order] * out.count[order])
        cell = int(np.searchsorted(closed, theta[above] - theta[below]))
        return cls(problem, theta, above, below, order, int(out.count[order][: cell + 1].sum()))

    @property
    def most(self) -> int:
        return int(self.problem.outcomes.count[self.order].sum())

    def dropped(self, votes: int) -> Array:
        """[n] how many of each outcome that leaves out."""
        count = self.problem.outcomes.count
        dropped = np.zeros(len(count))
        there = count[self.order]
        dropped[self.order] = np.clip(votes - (np.cumsum(there) - there), 0, there)
        return dropped

    def refit(self, votes: int) -> Array:
        rest = self.problem.outcomes.recounted(self.problem.outcomes.count - self.dropped(votes))
        return minimise(replace(self.problem, outcomes=rest), self.theta)

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
