"""Votes in columns that grow: what a new vote costs does not depend on how many there were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from whorl.arena.battles import WINNERS, Battles, Labels
from whorl.arena.store.records import BattleVote

FIRST_ROOM = 1024


class Words:
    """Words numbered as they come; `place()` is where each number stands among the sorted words."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._sorted: list[str] = []

    def number(self, word: str) -> int:
        """The empty word is none: -1."""
        if not word:
            return -1
        if word not in self._numbers:
            self._numbers[word] = len(self._numbers)
            self._sorted.append(word)
        return self._numbers[word]

    def labels(self, numbers: NDArray[np.int32]) -> Labels:
        """The column as `Labels.of` makes it from the words themselves."""
        self._sorted.sort()  # all but the newest are in order already, which this sort is quick at
        place = np.full(len(self._sorted) + 1, -1, dtype=np.int32)  # the last: for -1
        order = np.fromiter((self._numbers[word] for word in self._sorted), np.intp, len(self._sorted))
        place[order] = np.arange(len(order), dtype=np.int32)
        return Labels(tuple(self._sorted), place[numbers])


class VoteColumns:
    """Rows are appended in the order of the log; `battles()` equals `Battles.from_rows` of them all."""

    def __init__(self) -> None:
        self._count = 0
        self._models, self._voters, self._categories, self._prompts = Words(), Words(), Words(), Words()
        self._codes = np.zeros((FIRST_ROOM, 6), dtype=np.int32)  # a, b, winner, voter, category, prompt
        self._numbers = np.zeros((FIRST_ROOM, 2))  # time, probability
        self._seq = np.zeros(FIRST_ROOM, dtype=np.int64)
        self._style_names: tuple[str, ...] | None = None
        self._style = np.zeros((FIRST_ROOM, 0, 2))

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Sequence[BattleVote]) -> None:
        if not rows:
            return
        end = self._count + len(rows)
        self._make_room(end)
        new = slice(self._count, end)
        self._seq[new] = [row.seq for row in rows]
        self._numbers[new] = [(row.time, row.probability) for row in rows]
        self._codes[new] = [
            (
                self._models.number(row.model_a), self._models.number(row.model_b),
                WINNERS.index(row.winner), self._voters.number(row.voter),
                self._categories.number(row.category), self._prompts.number(row.prompt),
            )
            for row in rows
        ]  # fmt: skip
        self._append_style(rows, new)
        self._count = end

    def _append_style(self, rows: Sequence[BattleVote], new: slice) -> None:
        """Only counts that every row has are kept, as in `Battles.from_rows`."""
        counted = [{name: (in_a, in_b) for name, in_a, in_b in row.style} for row in rows]
        shared = set.intersection(*map(set, counted))
        if self._style_names is None:
            self._style_names = tuple(sorted(shared))
            self._style = np.zeros((len(self._seq), len(self._style_names), 2))
        kept = tuple(name for name in self._style_names if name in shared)
        if kept != self._style_names:
            self._style = self._style[:, [self._style_names.index(name) for name in kept]]
            self._style_names = kept
        if kept:
            self._style[new] = [[one[name] for name in kept] for one in counted]

    def _make_room(self, wanted: int) -> None:
        """Twice the room each time: the copying is spread over as many appends."""
        if wanted <= len(self._seq):
            return
        more = max(wanted, 2 * len(self._seq)) - len(self._seq)
        self._codes = np.concatenate([self._codes, np.zeros((more, 6), dtype=np.int32)])
        self._numbers = np.concatenate([self._numbers, np.zeros((more, 2))])
        self._seq = np.concatenate([self._seq, np.zeros(more, dtype=np.int64)])
        self._style = np.concatenate([self._style, np.zeros((more, *self._style.shape[1:]))])

    def battles(self, until: int | None = None) -> Battles:
        """All, or those up to and with a `seq`; their arrays are copies and stay as they are."""
        count = self._count
        if until is not None:
            count = int(np.searchsorted(self._seq[:count], until, side="right"))
        codes, numbers = self._codes[:count], self._numbers[:count]
        both = self._models.labels(codes[:, :2].ravel())
        found = Battles(
            models=both.names, a=both.codes[::2].copy(), b=both.codes[1::2].copy(),
            winner=codes[:, 2].astype(np.uint8), time=numbers[:, 0].copy(), probability=numbers[:, 1].copy(),
            voter=self._voters.labels(codes[:, 3]), category=self._categories.labels(codes[:, 4]),
            prompt=self._prompts.labels(codes[:, 5]), style_names=self._style_names or (),
            style=self._style[:count].copy(),
        )  # fmt: skip
        return found if count == self._count else found.compact()
