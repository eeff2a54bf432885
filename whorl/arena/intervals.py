"""How sure a rating is: sandwich, bootstrap and simultaneous intervals, and the rank they allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import gammaincinv, ndtri

from whorl.arena.likelihood import Array, Problem, minimise, one_thread, same_group

if TYPE_CHECKING:
    from whorl.arena.config import Interval

BOOTSTRAP = 0xB007  # purpose of the random numbers
LEVEL = 1e-6  # points within which two ends are the same number, whatever a machine rounds
BOOTSTRAP_RIDGE = 1e-3  # a resample may leave a model without a loss; this keeps it finite


def covariance(problem: Problem, theta: Array) -> tuple[Array, Array]:
    """(V = H⁻¹ G H⁻¹, H⁻¹) of θ, with Σξ = 0 within each group (White 1982; Huber 1967).

    H is the likelihood's curvature and G = Σ w²·s·sᵀ the spread of the votes' scores, so V holds where
    people do not vote as Bradley and Terry have it, and whatever the weights.
    """
    terms = problem.terms(theta)
    hessian = problem.hessian(terms)
    models = problem.outcomes.models
    scale = float(np.mean(np.diag(hessian)[:models])) or 1.0
    size = len(theta)
    centre = np.eye(size)
    centre[:models, :models] -= same_group(problem.groups)
    with one_thread():
        inverse = cho_solve(cho_factor(hessian + scale * problem.gauge()), np.eye(size))
        inverse = centre @ inverse @ centre
        return symmetric(inverse @ problem.scores(terms) @ inverse), symmetric(inverse)


def symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def bootstrap(problem: Problem, theta: Array, rounds: int, seed: int) -> Array:
    """[rounds, len θ] refits to votes drawn again: multinomial over the different outcomes."""
    out = problem.outcomes
    drawn_from = out.count / out.battles
    samples = np.empty((rounds, len(theta)))
    for number in range(rounds):
        key = np.random.Philox(key=[seed, BOOTSTRAP], counter=[0, 0, 0, number])
        counts = np.random.Generator(key).multinomial(int(out.battles), drawn_from)
        samples[number] = _refit(problem, theta, counts.astype(np.float64))
    samples[:, : out.models] -= samples[:, : out.models] @ same_group(problem.groups)
    return samples


def _refit(problem: Problem, theta: Array, count: Array) -> Array:
    """θ at the minimum for outcomes seen `count` times."""
    out = problem.outcomes.recounted(count)
    ridge = problem.ridge + np.where(np.arange(len(theta)) < out.models, BOOTSTRAP_RIDGE, 0.0)
    if problem.ties == "rao-kupper" and not out.weight[out.points == 0.5].any():
        # A resample without a tie has no width of one: its minimum is at η = 0, plain Bradley and Terry's.
        plain = Problem(out, "half", problem.groups, ridge[:-1])
        return np.append(minimise(plain, theta[:-1]), 0.0)
    return minimise(Problem(out, problem.ties, problem.groups, ridge), theta)


def half_width(interval: Interval, level: float, models: int, groups: int) -> float:
    """How many standard errors an interval reaches to each side.

    "simultaneous" is the projection of {ξ : (ξ̂ − ξ)ᵀ V⁻¹ (ξ̂ − ξ) ≤ χ²} with a degree of freedom for each
    model but one of its group: with probability `level` every model is inside its interval at once.
    """
    if interval == "simultaneous":
        # χ²'s quantile, as scipy.stats has it, whose import takes half a second.
        return float(np.sqrt(2 * gammaincinv(max(models - groups, 1) / 2, level)))
    return float(ndtri((1 + level) / 2))


def ranks(low: Array, high: Array, groups: NDArray[np.int32]) -> NDArray[np.int64]:
    """[M] 1 + how many models of the same group have an interval (in points) wholly above this one's."""
    above = (low[None, :] > high[:, None] + LEVEL) & (groups[None, :] == groups[:, None])
    counted: NDArray[np.int64] = 1 + above.sum(axis=1)
    return counted
