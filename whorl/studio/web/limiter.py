"""How often one may do something: a bucket of tokens each, refilled as time goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable

from whorl.serve.api.errors import ApiError

FORGET_AFTER = 10_000  # buckets; the full ones are dropped then


class Limiter:
    """`a_minute` uses a minute for each key, as many at once."""

    def __init__(self, a_minute: int, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._what, self._clock = float(a_minute), what, clock
        self._left: dict[Hashable, tuple[float, float]] = {}  # key → (tokens, when counted)

    def take(self, key: Hashable) -> None:
        """One use; ApiError 429 with the seconds to wait where none is left."""
        now = self._clock()
        if len(self._left) > FORGET_AFTER:
            self._left = {one: held for one, held in self._left.items() if self._full(held, now) < self._most}
        tokens = self._full(self._left.get(key, (self._most, now)), now)
        if tokens < 1:
            self._left[key] = (tokens, now)
            wait = math.ceil((1 - tokens) * 60 / self._most)
            message = f"too many {self._what}: wait {wait} s"
            raise ApiError(429, message, code="rate_limited", headers={"Retry-After": str(wait)})
        self._left[key] = (tokens - 1, now)

    def _full(self, held: tuple[float, float], now: float) -> float:
        return min(self._most, held[0] + (now - held[1]) * self._most / 60)
