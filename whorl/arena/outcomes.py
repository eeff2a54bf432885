"""From battles to what a likelihood needs: weights, and each different outcome once with its count.

Two million votes between 150 models have at most 33,525 different outcomes (pair × win, tie, loss), so
everything after this file costs the same whether people voted a thousand times or a thousand million.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from whorl.arena.battles import POINTS, WINNERS, Battles

if TYPE_CHECKING:
    from whorl.arena.config import Weights

FEWEST_OF_A_PAIR = 50  # a pair with fewer battles is weighted as if it had these
PROMPT_QUANTILE = 0.9999


@dataclass(frozen=True, eq=False)
class Outcomes:
    """n different outcomes of `models` models. `points` is what a got: 1, ½ or 0.

    `count` says how often each was seen, `weight` is Σw and `square` Σw² over its battles; the mean
    weight of a battle is 1. With style features `f [n, F]` every battle stays an outcome of its own.
    """

    models: int
    a: NDArray[np.int32]
    b: NDArray[np.int32]
    points: NDArray[np.float64]
    count: NDArray[np.float64]
    weight: NDArray[np.float64]
    square: NDArray[np.float64]
    f: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.a)

    @property
    def battles(self) -> float:
        return float(self.count.sum())

    def per_model(self) -> NDArray[np.int64]:
        """[M] battles of each model."""
        ends = np.bincount(self.a, self.count, self.models) + np.bincount(self.b, self.count, self.models)
        return np.rint(ends).astype(np.int64)

    def recounted(self, count: NDArray[np.float64]) -> Outcomes:
        """The same outcomes seen `count` times instead (a resample, or some votes dropped)."""
        share = count / self.count
        return replace(self, count=count, weight=self.weight * share, square=self.square * share)

    def groups(self) -> NDArray[np.int32]:
        """[M] which connected group each model is in: between groups no chain of battles leads."""
        return self._components(np.ones(len(self), dtype=bool), np.zeros(len(self), dtype=bool), "weak")

    def leagues(self) -> NDArray[np.int32]:
        """[M] which strongly connected part each model is in, where an edge is a point taken from.

        The likelihood has a finite maximum exactly when each group is one league (L. R. Ford, 1957):
        otherwise some models only ever won, or only lost, against all the others.
        """
        return self._components(self.points > 0, self.points < 1, "strong")

    def _components(
        self, forward: NDArray[np.bool_], back: NDArray[np.bool_], connection: str
    ) -> NDArray[np.int32]:
        seen = self.count > 0
        forward, back = forward & seen, back & seen
        rows = np.concatenate([self.a[forward], self.b[back]])
        columns = np.concatenate([self.b[forward], self.a[back]])
        graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(self.models, self.models))
        labels: NDArray[np.int32] = connected_components(graph.tocsr(), connection=connection)[1]
        return labels


def collapse(
    battles: Battles, weights: Weights = "equal", features: NDArray[np.float64] | None = None
) -> Outcomes:
    """The different outcomes of `battles` and their weights; `features [N, F]` keep each apart."""
    weight = propensity_weights(battles) if weights == "propensity" else None
    if features is not None and features.shape[1]:
        ones = np.ones(len(battles))
        each = ones if weight is None else weight
        return Outcomes(
            len(battles.models), battles.a, battles.b, battles.points, ones, each, each**2, features
        )
    many = len(battles.models)
    # First every (model_a, model_b, winner) as it was voted, in one pass over the votes; what two of these
    # mean alike is brought together afterwards, among at most 4·M² of them.
    codes = (battles.a.astype(np.int64) * many + battles.b) * len(WINNERS) + battles.winner
    if many * many * len(WINNERS) <= 4 * len(battles) + 1_000_000:
        there, places = np.arange(many * many * len(WINNERS)), codes
    else:  # thousands of models, few battles: the table of all pairs would be larger than the votes
        there, places = np.unique(codes, return_inverse=True)
    columns = [np.bincount(places, minlength=len(there)).astype(np.float64)]
    if weight is not None:
        columns += [summed(places, values, len(there)) for values in (weight, weight**2)]
    seen = np.flatnonzero(columns[0])
    pair, winner = np.divmod(there[seen], len(WINNERS))
    a, b = np.divmod(pair, many)
    points = POINTS[winner]
    alike = (np.minimum(a, b) * many + np.maximum(a, b)) * 3 + 2 * np.where(a > b, 1 - points, points)
    found, places = np.unique(alike.astype(np.int64), return_inverse=True)
    columns = [summed(places, column[seen], len(found)) for column in columns]
    pair, outcome = np.divmod(found, 3)
    return Outcomes(
        models=many,
        a=(pair // many).astype(np.int32),
        b=(pair % many).astype(np.int32),
        points=outcome / 2,
        count=columns[0],
        weight=columns[-2] if weight is not None else columns[0],
        square=columns[-1],
        f=np.zeros((len(found), 0)),
    )


def summed(places: NDArray[np.integer], values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """[size] the sum of `values` at each place."""
    return np.asarray(np.bincount(places, values, size), dtype=np.float64)


def propensity_weights(battles: Battles) -> NDArray[np.float64]:
    """[N] 1 / P(the pair was sampled), scaled to mean 1.

    Battles whose probability was not logged get 1 / P̂ with P̂ = max(n_pair, 50) / N over those
    battles: the share of votes that their pair has, with a floor so that a rare pair's few votes do
    not decide a board.
    """
    probability = battles.probability
    unknown = np.isnan(probability)
    if unknown.any():
        counts = of_pair(battles.a[unknown], battles.b[unknown], len(battles.models))
        probability = probability.copy()
        probability[unknown] = np.maximum(counts, FEWEST_OF_A_PAIR) / len(counts)
    weights = 1 / probability
    scaled: NDArray[np.float64] = weights / weights.mean()
    return scaled


def of_pair(a: NDArray[np.int32], b: NDArray[np.int32], models: int) -> NDArray[np.int64]:
    """[N] of each battle: how many its pair has, either way round."""
    codes = a.astype(np.int64) * models + b
    if models * models <= 4 * len(codes) + 1_000_000:
        one_way = np.bincount(codes, minlength=models * models).reshape(models, models)
        both: NDArray[np.int64] = (one_way + one_way.T).ravel()[codes]
        return both
    _, places, counts = np.unique(
        np.minimum(a, b).astype(np.int64) * models + np.maximum(a, b), return_inverse=True, return_counts=True
    )
    return np.asarray(counts[places], dtype=np.int64)


def cut_prompts(battles: Battles) -> tuple[Battles, int]:
    """Without the surplus of prompts asked far too often, and how many battles that were.

    A prompt may count as often as the one at the 99.99th percentile of prompts' counts; of one that has
    more, battles are kept at even steps through the log. Battles without a prompt all stay.
    """
    index = battles.prompt.codes
    counts = np.bincount(index[index >= 0], minlength=1)
    seen = counts[counts > 0]
    if not len(seen):
        return battles, 0
    # "higher": among fewer than 10,000 prompts that is the commonest itself, and nothing is cut.
    most = int(np.quantile(seen, PROMPT_QUANTILE, method="higher"))
    keep = np.ones(len(battles), dtype=bool)
    for prompt in np.flatnonzero(counts > most):
        rows = np.flatnonzero(index == prompt)
        keep[rows] = False
        keep[rows[np.arange(most) * len(rows) // most]] = True
    surplus = int((~keep).sum())
    return (battles.take(keep), surplus) if surplus else (battles, 0)
