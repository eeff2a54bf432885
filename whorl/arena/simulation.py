"""Votes without people: judges that follow a script, over models whose strengths are known.

Because the truth is known it can be asked whether the ratings find it, and how often a 95 % interval holds
it. Judges with habits (a liking for the left, coin flips) move what even endless votes would show: that
limit, the best fit to the judges' own probabilities, is what an interval should hold then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from whorl.arena.battles import BOTH_BAD, MODEL_A, MODEL_B, TIE, Battles, Labels
from whorl.arena.likelihood import Array, Problem, minimise
from whorl.arena.outcomes import Outcomes
from whorl.arena.ratings import CENTRE, SCALE, Ratings, fit_bradley_terry
from whorl.arena.sampling import pair_sampler
from whorl.base.errors import InputError

STRENGTHS, VOTES = 0x57E6, 0x607E  # purposes of the random numbers
BOTH_BAD_SHARE = 0.4  # of ties: about what people say


@dataclass(frozen=True, kw_only=True)
class Judge:
    """P(model_a), P(model_b) and P(tie) as Rao and Kupper have them, of d = sharpness·(ξ_a − ξ_b) + left.

    `left` is a liking for model_a's side in log-odds, `tie_width` their η, and `noise` the share of votes
    cast by a fair coin without reading.
    """

    sharpness: float = 1.0
    left: float = 0.0
    noise: float = 0.0
    tie_width: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise <= 1:
            raise InputError(f"a judge's noise {self.noise} is not between 0 and 1")
        if self.tie_width < 0:
            raise InputError(f"a judge's tie_width {self.tie_width} is below 0")

    def probabilities(self, gap: Array) -> Array:
        """[..., 3] of model_a, model_b, tie for ξ_a − ξ_b = gap."""
        d = self.sharpness * gap + self.left
        a, b = expit(d - self.tie_width), expit(-d - self.tie_width)
        read = np.stack([a, b, 1 - a - b], axis=-1)
        coin = np.array([0.5, 0.5, 0.0])
        mixed: Array = (1 - self.noise) * read + self.noise * coin
        return mixed


def synthetic_strengths(models: int, spread: float = 150.0, seed: int = 0) -> dict[str, float]:
    """Names and true ratings in points: normal with this standard deviation, centred at 1000."""
    if models < 2:
        raise InputError(f"models {models}: a battle needs two")
    random = np.random.Generator(np.random.Philox(key=[seed, STRENGTHS]))
    values = random.normal(0, spread, models)
    values += CENTRE - values.mean()
    digits = len(str(models))
    return {f"model-{number + 1:0{digits}}": float(value) for number, value in enumerate(values)}


def simulate_battles(
    strengths: Mapping[str, float],
    judges: Sequence[Judge],
    count: int,
    *,
    seed: int = 0,
    stretch: int = 0,
    probability: Array | None = None,
) -> Battles:
    """`count` votes on pairs of models (true ratings in points) by judges that take turns at random.

    (`seed`, `stretch`) name the random numbers: stretches of one seed are different votes.

    `probability [M, M]` (symmetric; its upper triangle sums to 1, models in sorted order) says how likely
    each pair is drawn; by default all are alike. Sides are a coin's; the probability is logged.
    """
    if count < 1:
        raise InputError(f"battles {count}: there must be one or more")
    names = tuple(sorted(strengths))
    xi = np.array([strengths[name] for name in names]) / SCALE
    first, second = np.triu_indices(len(names), k=1)
    chance = np.full(len(first), 1 / len(first)) if probability is None else probability[first, second]
    random = np.random.Generator(np.random.Philox(key=[seed, VOTES], counter=[0, 0, 0, stretch]))
    pair = random.choice(len(first), count, p=chance)
    left_first = random.random(count) < 0.5
    a = np.where(left_first, first[pair], second[pair]).astype(np.int32)
    b = np.where(left_first, second[pair], first[pair]).astype(np.int32)
    who = random.integers(0, len(judges), count)
    chances = np.empty((count, 3))
    for number, judge in enumerate(judges):
        rows = who == number
        chances[rows] = judge.probabilities(xi[a[rows]] - xi[b[rows]])
    said = (random.random(count)[:, None] > np.cumsum(chances, axis=1)[:, :2]).sum(axis=1)
    bad = random.random(count) < BOTH_BAD_SHARE
    winner = np.choose(said, [MODEL_A, MODEL_B, np.where(bad, BOTH_BAD, TIE)]).astype(np.uint8)
    digits = len(str(len(judges)))
    return Battles(
        models=names,
        a=a,
        b=b,
        winner=winner,
        time=np.full(count, np.nan),
        probability=chance[pair],
        voter=Labels(
            tuple(f"judge-{number + 1:0{digits}}" for number in range(len(judges))), who.astype(np.int32)
        ),
        category=Labels.none(count),
        prompt=Labels.none(count),
        style=np.zeros((count, 0, 2)),
    )


def simulate_actively(
    strengths: Mapping[str, float],
    judges: Sequence[Judge],
    count: int,
    *,
    seed: int = 0,
    batches: int = 10,
) -> Battles:
    """As `simulate_battles`, the pairs drawn by `pair_sampler`, which looks again after every batch."""
    if count < 1 or batches < 1:
        raise InputError(f"battles {count}, batches {batches}: there must be one or more")
    names = tuple(sorted(strengths))
    first, second = np.triu_indices(len(names), k=1)
    ends = np.linspace(0, count, min(batches, count) + 1).astype(int)
    so_far = simulate_battles(strengths, judges, int(ends[1]), seed=seed)
    for number in range(1, len(ends) - 1):
        probability = np.zeros((len(names), len(names)))
        probability[first, second] = pair_sampler(names, so_far).probability
        part = int(ends[number + 1] - ends[number])
        drawn = simulate_battles(strengths, judges, part, seed=seed, stretch=number, probability=probability)
        so_far = so_far.followed_by(drawn)
    return so_far


def limit_of(strengths: Mapping[str, float], judges: Sequence[Judge]) -> dict[str, float]:
    """The ratings in points that endless votes of these judges on all pairs alike would give."""
    names = tuple(sorted(strengths))
    xi = np.array([strengths[name] for name in names]) / SCALE
    a, b = np.nonzero(~np.eye(len(names), dtype=bool))  # every pair, both ways round
    share = np.mean([judge.probabilities(xi[a] - xi[b]) @ [1.0, 0.0, 0.5] for judge in judges], axis=0)
    ends = (np.concatenate([a, a]).astype(np.int32), np.concatenate([b, b]).astype(np.int32))
    weight = np.concatenate([share, 1 - share])
    points = np.repeat([1.0, 0.0], len(a))
    outcomes = Outcomes(len(names), *ends, points, weight, weight, weight, np.zeros((len(weight), 0)))
    groups: NDArray[np.int32] = np.zeros(len(names), dtype=np.int32)
    theta = minimise(Problem(outcomes, "half", groups, np.zeros(len(names))))
    return {name: float(CENTRE + SCALE * value) for name, value in zip(names, theta, strict=True)}


@dataclass(frozen=True)
class Recovery:
    """How well ratings found the truth: `covered` of `intervals` held it; `tau` is Kendall's of the order."""

    covered: int
    intervals: int
    tau: float

    @property
    def coverage(self) -> float:
        return self.covered / self.intervals


def recovery(ratings: Ratings, truth: Mapping[str, float]) -> Recovery:
    """Of ratings of the models of `truth` (ratings in points with the same centre)."""
    from scipy.stats import kendalltau  # half a second to import

    values = np.array([truth[name] for name in ratings.models])
    inside = (ratings.low <= values) & (values <= ratings.high)
    tau = float(kendalltau(ratings.rating, values).statistic)
    return Recovery(int(inside.sum()), len(values), tau)


def coverage(
    strengths: Mapping[str, float],
    judges: Sequence[Judge],
    count: int,
    *,
    repeats: int,
    seed: int = 0,
    truth: Mapping[str, float] | None = None,
    **fit: Any,
) -> Recovery:
    """Over `repeats` sets of `count` votes: how many intervals held `truth` (the limit of these judges' votes
    with ties as half wins), and the mean τ."""
    truth = limit_of(strengths, judges) if truth is None else truth
    found = [
        recovery(fit_bradley_terry(simulate_battles(strengths, judges, count, seed=seed + n), **fit), truth)
        for n in range(1, repeats + 1)
    ]
    return Recovery(
        sum(one.covered for one in found),
        sum(one.intervals for one in found),
        float(np.mean([one.tau for one in found])),
    )
