"""Before the fit: what the votes can and cannot decide.

Models that never met, not even through others, have no common scale. Models that only ever won (or
lost) have no finite rating by likelihood. Both are found in the graph of votes, handled, and said.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from whorl.arena.intervals import symmetric
from whorl.arena.likelihood import Array, Problem
from whorl.arena.outcomes import Outcomes
from whorl.base.errors import InputError

if TYPE_CHECKING:
    from whorl.arena.config import Ties

STYLE_RIDGE = 0.5
# ξ ~ N(0, 1000 points) keeps a group finite where some of its models only won or lost; used only there.
PRIOR_RIDGE = float((400 / np.log(10) / 1000) ** 2)
# Wide enough ties can explain some few votes perfectly, with strengths as far apart (a > b, b = c, c = a):
# the width has no maximum likelihood then. So weak a prior moves no width that votes decide.
TIE_RIDGE = 1e-3
MOST_NAMED = 3


@dataclass(frozen=True, eq=False)
class Posed:
    """A `Problem` and what is odd about it. `unbounded [M]`: models held finite by the prior alone;
    `tied [M]`: models that never won nor lost."""

    problem: Problem
    groups: int
    unbounded: NDArray[np.bool_]
    tied: NDArray[np.bool_]
    open_ends: tuple[NDArray[np.bool_], NDArray[np.bool_]]  # [M] no lower end, no upper end
    notes: list[str] = field(default_factory=list)

    def spread(self, sandwich: Array, inverse: Array, theta: Array) -> tuple[Array, Array]:
        """(the covariance to report, each parameter's variance for its own interval).

        A model that won every battle, or tied each, has scores near 0 and so a sandwich near 0, however few
        its battles. Of those battles the likelihood's own variance counts instead, in the middle of the
        sandwich: it then stands in both models' places, and what they share cancels in a difference. How far
        away a model is that only won or lost nobody knows, and that is no doubt about the others: their own
        intervals are without it, and its own has the whole of H⁻¹.
        """
        out, models = self.problem.outcomes, self.problem.outcomes.models
        terms = self.problem.terms(theta)
        missing = np.maximum(out.weight * terms.by_dd - out.square * terms.by_d**2, 0.0)
        far = self.unbounded[out.a] | self.unbounded[out.b]
        level = (self.tied[out.a] | self.tied[out.b]) & ~far
        between_ties = self._filled(np.where(level, missing, 0.0))
        prior = np.zeros(len(theta))
        prior[:models] = self.problem.ridge[:models]  # 0 but where a group has a model that is unbounded
        beyond = self._filled(np.where(far, missing, 0.0)) + np.diag(prior)
        near: Array = sandwich + symmetric(inverse @ between_ties @ inverse)
        own = np.diag(near).copy()
        own[:models] += np.where(self.unbounded, np.diag(inverse)[:models], 0.0)
        return near + symmetric(inverse @ beyond @ inverse), own

    def _filled(self, values: Array) -> Array:
        """Σ values·xxᵀ over the outcomes; nothing for the width of a tie, which other votes tell too."""
        nothing = np.zeros(len(values))
        has_tie = self.problem.sizes[2]
        return self.problem.moments(values, (nothing, nothing) if has_tie else None)


def pose(outcomes: Outcomes, ties: Ties, models: tuple[str, ...]) -> Posed:
    """The problem these outcomes pose, and what should be said about it."""
    notes: list[str] = []
    groups, leagues = outcomes.groups(), outcomes.leagues()
    if groups.max() > 0:
        sizes = np.bincount(groups)
        apart = np.flatnonzero(groups != np.argmax(sizes))
        notes.append(
            f"{named(apart, models)} never met the others, not even through a third model:"
            f" {len(sizes)} groups are rated separately and must not be compared"
        )
    unbounded, open_low, open_high = unbounded_models(outcomes, groups, leagues)
    for which, what, end in ((open_high, "won", "upper"), (open_low, "lost", "lower")):
        if which.any():
            notes.append(
                f"{named(np.flatnonzero(which), models)} only ever {what} against the others: no"
                f" {end} bound; a weak prior keeps the rating finite"
            )
    tied = (outcomes.points == 0.5) & (outcomes.count > 0)
    decided = np.zeros(outcomes.models, dtype=bool)
    for ends in (outcomes.a, outcomes.b):
        decided[ends[(outcomes.points != 0.5) & (outcomes.count > 0)]] = True
    if ties == "rao-kupper":
        if tied.all():
            raise InputError("every battle is a tie: Rao and Kupper's tie width is unbounded; use half wins")
        if not tied.any():
            notes.append("no battle is a tie: Rao and Kupper's model equals Bradley and Terry's here")
            ties = "half"
    separated = np.isin(groups, groups[unbounded])
    ridge = np.concatenate(
        [
            np.where(separated, PRIOR_RIDGE, 0.0),
            np.full(outcomes.f.shape[1], STYLE_RIDGE),
            np.full(int(ties == "rao-kupper"), TIE_RIDGE),
        ]
    )
    return Posed(
        problem=Problem(outcomes, ties, groups, ridge),
        groups=int(groups.max()) + 1,
        unbounded=unbounded,
        tied=~decided,
        open_ends=(open_low, open_high),
        notes=notes,
    )


def unbounded_models(
    outcomes: Outcomes, groups: NDArray[np.int32], leagues: NDArray[np.int32]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """[M] which models' ratings the votes leave open; of those, which without a lower and an upper end.

    A group's largest league (two models or more) is its ground; every other league stands infinitely
    far from it by likelihood.
    """
    size = np.bincount(leagues)
    ground = np.zeros(len(size), dtype=bool)
    for group in np.unique(groups):
        there = np.unique(leagues[groups == group])
        largest = there[np.argmax(size[there])]
        ground[largest] = size[largest] > 1 or len(there) == 1
    taken, given = np.zeros(len(size), dtype=bool), np.zeros(len(size), dtype=bool)
    a, b = leagues[outcomes.a], leagues[outcomes.b]
    across = (a != b) & (outcomes.count > 0)
    for winner, loser, took in ((a, b, outcomes.points > 0), (b, a, outcomes.points < 1)):
        taken[winner[across & took]] = True
        given[loser[across & took]] = True
    unbounded = ~ground[leagues]
    return unbounded, unbounded & ~taken[leagues], unbounded & ~given[leagues]


def named(places: NDArray[np.intp], models: tuple[str, ...]) -> str:
    """`x, y and 4 others`."""
    names = [models[place] for place in places[:MOST_NAMED]]
    rest = len(places) - len(names)
    if rest:
        return f"{', '.join(names)} and {rest} other{'s' if rest > 1 else ''}"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
