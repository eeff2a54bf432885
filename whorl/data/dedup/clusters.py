"""Disjoint sets of document numbers, by union-find; a set is known by its smallest number."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class Clusters:
    """Sets over 0 … count - 1, each number alone at first.

    The root of a set is its smallest member: the first of its documents in reading order, whatever
    the order of the joins.
    """

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count, dtype=np.int64)

    def find(self, number: int) -> int:
        """The root of the set `number` is in."""
        parent = self.parent
        while (above := int(parent[number])) != number:
            parent[number] = parent[above]  # halve the path
            number = int(parent[number])
        return number

    def join(self, one: int, other: int) -> None:
        """Make one set of the two that `one` and `other` are in."""
        one, other = self.find(one), self.find(other)
        if one != other:
            self.parent[max(one, other)] = min(one, other)

    def join_all(self, numbers: Iterable[int]) -> None:
        """Make one set of all the sets `numbers` are in."""
        first: int | None = None
        for number in numbers:
            if first is None:
                first = int(number)
            else:
                self.join(first, int(number))

    def roots(self) -> np.ndarray:
        """int64 [count]: the root of every number's set."""
        parent = self.parent
        while not np.array_equal(above := parent[parent], parent):
            parent = above
        self.parent = parent
        return parent
