"""Log-probs of given tokens through a server: what `whorl.models.log_probs` is in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from whorl.base.client import Scored
from whorl.base.progress import progress
from whorl.models.windows import Window, windows

AT_ONCE = 16  # requests in flight


class Scorer(Protocol):
    async def score(self, text: str | Sequence[int]) -> Scored: ...


async def score_tokens(
    client: Scorer, sequences: Sequence[NDArray[np.integer]], *, window: int, stride: int
) -> list[NDArray[np.float32]]:
    """The log-prob in nats of each token but the first, given those before it: one array [n - 1] a sequence.

    A sequence longer than `window` is read in windows that move by `stride`. InputError where the server
    gives no log-probs of a prompt.
    """
    out = [np.zeros(max(0, len(ids) - 1), np.float32) for ids in sequences]
    wanted = list(windows([len(ids) for ids in sequences], window, stride))
    gate = asyncio.Semaphore(AT_ONCE)
    with progress(len(wanted), "likelihood", "windows") as bar:

        async def one(w: Window) -> None:
            async with gate:
                scored = await client.score([int(id) for id in sequences[w.sequence][w.start : w.stop]])
            first = max(w.scored, w.start + 1)
            out[w.sequence][first - 1 : w.stop - 1] = scored.logprobs[first - w.start :]
            bar.advance(1)

        await asyncio.gather(*map(one, wanted))
    return out
