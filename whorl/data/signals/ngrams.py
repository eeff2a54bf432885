"""Runs of words that come back, by prefix doubling on word numbers: exact, in numpy.

An n-gram that is repeated is made of two repeated (n-1)-grams side by side. So each length looks only
at the positions that the length before left over, and names an n-gram by the pair of numbers of its
two halves: no hash, no collision, and on ordinary text nearly all the work is at n = 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Repeated:
    """The places where an n-gram stands that stands elsewhere too.

    `positions` [R] are the words they begin at, ascending; `groups` [R] number which n-gram it is;
    `counts` [R] how often that one stands in the text (≥ 2), overlapping itself or not.
    """

    n: int
    positions: Ints
    groups: Ints
    counts: Ints

    def top(self) -> tuple[int, int]:
        """(position, count) of the n-gram that stands most often, of several the one met first;
        (0, 1) where none is repeated."""
        if not len(self.positions):
            return 0, 1
        best = int(self.counts.argmax())
        return int(self.positions[best]), int(self.counts[best])

    def covered(self, words: int) -> NDArray[np.bool_]:
        """[words]: whether a word is part of any repeated n-gram."""
        steps = np.zeros(words + self.n + 1, np.int64)
        steps[self.positions] += 1
        steps[self.positions + self.n] -= 1
        return steps.cumsum()[:words] > 0

    def walk(self, ends: Ints) -> int:
        """Characters of n-grams that were met before, reading from the left and jumping over each one
        found: Gopher's duplicate n-grams as datatrove counts them. `ends` [words + 1] are the words'
        cumulated lengths, from 0."""
        seen: set[int] = set()
        free = characters = 0
        sizes = ends[self.positions + self.n] - ends[self.positions]
        for position, group, size in zip(
            self.positions.tolist(), self.groups.tolist(), sizes.tolist(), strict=True
        ):
            if position < free:
                continue
            if group in seen:
                characters += size
                free = position + self.n
            else:
                seen.add(group)
        return characters


def repeated_ngrams(ids: Ints, longest: int) -> Iterator[Repeated]:
    """`Repeated` for n = 2, 3, …, `longest` over word numbers `ids` [N], each in 0 … 2³¹ - 1."""
    positions = np.arange(len(ids))
    groups = ids
    for n in range(2, longest + 1):
        if not len(positions):
            keys = positions  # nothing shorter is repeated
        elif n == 2:
            positions, keys = positions[:-1], (groups[:-1] << 32) | groups[1:]
        else:
            (neighbours,) = (positions[1:] - positions[:-1] == 1).nonzero()
            positions, keys = positions[neighbours], (groups[neighbours] << 32) | groups[neighbours + 1]
        positions, groups, counts = _keep_repeated(positions, keys)
        yield Repeated(n, positions, groups, counts)


def _keep_repeated(positions: Ints, keys: Ints) -> tuple[Ints, Ints, Ints]:
    if len(keys) < 2:  # one cannot be repeated
        return positions[:0], keys[:0], keys[:0]
    order = keys.argsort()
    ordered = keys[order]
    first = np.empty(len(keys), np.bool_)  # the first of its kind in sorted order
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    ranks = first.cumsum() - 1
    groups = np.empty_like(keys)
    groups[order] = ranks
    counts = np.bincount(ranks)[groups]
    (kept,) = (counts > 1).nonzero()
    return positions[kept], groups[kept], counts[kept]
