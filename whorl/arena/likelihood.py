"""The likelihoods of votes and Newton's method on them.

Parameters θ = (ξ [M] strengths in natural log-odds, β [F] style, η the width of a tie). With
d = ξ_a − ξ_b + f·β:

- ties as half wins (Bradley and Terry, 1952): −log L = Σ w·[softplus(d) − y·d];
- Rao and Kupper (1967): P(a) = σ(d − η), P(b) = σ(−d − η), P(tie) = the rest, which is
  (e^{2η} − 1)·σ(d − η)·σ(−d − η): hence both are sums of softplus of something linear, and convex.

The scale of ξ is free: within each connected group Σξ = 0.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit
from threadpoolctl import ThreadpoolController

from whorl.arena.outcomes import Outcomes
from whorl.base.errors import DataError

if TYPE_CHECKING:
    from whorl.arena.config import Ties

Array = NDArray[np.float64]
MOST_STEPS = 200
LONGEST_STEP = 2.0  # of any parameter, in log-odds
NO_CHANGE = 1e-12  # of the loss
CLOSE_ENOUGH = 1e-10  # of θ, per step: a rating's hundredth point is 6e-5


@dataclass(frozen=True, eq=False)
class Terms:
    """Of each outcome: its −log-likelihood and the derivatives by d and, where there is one, η."""

    loss: Array
    by_d: Array
    by_dd: Array
    by_e: Array | None = None
    by_de: Array | None = None
    by_ee: Array | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """What is to be minimised: outcomes, how ties count, and Gaussian penalties ½·ridge·θ²."""

    outcomes: Outcomes
    ties: Ties
    groups: NDArray[np.int32]
    ridge: Array  # [M + F + E]

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.outcomes.models, self.outcomes.f.shape[1], int(self.ties == "rao-kupper")

    def terms(self, theta: Array) -> Terms:
        out = self.outcomes
        models, features, has_tie = self.sizes
        d = theta[out.a] - theta[out.b]
        if features:
            d = d + out.f @ theta[models : models + features]
        return rao_kupper(d, out.points, float(theta[-1])) if has_tie else half_wins(d, out.points)

    def evaluate(self, theta: Array) -> tuple[float, Terms | None]:
        """The penalised −log-likelihood and its terms; (inf, None) where a tie has no width."""
        if self.ties == "rao-kupper" and theta[-1] <= 0:
            return np.inf, None
        terms = self.terms(theta)
        return float(self.outcomes.weight @ terms.loss + 0.5 * self.ridge @ theta**2), terms

    def gradient(self, terms: Terms, theta: Array) -> Array:
        out = self.outcomes
        slope = out.weight * terms.by_d
        models = np.bincount(out.a, slope, out.models) - np.bincount(out.b, slope, out.models)
        parts = [models, out.f.T @ slope]
        if terms.by_e is not None:
            parts.append(np.array([out.weight @ terms.by_e]))
        return np.concatenate(parts) + self.ridge * theta

    def hessian(self, terms: Terms) -> Array:
        weight = self.outcomes.weight
        ties = None
        if terms.by_de is not None and terms.by_ee is not None:
            ties = weight * terms.by_de, weight * terms.by_ee
        return self.moments(weight * terms.by_dd, ties) + np.diag(self.ridge)

    def scores(self, terms: Terms) -> Array:
        """G = Σ w²·s·sᵀ over battles, s the score of one: the middle of the sandwich."""
        by_d, by_e, square = terms.by_d, terms.by_e, self.outcomes.square
        ties = None if by_e is None else (square * by_d * by_e, square * by_e**2)
        return self.moments(square * by_d**2, ties)

    def moments(self, values: Array, ties: tuple[Array, Array] | None) -> Array:
        """Σ values·xxᵀ with x = (e_a − e_b, f), bordered by the tie's row where there is one."""
        out, (models, features, has_tie) = self.outcomes, self.sizes
        size = models + features + has_tie
        full = np.zeros((size, size))
        flat = np.bincount(out.a.astype(np.int64) * models + out.b, values, models * models)
        between = flat.reshape(models, models)
        between = between + between.T
        full[:models, :models] = np.diag(between.sum(axis=1)) - between
        if features:
            weighted = values[:, None] * out.f
            full[models : models + features, models : models + features] = out.f.T @ weighted
            for place in range(features):
                self._border(full, models + place, weighted[:, place])
        if ties is not None:
            self._border(full, size - 1, ties[0])
            full[models:-1, -1] = full[-1, models:-1] = out.f.T @ ties[0]
            full[-1, -1] = ties[1].sum()
        return full

    def _border(self, full: Array, place: int, values: Array) -> None:
        out = self.outcomes
        column = np.bincount(out.a, values, out.models) - np.bincount(out.b, values, out.models)
        full[: out.models, place] = full[place, : out.models] = column

    def gauge(self) -> Array:
        """Added to a Hessian it fixes Σξ of each group, and changes nothing else."""
        models = self.outcomes.models
        full = np.zeros((sum(self.sizes), sum(self.sizes)))
        full[:models, :models] = same_group(self.groups)
        return full


def same_group(groups: NDArray[np.int32]) -> Array:
    """[M, M] the projector on what is constant within groups: 1/|group| where two share one."""
    shared = groups[:, None] == groups[None, :]
    mean: Array = shared / shared.sum(axis=1, keepdims=True)
    return mean


def half_wins(d: Array, points: Array) -> Terms:
    # e^{−|d|} serves all of it. The loss is softplus(d) − points·d without a difference of large numbers.
    small = np.exp(-np.abs(d))
    share = small / (1 + small)  # of the one expected to lose
    loss = np.log1p(small) + points * np.maximum(-d, 0) + (1 - points) * np.maximum(d, 0)
    return Terms(loss, np.where(d < 0, share, 1 - share) - points, share / (1 + small))


def rao_kupper(d: Array, points: Array, eta: float) -> Terms:
    kept_by_a, kept_by_b = points > 0, points < 1  # a tie has a factor of both
    tie = kept_by_a & kept_by_b
    to_a, to_b = kept_by_a * expit(eta - d), kept_by_b * expit(eta + d)
    bend_a, bend_b = to_a * expit(d - eta), to_b * expit(-d - eta)
    loss = kept_by_a * np.logaddexp(0, eta - d) + kept_by_b * np.logaddexp(0, eta + d)
    return Terms(
        loss=loss - tie * (2 * eta + np.log(-np.expm1(-2 * eta))),
        by_d=to_b - to_a,
        by_dd=bend_a + bend_b,
        by_e=to_a + to_b + tie * (2 / np.expm1(-2 * eta)),
        by_de=bend_b - bend_a,
        by_ee=bend_a + bend_b + tie / np.sinh(eta) ** 2,
    )


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """Linear algebra on one thread: matrices as small as these only wait for each other on more, and the
    last bits of a result do not depend on how many there are."""
    return _libraries().limit(limits=1, user_api="blas")


def minimise(problem: Problem, start: Array | None = None) -> Array:
    """θ at the minimum, by Newton's method with steps kept short; the likelihoods here are convex."""
    models, features, has_tie = problem.sizes
    theta = np.zeros(models + features + has_tie) if start is None else start.copy()
    if has_tie and start is None:
        theta[-1] = 0.5
    with one_thread():
        return _newton(problem, theta)


def _newton(problem: Problem, theta: Array) -> Array:
    gauge = problem.gauge()
    loss, terms = problem.evaluate(theta)
    for _ in range(MOST_STEPS):
        if terms is None:
            raise DataError("the width of ties starts at 0 or less")
        gradient, hessian = problem.gradient(terms, theta), problem.hessian(terms)
        scale = float(np.mean(np.diag(hessian)[: problem.outcomes.models])) or 1.0
        step = cho_solve(cho_factor(hessian + scale * gauge), -gradient)
        # Far out the likelihood is flat, and what the curvature here says of there is nothing.
        length = min(1.0, LONGEST_STEP / max(float(np.max(np.abs(step))), LONGEST_STEP))
        whole, expected = length == 1.0, float(gradient @ step)
        while True:
            tried = theta + length * step
            lower, terms = problem.evaluate(tried)
            # Near the minimum a step changes the loss by less than its rounding, and is taken as it is.
            slight = -expected <= NO_CHANGE * (1 + abs(loss))
            if terms is not None and (slight or lower <= loss + 1e-4 * length * expected):
                break
            length, whole = length / 2, False
            if length < 1e-10:
                raise DataError(
                    "the ratings' likelihood cannot be maximised: weights or style counts are too extreme"
                )
        theta, loss = tried, lower
        if whole and np.max(np.abs(step)) < CLOSE_ENOUGH:
            return theta
    raise DataError(
        f"the ratings did not settle in {MOST_STEPS} Newton steps: weights or style counts are too extreme"
    )
