"""Which source sample number i comes from: a fixed schedule, not a draw, and sought in O(log sources).

Proportions hold over every prefix to within one sample, so a short run sees the mixture that a long
one does, and the schedule needs no state: `at(i)` is arithmetic on a table of one period.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, gcd, isfinite, lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.base.errors import InputError

PERIOD = 1 << 16  # the longest table: weights are kept to one part in so many
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A named source of `size` samples; at most `epochs` passes over them are taken (None: no limit)."""

    name: str
    weight: float
    size: int
    epochs: float | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.weight) and self.weight > 0):
            raise InputError(f"mixture source {self.name!r}: weight must be above 0, not {self.weight}")
        if self.size < 1:
            raise InputError(f"mixture source {self.name!r} is empty; remove it or give it data")
        if self.epochs is not None and (not isfinite(self.epochs) or round(self.epochs * self.size) < 1):
            raise InputError(f"mixture source {self.name!r}: {self.epochs} epochs are less than one sample")

    @property
    def limit(self) -> int | None:
        """The most samples that may be taken from it."""
        return None if self.epochs is None else round(self.epochs * self.size)


@dataclass(frozen=True)
class _Phase:
    """A stretch in which the same sources take part: from `start`, with `taken` of each before it."""

    start: int
    members: list[int]
    taken: list[int]  # of every source of the mixture
    parts: list[int]  # of each member in one period
    schedule: Array  # [period]: the member each place belongs to
    ranks: Array  # [period]: how many of that member come before it in the period

    def count(self, member: int, places: int) -> int:
        """How many of the first `places` places are this member's."""
        periods, rest = divmod(places, len(self.schedule))
        return periods * self.parts[member] + int((self.schedule[:rest] == member).sum())

    def places_for(self, member: int, count: int) -> int:
        """The least number of places that hold `count` of this member."""
        periods, rest = divmod(count - 1, self.parts[member])
        return periods * len(self.schedule) + int(np.flatnonzero(self.schedule == member)[rest]) + 1


class Mixture:
    """Sources by weight. `at(i)` is (source number, sample number in it, counted on over its epochs).

    When a source has given all its epochs the others go on in their own proportions; when every source
    has, the mixture is at its `length` (None: it never ends).
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        if not sources:
            raise InputError("a mixture needs at least one source")
        names = [source.name for source in sources]
        if len(set(names)) < len(names):
            raise InputError(f"mixture source names must differ: {', '.join(names)}")
        self.sources = tuple(sources)
        self._phases: list[_Phase] = []
        self.length = self._plan()
        self._starts = [phase.start for phase in self._phases]

    def _plan(self) -> int | None:
        start, taken = 0, [0] * len(self.sources)
        members = list(range(len(self.sources)))
        while members:
            parts = _parts([self.sources[m].weight for m in members])
            schedule = _schedule(parts)
            phase = _Phase(start, members, taken, parts, schedule, _ranks(schedule, len(parts)))
            self._phases.append(phase)
            ends = [
                (phase.places_for(i, limit - taken[m]), m)
                for i, m in enumerate(members)
                if (limit := self.sources[m].limit) is not None
            ]
            if not ends:
                return None
            places, ended = min(ends)
            taken = list(taken)
            for i, m in enumerate(members):
                taken[m] += phase.count(i, places)
            start += places
            members = [m for m in members if m != ended]
        return start

    def at(self, number: int) -> tuple[int, int]:
        """The source of sample `number` and its number among that source's samples; `IndexError` past
        the end."""
        if number < 0 or (self.length is not None and number >= self.length):
            raise IndexError(f"sample {number} of a mixture of {self.length}")
        phase = self._phases[bisect_right(self._starts, number) - 1]
        periods, rest = divmod(number - phase.start, len(phase.schedule))
        member = int(phase.schedule[rest])
        source = phase.members[member]
        return source, phase.taken[source] + periods * phase.parts[member] + int(phase.ranks[rest])

    @property
    def shares(self) -> dict[str, Fraction]:
        """The proportions kept while every source takes part."""
        parts = self._phases[0].parts
        return {s.name: Fraction(n, sum(parts)) for s, n in zip(self.sources, parts, strict=True)}


def _parts(weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `weights`: exact where their sum can stay within `PERIOD`, else
    the nearest parts of `PERIOD`, at least one each."""
    exact = [Fraction(str(weight)) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    period = lcm(*(share.denominator for share in shares))
    if period <= PERIOD:
        return [int(share * period) for share in shares]
    parts = [max(1, floor(share * PERIOD)) for share in shares]
    missing = PERIOD - sum(parts)
    by_error = sorted(range(len(parts)), key=lambda i: (parts[i] - shares[i] * PERIOD, i))
    for i in by_error[: max(0, missing)]:
        parts[i] += 1
    common = gcd(*parts)
    return [part // common for part in parts]


def _schedule(parts: Sequence[int]) -> Array:
    """One period in which member j's count never strays from its share by a whole sample.

    Tijdeman 1980, "The chairman assignment problem": among the members whose due count exceeds what
    they had by 1/(2k-2) or more, the one whose deadline comes first; the deviation stays within
    1 - 1/(2k-2) for k members.
    """
    k, period = len(parts), sum(parts)
    if k == 1:
        return np.zeros(period, np.int32)
    unit = 2 * k - 2
    share = np.asarray(parts, np.int64)
    lag = np.zeros(k, np.int64)  # (due - had) in parts of 1 / period
    schedule = np.empty(period, np.int32)
    for place in range(period):
        lag += share
        deadline = np.where(lag * unit >= period, ((unit - 1) * period - lag * unit) / share, np.inf)
        chosen = int(deadline.argmin())
        lag[chosen] -= period
        schedule[place] = chosen
    return schedule


def _ranks(schedule: Array, members: int) -> Array:
    ranks = np.empty(len(schedule), np.int64)
    for member in range(members):
        places = np.flatnonzero(schedule == member)
        ranks[places] = np.arange(len(places))
    return ranks
