"""Battles: two models answered the same prompt and somebody said which was better.

`Battle` is one row as a person would write it; `Battles` is the same in columns, which is what
everything that counts works on: two million rows in a few arrays.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from whorl.base.errors import DataError, InputError
from whorl.base.fields import nearest

Winner = Literal["model_a", "model_b", "tie", "tie (bothbad)"]
WINNERS: tuple[Winner, ...] = ("model_a", "model_b", "tie", "tie (bothbad)")  # FastChat's words
MODEL_A, MODEL_B, TIE, BOTH_BAD = range(4)  # codes in `Battles.winner`
POINTS = np.array([1.0, 0.0, 0.5, 0.5])  # of model_a, by code: "both bad" counts as a tie


@dataclass(frozen=True, kw_only=True)
class Battle:
    """One vote between two models.

    `time` is in seconds since 1970; `probability` is that with which this (unordered) pair had been
    drawn when it was shown; `prompt` a text or its hash; `style` counts of (model_a's, model_b's) reply.
    What is not known stays None or empty.
    """

    model_a: str
    model_b: str
    winner: Winner
    time: float | None = None
    probability: float | None = None
    voter: str = ""
    category: str = ""
    prompt: str = ""
    style: tuple[tuple[str, float, float], ...] = ()  # (name, in a, in b)

    def __post_init__(self) -> None:
        if not self.model_a or not self.model_b:
            raise DataError("a battle needs two model names; one is empty")
        if self.model_a == self.model_b:
            raise DataError(f"a battle needs two models; {self.model_a!r} is paired with itself")
        if self.winner not in WINNERS:
            raise DataError(f"winner {self.winner!r} is not one of {', '.join(WINNERS)}")
        if self.time is not None and not math.isfinite(self.time):
            raise DataError(f"time {self.time} is not finite")
        if self.probability is not None and not 0 < self.probability <= 1:
            raise DataError(f"probability {self.probability} is not in (0, 1]")
        for name, in_a, in_b in self.style:
            if not (0 <= in_a < math.inf and 0 <= in_b < math.inf):
                raise DataError(f"style count {name!r} must be finite and 0 or more, not {in_a} and {in_b}")


class Vote(Protocol):
    """What a row needs to be read as a `Battle`, which is one; rows of a store of votes are others."""

    @property
    def model_a(self) -> str: ...
    @property
    def model_b(self) -> str: ...
    @property
    def winner(self) -> Winner: ...
    @property
    def time(self) -> float | None: ...
    @property
    def probability(self) -> float | None: ...
    @property
    def voter(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def style(self) -> tuple[tuple[str, float, float], ...]: ...


class Labels(NamedTuple):
    """A column of words: the sorted names there are, and each row's place among them (-1: none)."""

    names: tuple[str, ...]
    codes: NDArray[np.int32]

    @classmethod
    def of(cls, words: Sequence[str]) -> Labels:
        """Encode a column; the empty word is none."""
        seen: dict[str, int] = {}
        index = np.fromiter((seen.setdefault(word, len(seen)) for word in words), np.int32, len(words))
        names = sorted(word for word in seen if word)
        place = np.full(len(seen) + 1, -1, dtype=np.int32)
        for number, name in enumerate(names):
            place[seen[name]] = number
        return cls(tuple(names), place[index])

    @classmethod
    def none(cls, count: int) -> Labels:
        return cls((), np.full(count, -1, dtype=np.int32))

    def take(self, rows: NDArray[np.intp]) -> Labels:
        return Labels(self.names, self.codes[rows])


@dataclass(frozen=True, eq=False)
class Battles:
    """N battles in columns. `models` is sorted, so that a board never depends on who came first."""

    models: tuple[str, ...]
    a: NDArray[np.int32]  # [N] place in `models`
    b: NDArray[np.int32]  # [N]
    winner: NDArray[np.uint8]  # [N] MODEL_A, MODEL_B, TIE or BOTH_BAD
    time: NDArray[np.float64]  # [N] seconds since 1970, nan where unknown
    probability: NDArray[np.float64]  # [N] of the pair, nan where unknown
    voter: Labels
    category: Labels
    prompt: Labels
    style_names: tuple[str, ...] = ()
    style: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0, 2)))  # [N, F, 2] counts

    @classmethod
    def from_columns(
        cls,
        model_a: Sequence[str],
        model_b: Sequence[str],
        winner: ArrayLike,
        *,
        time: ArrayLike | None = None,
        probability: ArrayLike | None = None,
        voter: Sequence[str] | None = None,
        category: Sequence[str] | None = None,
        prompt: Sequence[str] | None = None,
        style_names: tuple[str, ...] = (),
        style: ArrayLike | None = None,
    ) -> Battles:
        """From names and codes (`MODEL_A`, …); checked as columns, as `Battle` checks one row."""
        count = len(model_a)
        both = Labels.of([*model_a, *model_b])
        a, b = both.codes[:count], both.codes[count:]
        if len(model_b) != count or np.any(both.codes < 0):
            raise DataError("each battle needs two model names; some are empty")
        if np.any(a == b):
            raise DataError(f"battle {int(np.argmax(a == b)) + 1} pairs a model with itself")

        def numbers(column: ArrayLike | None) -> NDArray[np.float64]:
            return np.full(count, np.nan) if column is None else np.asarray(column, dtype=np.float64)

        def labels(column: Sequence[str] | None) -> Labels:
            return Labels.none(count) if column is None else Labels.of(column)

        return cls(
            models=both.names,
            a=a,
            b=b,
            winner=np.asarray(winner, dtype=np.uint8),
            time=numbers(time),
            probability=numbers(probability),
            voter=labels(voter),
            category=labels(category),
            prompt=labels(prompt),
            style_names=style_names,
            style=np.zeros((count, 0, 2)) if style is None else np.asarray(style, dtype=np.float64),
        )

    @classmethod
    def from_rows(cls, rows: Iterable[Vote]) -> Battles:
        """From `Battle`s or other rows with their fields. A style count counts when every row has it."""
        battles = list(rows)
        styles = [{name: (in_a, in_b) for name, in_a, in_b in row.style} for row in battles]
        names = tuple(sorted(set.intersection(*map(set, styles)))) if styles else ()
        counts = [[style[name] for name in names] for style in styles]
        return cls.from_columns(
            [row.model_a for row in battles],
            [row.model_b for row in battles],
            [WINNERS.index(row.winner) for row in battles],
            time=[np.nan if row.time is None else row.time for row in battles],
            probability=[np.nan if row.probability is None else row.probability for row in battles],
            voter=[row.voter for row in battles],
            category=[row.category for row in battles],
            prompt=[row.prompt for row in battles],
            style_names=names,
            style=np.array(counts, dtype=np.float64).reshape(len(battles), len(names), 2),
        )

    def __post_init__(self) -> None:
        count = len(self.a)
        columns = (self.b, self.winner, self.time, self.probability, self.style)
        labels = (self.voter.codes, self.category.codes, self.prompt.codes)
        if any(len(column) != count for column in (*columns, *labels)):
            raise DataError("the columns of battles differ in length")
        if np.any(self.winner > BOTH_BAD):
            raise DataError(f"winner codes go from {MODEL_A} to {BOTH_BAD}")
        if np.any((self.probability <= 0) | (self.probability > 1)):  # nan is neither
            raise DataError("the probability of a pair must be in (0, 1]")

    def __len__(self) -> int:
        return len(self.a)

    @property
    def points(self) -> NDArray[np.float64]:
        """[N] 1, ½ or 0: what model_a got."""
        return POINTS[self.winner]

    def take(self, rows: ArrayLike) -> Battles:
        """The battles at these places, or where a mask is true; models without one are left out."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.intp)
        a, b = self.a[chosen], self.b[chosen]
        here = np.zeros(len(self.models), dtype=bool)
        here[a] = here[b] = True
        place = (np.cumsum(here) - 1).astype(np.int32)
        return replace(
            self,
            models=tuple(name for name, there in zip(self.models, here, strict=True) if there),
            a=place[a],
            b=place[b],
            winner=self.winner[chosen],
            time=self.time[chosen],
            probability=self.probability[chosen],
            voter=self.voter.take(chosen),
            category=self.category.take(chosen),
            prompt=self.prompt.take(chosen),
            style=self.style[chosen],
        )

    def followed_by(self, other: Battles) -> Battles:
        """These and then those, which are of the same models, voters, categories, prompts and counts."""
        for mine, theirs in zip(self._names(), other._names(), strict=True):
            if mine != theirs:
                raise DataError("battles can only be joined where they have the same names in the same order")

        def joined(mine: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
            return np.concatenate([mine, theirs])

        return replace(
            self,
            a=joined(self.a, other.a),
            b=joined(self.b, other.b),
            winner=joined(self.winner, other.winner),
            time=joined(self.time, other.time),
            probability=joined(self.probability, other.probability),
            voter=Labels(self.voter.names, joined(self.voter.codes, other.voter.codes)),
            category=Labels(self.category.names, joined(self.category.codes, other.category.codes)),
            prompt=Labels(self.prompt.names, joined(self.prompt.codes, other.prompt.codes)),
            style=joined(self.style, other.style),
        )

    def _names(self) -> tuple[tuple[str, ...], ...]:
        return self.models, self.voter.names, self.category.names, self.prompt.names, self.style_names

    def compact(self) -> Battles:
        """Without models that have no battle; itself where there are none such."""
        here = np.zeros(len(self.models), dtype=bool)
        here[self.a] = here[self.b] = True
        return self if here.all() else self.take(np.arange(len(self)))

    def of_category(self, name: str) -> Battles:
        """Those of one category; an unknown one is an InputError with the nearest."""
        if name not in self.category.names:
            if not self.category.names:
                raise InputError(f"category {name!r}: no battle has a category")
            raise InputError(f"no battle has category {name!r}{nearest(name, self.category.names)}")
        return self.take(self.category.codes == self.category.names.index(name))

    def until(self, time: float) -> Battles:
        """Those up to and at `time`; ones without a time are left out."""
        return self.take(self.time <= time)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that can move a rating, in this order: names a set of battles."""
        state = hashlib.sha256()
        for names in self._names():
            state.update(("\x1f".join(names) + "\x1e").encode("utf-8", "surrogatepass"))
        indices = (self.a, self.b, self.voter.codes, self.category.codes, self.prompt.codes)
        for column in (*(index.astype("<i4") for index in indices), self.winner):
            state.update(column.tobytes())
        for numbers in (self.time, self.probability, self.style):
            state.update(numbers.astype("<f8").tobytes())
        return state.hexdigest()
