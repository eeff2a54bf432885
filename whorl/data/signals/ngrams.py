"""Runs of words that come back, by prefix doubling on word numbers: exact, in numpy.

An n-gram that is repeated is made of two repeated (n-1)-grams side by side. So each length looks only
at the positions that the length before left over, and names an n-gram by the pair of numbers of its
two halves: no hash, no collision, and on ordinary text nearly all the work is at n = 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
_NONE: Ints = np.zeros(0, np.int64)


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

    def characters(self, ends: Ints) -> int:
        """Characters of the words that are part of any repeated n-gram, each counted once. `ends`
        [words + 1] are the words' cumulated lengths, from 0."""
        stops = self.positions + self.n
        np.minimum(stops[:-1], self.positions[1:], out=stops[:-1])  # up to where the next one begins
        return int((ends[stops] - ends[self.positions]).sum())

    def walk(self, ends: Ints) -> int:
        """Characters of n-grams that were met before, reading from the left and jumping over each one
        found: Gopher's duplicate n-grams as datatrove counts them. At most `characters(ends)`."""
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


def repeated_ngrams(ids: Ints | Sequence[int], longest: int) -> Iterator[Repeated]:
    """`Repeated` for n = 2, 3, …, `longest` over word numbers `ids` [N], each in 0 … 2³¹ - 1."""
    positions = np.arange(len(ids))
    groups = np.asarray(ids, np.int64)
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
    """The positions whose key is not alone, in order, with the group each is in and that group's size."""
    order = keys.argsort()
    ordered = keys[order]
    again = np.zeros(len(keys), np.bool_)  # in sorted order: has the key of the one before
    np.equal(ordered[1:], ordered[:-1], out=again[1:])
    if not again.any():
        return _NONE, _NONE, _NONE
    shared = again.copy()
    shared[:-1] |= again[1:]
    (members,) = shared.nonzero()
    groups = (~again[members]).cumsum() - 1
    found = order[members]
    back = found.argsort()
    groups = groups[back]
    return positions[found[back]], groups, np.bincount(groups)[groups]
