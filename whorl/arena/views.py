"""Other sights of the same votes: who beat whom, and how ratings moved with time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.arena.battles import Battles, Vote
from whorl.arena.outcomes import summed
from whorl.arena.ratings import Ratings, fit_bradley_terry
from whorl.base.errors import InputError


@dataclass(frozen=True, eq=False)
class WinMatrix:
    """[M, M] of the row's model against the column's: battles, points (a tie is ½) and their share."""

    models: tuple[str, ...]
    battles: NDArray[np.int64]
    points: NDArray[np.float64]

    @property
    def share(self) -> NDArray[np.float64]:
        """Points per battle; nan where two never met."""
        met = self.battles > 0
        return np.divide(self.points, self.battles, out=np.full(self.points.shape, np.nan), where=met)


def win_matrix(battles: Battles | Iterable[Vote]) -> WinMatrix:
    """Who beat whom how often, models in the order of `Battles.models` (sorted)."""
    battles = battles if isinstance(battles, Battles) else Battles.from_rows(battles)
    many = len(battles.models)
    pair = battles.a.astype(np.int64) * many + battles.b
    shape = (many, many)
    met: NDArray[np.int64] = np.bincount(pair, minlength=many * many).reshape(shape)
    points = summed(pair, battles.points, many * many).reshape(shape)
    against = summed(pair, 1 - battles.points, many * many).reshape(shape)
    return WinMatrix(battles.models, met + met.T, points + against.T)


@dataclass(frozen=True, eq=False)
class Timeline:
    """[T, M] ratings from the votes up to each time; nan before a model's first battle."""

    models: tuple[str, ...]
    times: NDArray[np.float64]  # [T] seconds since 1970
    rating: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def ratings_over_time(
    battles: Battles | Iterable[Vote], times: Sequence[float] | int = 12, **fit: Any
) -> Timeline:
    """Fits at `times`, or at so many moments that part the votes evenly; `fit` as `fit_bradley_terry` has it.

    Battles without a time are left out; where none has one it is an `InputError`.
    """
    battles = battles if isinstance(battles, Battles) else Battles.from_rows(battles)
    known = battles.take(np.isfinite(battles.time))
    if not len(known):
        raise InputError("no battle has a time, which ratings over time need")
    if isinstance(times, int):
        if times < 1:
            raise InputError(f"times {times} must be 1 or more")
        shares = np.arange(1, times + 1) / times
        moments = np.unique(np.quantile(known.time, shares, method="inverted_cdf"))
    else:
        moments = np.unique(np.asarray(times, dtype=np.float64))
    columns = np.full((3, len(moments), len(known.models)), np.nan)
    place = {model: number for number, model in enumerate(known.models)}
    for row, moment in enumerate(moments):
        until = known.until(float(moment))
        if not len(until):
            continue
        ratings = fit_bradley_terry(until, **_known_anchor(fit, until))
        where = [place[model] for model in ratings.models]
        for column, values in zip(columns, (ratings.rating, ratings.low, ratings.high), strict=True):
            column[row, where] = values
    return Timeline(known.models, moments, *columns)


def _known_anchor(fit: dict[str, Any], battles: Battles) -> dict[str, Any]:
    """Before the anchor's first battle there is nothing to hold the scale by: it is centred."""
    return {**fit, "anchor": None} if fit.get("anchor") not in (None, *battles.models) else fit


def ratings_by_category(battles: Battles | Iterable[Vote], **fit: Any) -> dict[str, Ratings]:
    """A fit for each category that has battles, by name."""
    battles = battles if isinstance(battles, Battles) else Battles.from_rows(battles)
    found: dict[str, Ratings] = {}
    for number, name in enumerate(battles.category.names):
        rows = battles.category.codes == number
        if rows.any():
            part = battles.take(rows)
            found[name] = fit_bradley_terry(part, **_known_anchor(fit, part))
    return found
