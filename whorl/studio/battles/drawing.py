"""Which two models meet: drawn by what the board knows least, among those that are well."""

from __future__ import annotations

import itertools
import math
import secrets
import threading
import time
from collections.abc import Sequence

from whorl.arena.sampling import PairSampler, pair_sampler
from whorl.base.errors import InputError
from whorl.studio.battles.live_board import LiveBoard
from whorl.studio.models.pool import ModelPool

REST_SECONDS = 60.0  # one that failed a person is not drawn for them so long, where two others are there
FORGET_AFTER = 10_000  # failures; the old ones are dropped then


class PairDrawer:
    def __init__(self, pool: ModelPool, board: LiveBoard) -> None:
        self._pool, self._board = pool, board
        self._seed, self._numbers = secrets.randbits(63), itertools.count()
        self._guard = threading.Lock()
        self._made: tuple[int, tuple[str, ...], PairSampler] | None = None
        self._failed: dict[tuple[int, str], float] = {}

    def draw(self, person: int, *, images: bool = False) -> tuple[str, str, float]:
        """(left, right, the pair's probability); which of the two stands left is a fair coin.

        May fit the board's votes: call it from a thread. InputError for fewer than two models.
        """
        names = self._able(person, images)
        with self._guard:
            return self._sampler(names).draw(self._seed, next(self._numbers))

    def failed(self, person: int, model: str) -> None:
        """It rests a while, for this person alone: a prompt that one model cannot take (too long for it,
        say) must not keep it from others' battles."""
        now = time.monotonic()
        if len(self._failed) > FORGET_AFTER:
            self._failed = {key: when for key, when in self._failed.items() if now - when < REST_SECONDS}
        self._failed[person, model] = now

    def _able(self, person: int, images: bool) -> tuple[str, ...]:
        well = [name for name in self._pool.well() if not images or self._pool.find(name).images]
        if len(well) < 2:
            seeing = " that support images" if images else ""
            remedy = "remove the image, or add another" if images else "add another on the Models page"
            have = "none is available" if not well else "only 1 is available"
            raise InputError(f"a battle needs two available models{seeing}; {have}: {remedy}")
        since = time.monotonic() - REST_SECONDS
        rested = [name for name in well if self._failed.get((person, name), -math.inf) < since]
        return tuple(sorted(rested if len(rested) >= 2 else well))

    def _sampler(self, names: Sequence[str]) -> PairSampler:
        """Made anew only when the board or the models have changed."""
        snapshot, names = self._board.snapshot, tuple(names)
        if self._made is None or self._made[:2] != (snapshot.seq, names):
            self._made = (snapshot.seq, names, pair_sampler(names, snapshot.battles))
        return self._made[2]
