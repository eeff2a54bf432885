"""Bradley–Terry ratings from battles: `fit_bradley_terry(battles) -> Ratings`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from whorl.arena.battles import Battles, Vote
from whorl.arena.intervals import bootstrap, covariance, half_width, ranks
from whorl.arena.likelihood import Array, minimise
from whorl.arena.outcomes import collapse, cut_prompts
from whorl.arena.posing import Posed, pose
from whorl.arena.style import style_features
from whorl.base.errors import InputError
from whorl.base.fields import nearest

if TYPE_CHECKING:
    from whorl.arena.config import Interval, Ties, Weights

SCALE = 400 / np.log(10)  # points per natural log-odds: 400 points are odds of ten to one
CENTRE = 1000.0


@dataclass(frozen=True, eq=False)
class Ratings:
    """M models' ratings in points (CENTRE + SCALE·ξ) with intervals, in the order of `models`.

    `low` is −inf for models that never took a point from the others, `high` inf for ones that never
    gave one. Models of different `group` never met, not even through others: their ratings cannot be
    compared, each group is centred by itself, and ranks count within it. `notes` say such things.
    """

    models: tuple[str, ...]
    rating: Array
    low: Array
    high: Array
    rank: NDArray[np.int64]
    battles: NDArray[np.int64]
    group: NDArray[np.int32]
    strength: Array  # [M] ξ, Σξ = 0 within each group
    covariance: Array  # [M, M] of ξ
    style: dict[str, tuple[float, float, float]]  # name -> (β, low, high), in log-odds
    tie_width: float  # Rao and Kupper's η; 0 where ties are half wins
    votes: int  # battles that were counted
    level: float
    notes: tuple[str, ...] = field(default=())

    @property
    def order(self) -> list[int]:
        """Places in `models`, best first: by group (the largest first), rating, name."""
        size = np.bincount(self.group)
        key = [
            (-size[group], group, -round(rating, 6), name)
            for group, rating, name in zip(self.group, self.rating, self.models, strict=True)
        ]
        return sorted(range(len(self.models)), key=key.__getitem__)

    def rows(self) -> list[dict[str, Any]]:
        """`{model, rating, low, high, rank, battles}`, best first; an open end is None."""

        def number(value: float) -> float | None:
            return round(float(value), 2) if np.isfinite(value) else None

        return [
            {
                "model": self.models[place],
                "rating": number(self.rating[place]),
                "low": number(self.low[place]),
                "high": number(self.high[place]),
                "rank": int(self.rank[place]),
                "battles": int(self.battles[place]),
            }
            for place in self.order
        ]

    def place(self, model: str) -> int:
        if model not in self.models:
            raise InputError(f"model {model!r} has no battle here{nearest(model, self.models)}")
        return self.models.index(model)

    def anchored(self, model: str, rating: float) -> Ratings:
        """The same scale moved so that `model` has `rating`; only its own group moves."""
        place = self.place(model)
        shift = np.where(self.group == self.group[place], rating - self.rating[place], 0.0)
        return replace(self, rating=self.rating + shift, low=self.low + shift, high=self.high + shift)

    def difference(self, model: str, other: str) -> tuple[float, float, float]:
        """(points that `model` is above `other`, low, high): tighter than two intervals apart suggest, since
        what both share, such as how far away a third model is, cancels."""
        gap, error = self.contrast(model, other)
        reach = ndtri((1 + self.level) / 2) * error
        return gap, float(gap - reach), float(gap + reach)

    def contrast(self, model: str, other: str) -> tuple[float, float]:
        """(points that `model` is above `other`, the standard error of this difference)."""
        i, j = self.place(model), self.place(other)
        variance = self.covariance[i, i] + self.covariance[j, j] - 2 * self.covariance[i, j]
        gap = SCALE * (self.strength[i] - self.strength[j])
        return float(gap), float(SCALE * np.sqrt(max(variance, 0.0)))

    def probability(self) -> Array:
        """[M, M] the expected points of the row's model against the column's (½ against itself)."""
        d = self.strength[:, None] - self.strength[None, :]
        expected: Array = (expit(d - self.tie_width) + expit(d + self.tie_width)) / 2
        return expected


def fit_bradley_terry(
    battles: Battles | Iterable[Vote],
    *,
    ties: Ties = "half",
    weights: Weights = "equal",
    style: Sequence[str] = (),
    interval: Interval = "sandwich",
    level: float = 0.95,
    rounds: int = 1000,
    seed: int = 0,
    anchor: str | None = None,
    anchor_rating: float = CENTRE,
    cut_repeated_prompts: bool = True,
) -> Ratings:
    """Ratings by maximum likelihood, deterministic in its arguments.

    `ties`: as half wins, or by Rao and Kupper's model with its own width of a tie. `weights`: "propensity"
    weighs a battle by 1 / P(its pair was sampled). `style` names counts to control for. `interval`:
    "sandwich" (robust), "bootstrap" (`rounds` refits, quantiles) or "simultaneous" (all models at once).
    `anchor` moves the whole scale so that this model has `anchor_rating`; intervals keep their width.
    Raises `InputError` for no battles, an unknown anchor or style, or arguments out of range.
    """
    battles = battles if isinstance(battles, Battles) else Battles.from_rows(battles)
    if not 0 < level < 1:
        raise InputError(f"level {level} is not between 0 and 1; 0.95 is usual")
    if interval == "bootstrap" and rounds < 20:
        raise InputError(f"rounds {rounds} is too few for quantiles; use 20 or more (1000 is usual)")
    if not len(battles):
        raise InputError("there are no battles to rate")
    battles = battles.compact()
    surplus = 0
    if cut_repeated_prompts:
        battles, surplus = cut_prompts(battles)
    outcomes = collapse(battles, weights, style_features(battles, style) if style else None)
    posed = pose(outcomes, ties, battles.models)
    if surplus:
        posed.notes.append(f"{surplus:,} battles left out: their prompts were asked far too often")
    theta = minimise(posed.problem)
    spread, own = posed.spread(*covariance(posed.problem, theta), theta)
    reach = half_width(interval, level, outcomes.models, posed.groups) * np.sqrt(np.maximum(own, 0.0))
    low, high = theta - reach, theta + reach
    if interval == "bootstrap":
        low, high = _quantiles(posed, theta, low, high, level, rounds, seed)
    many = outcomes.models
    open_low, open_high = posed.open_ends
    low[:many][open_low], high[:many][open_high] = -np.inf, np.inf
    lower, upper = CENTRE + SCALE * low[:many], CENTRE + SCALE * high[:many]
    ratings = Ratings(
        models=battles.models,
        rating=CENTRE + SCALE * theta[:many],
        low=lower,
        high=upper,
        rank=ranks(lower, upper, posed.problem.groups),
        battles=outcomes.per_model(),
        group=posed.problem.groups,
        strength=theta[:many],
        covariance=spread[:many, :many],
        style={
            name: (float(theta[many + k]), float(low[many + k]), float(high[many + k]))
            for k, name in enumerate(style)
        },
        tie_width=float(theta[-1]) if posed.problem.ties == "rao-kupper" else 0.0,
        votes=len(battles),
        level=level,
        notes=tuple(posed.notes),
    )
    return ratings if anchor is None else ratings.anchored(anchor, anchor_rating)


def _quantiles(
    posed: Posed, theta: Array, low: Array, high: Array, level: float, rounds: int, seed: int
) -> tuple[Array, Array]:
    """Bootstrap intervals; where a model only won, lost or tied resamples hardly vary: the wider counts."""
    samples = bootstrap(posed.problem, theta, rounds, seed)
    # Weibull's plotting positions, k / (n + 1): between neighbouring samples of n, numpy's own would hold
    # n − 1 parts of n + 1 and so too few, 93 % for 95 % of 100.
    lower, upper = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0, method="weibull")
    still = np.zeros(len(theta), dtype=bool)
    still[: len(posed.unbounded)] = posed.unbounded | posed.tied
    return np.where(still, np.minimum(low, lower), lower), np.where(still, np.maximum(high, upper), upper)
