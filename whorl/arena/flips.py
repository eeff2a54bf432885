"""How few votes decide a place: the smallest number that, left out, puts the next model above.

Dropping 2 of 57,477 public votes changed who was first on a board (Huang et al., "Dropping just a handful
of preferences", 2025): an interval says what luck could do, this says what two people could.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from whorl.arena.battles import Battle, Battles
from whorl.arena.likelihood import Array, Problem, minimise
from whorl.arena.outcomes import collapse, cut_prompts
from whorl.arena.posing import pose
from whorl.arena.ratings import SCALE, Ratings, fit_bradley_terry

# What is left after the drop may be one-sided; so little of a prior moves no real board.
DROP_RIDGE = 1e-4


@dataclass(frozen=True)
class Flip:
    """Leaving out `votes` of them (`dropped`: winner, loser or tie, how many) puts `below` above.

    A refit without these votes has shown it, so `votes` is enough; a smaller set that no ordering of
    votes by influence leads to is possible in principle. None: no set of votes that was tried does it.
    """

    above: str
    below: str
    gap: float  # points between them with all votes
    votes: int | None
    dropped: tuple[tuple[str, str, float, int], ...] = ()  # (model_a, model_b, points of a, votes)


def votes_to_flip(
    battles: Battles | Iterable[Battle], ratings: Ratings | None = None, *, top: int | None = None
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
    for above, below in list(zip(order, order[1:], strict=False))[:top]:
        if ratings.group[above] != ratings.group[below]:
            continue
        votes, dropped = _fewest(problem, theta, above, below)
        names = ratings.models
        found.append(
            Flip(
                above=names[above],
                below=names[below],
                gap=float(SCALE * (theta[above] - theta[below])),
                votes=votes,
                dropped=tuple(
                    (
                        names[outcomes.a[cell]],
                        names[outcomes.b[cell]],
                        float(outcomes.points[cell]),
                        int(number),
                    )
                    for cell, number in enumerate(dropped)
                    if number
                ),
            )
        )
    return found


def _fewest(problem: Problem, theta: Array, above: int, below: int) -> tuple[int | None, Array]:
    """The fewest votes in order of influence whose drop puts `below` strictly above, by refits.

    The order is taken at the full fit, and once more at the fit that the first answer leaves: influence
    moves as votes go. The fewer of the two counts.
    """
    best: tuple[int | None, Array] = (None, np.zeros(len(problem.outcomes)))
    there = theta
    for _ in range(2):
        order = _by_influence(problem, there, above, below)
        ends = np.cumsum(problem.outcomes.count[order]).astype(np.int64)
        if not len(ends):
            return best
        most = int(ends[-1]) if best[0] is None else min(int(ends[-1]), best[0])
        if not _flipped(problem, theta, _drop(problem, order, ends, most), above, below)[0]:
            return best
        low, high = 0, 1
        while (
            high < most and not _flipped(problem, theta, _drop(problem, order, ends, high), above, below)[0]
        ):
            low, high = high, min(high * 2, most)
        high = min(high, most)
        while high - low > 1:
            middle = (low + high) // 2
            if _flipped(problem, theta, _drop(problem, order, ends, middle), above, below)[0]:
                high = middle
            else:
                low = middle
        dropped = _drop(problem, order, ends, high)
        if best[0] is None or high < best[0]:
            best = (high, dropped)
        there = _flipped(problem, theta, dropped, above, below)[1]
    return best


def _by_influence(problem: Problem, theta: Array, above: int, below: int) -> NDArray[np.intp]:
    """Places of the outcomes whose votes hold the gap open, the most influential first.

    Without a vote of score s the minimum moves by H⁻¹s / (1 − leverage), to first order.
    """
    out = problem.outcomes
    terms = problem.terms(theta)
    hessian = problem.hessian(terms)
    inverse = np.linalg.inv(hessian + np.mean(np.diag(hessian)) * problem.gauge())
    gap = inverse[above] - inverse[below]
    spread = np.diag(inverse)[out.a] + np.diag(inverse)[out.b] - 2 * inverse[out.a, out.b]
    leverage = np.minimum(terms.by_dd * spread, 0.99)
    moved = terms.by_d * (gap[out.a] - gap[out.b]) / (1 - leverage)
    order = np.argsort(moved, kind="stable")
    chosen: NDArray[np.intp] = order[moved[order] < 0]
    return chosen


def _drop(problem: Problem, order: NDArray[np.intp], ends: NDArray[np.int64], votes: int) -> Array:
    """[n] how many of each outcome are left out when the first `votes` in this order are."""
    count = problem.outcomes.count
    dropped = np.zeros(len(count))
    starts = ends - count[order]
    dropped[order] = np.clip(votes - starts, 0, count[order])
    return dropped


def _flipped(problem: Problem, theta: Array, dropped: Array, above: int, below: int) -> tuple[bool, Array]:
    """Whether `below` stands above without these votes, and the whole refit."""
    rest = replace(problem, outcomes=problem.outcomes.recounted(problem.outcomes.count - dropped))
    refit = minimise(rest, theta)
    return bool(refit[below] > refit[above]), refit
