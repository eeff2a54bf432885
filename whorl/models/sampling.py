"""Which token comes next: greedy, or drawn with random numbers that depend on (seed, stream) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from whorl.base.nouns import SamplingParams

PURPOSE = 0x5A3F  # keeps these random numbers apart from every other use of the same seed
WORD = (1 << 64) - 1


def choose(logits: Tensor, params: SamplingParams, streams: Sequence[tuple[int, int]]) -> Tensor:
    """One token id per row of logits [N, V], as int64 [N] on their device.

    `streams` are (number of the prompt, position in its reply): a row's draw depends on them, the
    seed and its own logits only. Temperature 0 is greedy; else temperature, top-k, then top-p of
    what top-k left, in fp64.
    """
    if params.temperature == 0:
        return logits.argmax(-1)
    weights, ids = truncated(logits.cpu().double() / params.temperature, params.top_k, params.top_p)
    total = weights.cumsum(-1)
    draws = torch.tensor([uniform(params.seed, *stream) for stream in streams], dtype=torch.float64)
    # The first token whose cumulated weight exceeds the draw: one of weight 0 can never be it.
    chosen = torch.searchsorted(total, (draws * total[:, -1])[:, None], right=True)
    last = (weights > 0).int().flip(-1).argmax(-1, keepdim=True)  # from the end; rounding may reach past it
    chosen = torch.minimum(chosen, weights.shape[-1] - 1 - last)
    picked = chosen if ids is None else ids.gather(1, chosen)
    return picked[:, 0].to(logits.device)


def truncated(scores: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor | None]:
    """Weights [N, V] after top-k and top-p (arXiv 1904.09751: the smallest set of tokens that holds
    `top_p`), and their ids where sorting has moved them (None: weight i is token i)."""
    weights = scores.softmax(-1)
    if not top_k and top_p >= 1:
        return weights, None
    weights, ids = weights.sort(dim=-1, descending=True, stable=True)
    if top_k:
        weights[:, top_k:] = 0
    if top_p < 1:
        before = torch.nn.functional.pad(weights.cumsum(-1)[:, :-1], (1, 0))
        weights = weights.masked_fill(before >= top_p * weights.sum(-1, keepdim=True), 0)
    return weights, ids


def uniform(seed: int, number: int, position: int) -> float:
    """A number in [0, 1) of its own for every (seed, number, position)."""
    key = np.array([seed & WORD, PURPOSE], dtype=np.uint64)
    counter = np.array([position, number & WORD, 0, 0], dtype=np.uint64)  # a list would pass through floats
    bits = np.random.Philox(key=key, counter=counter)
    return float(np.random.Generator(bits).random())
