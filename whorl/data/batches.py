"""What a loader is: micro-batches as a pure function of (seed, step), for any number of ranks.

Every source is an endless row of micro-batches, numbered from 0: epoch after epoch, each shuffled and
packed anew. A step is `micro_batches` of them in a row, so seeking is a division and the step is the
same list whatever the number of ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from whorl.base.errors import InputError
from whorl.data.batch import Batch

SHUFFLE_WINDOWS, SHUFFLE_BINS = 0x77696E, 0x62696E  # purposes: what a permutation is for
PLANS_KEPT = 2  # epochs whose plan is kept: one's end and the next one's beginning
Array = NDArray[Any]


def permutation(count: int, seed: int, purpose: int, epoch: int) -> Array:
    """A permutation of `count` from counter-based Philox (Salmon et al. 2011).

    Sorting raw words, which numpy promises never to change, rather than `Generator.permutation`,
    which it may: a run resumed under another numpy goes on in the same order.
    """
    words = np.random.Philox(key=[seed, purpose], counter=[0, 0, 0, epoch]).random_raw(count)
    return np.argsort(words, kind="stable")


class Batches(ABC):
    """Micro-batches of one length, asked for by step. What `whorl.train.fit` reads.

    `length` is T of every batch, `per_epoch` how many micro-batches an epoch has, `total` how many
    there are in all (None: no end).
    """

    length: int
    micro_batches: int
    per_epoch: int
    total: int | None = None

    @abstractmethod
    def micro(self, number: int) -> Batch:
        """Micro-batch `number` of the endless row."""

    @abstractmethod
    def micro_ids(self, number: int) -> tuple[str, ...]:
        """The sample ids of `micro(number)`, without building it."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the data and of everything that decides the order; equal means equal batches."""

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.per_epoch // self.micro_batches)

    @property
    def steps(self) -> int | None:
        """Steps until the data ends, or None where it never does."""
        return None if self.total is None else -(-self.total // self.micro_batches)

    def at(self, step: int, *, rank: int = 0, world: int = 1) -> list[Batch]:
        """This rank's micro-batches of `step`: numbers rank, rank + world, …

        Every rank gets equally many; where there is no batch left, one of weight 0 stands in.
        """
        numbers = self._numbers(step)
        if not 0 <= rank < world:
            raise InputError(f"rank {rank} is not one of {world}")
        mine = [self.micro(number) for number in numbers[rank::world]]
        missing = -(-self.micro_batches // world) - len(mine)
        return mine + [Batch.empty(self.length)] * missing

    def ids(self, step: int) -> tuple[str, ...]:
        """The sample ids of the whole step, in order, the same for any number of ranks."""
        return tuple(name for number in self._numbers(step) for name in self.micro_ids(number))

    def _numbers(self, step: int) -> range:
        if step < 0 or (self.steps is not None and step >= self.steps):
            raise IndexError(f"step {step} of {self.steps}")
        first = step * self.micro_batches
        last = first + self.micro_batches
        return range(first, last if self.total is None else min(last, self.total))


def check_sizes(length: int, micro_batches: int, seed: int, epochs: float | None = None) -> None:
    for name, value, least in (("length", length, 1), ("micro_batches", micro_batches, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} must be {least} or more, not {value}")
    if epochs is not None and epochs <= 0:
        raise InputError(f"epochs must be above 0, not {epochs}; omit it to run without end")


def total_of(per_epoch: int, epochs: float | None) -> int | None:
    return None if epochs is None else max(1, round(per_epoch * epochs))


class Prefetch:
    """`prefetch`'s iterator and context manager; `close` ends its thread."""

    def __init__(self, batches: Batches, start: int, rank: int, world: int, depth: int) -> None:
        self._batches, self._rank, self._world = batches, rank, world
        self._step = start  # the next to be asked for
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="whorl-prefetch")
        self._ahead: deque[Future[list[Batch]]] = deque()
        for _ in range(max(1, depth)):
            self._ask()

    def _ask(self) -> None:
        if self._batches.steps is None or self._step < self._batches.steps:
            build = self._batches.at
            self._ahead.append(self._thread.submit(build, self._step, rank=self._rank, world=self._world))
            self._step += 1

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        if not self._ahead:
            raise StopIteration
        built = self._ahead.popleft().result()
        self._ask()
        return built

    def close(self) -> None:
        self._ahead.clear()
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prefetch(batches: Batches, start: int = 0, *, rank: int = 0, world: int = 1, depth: int = 2) -> Prefetch:
    """The micro-batches of steps `start`, start + 1, … built ahead by a thread, at most `depth` steps.

    Ends with the data; what goes wrong in the thread is raised here. Use it in a `with` block.
    """
    return Prefetch(batches, start, rank, world, depth)
