"""Which token comes next: greedy, or drawn with random numbers that depend on (seed, stream) alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from whorl.base.nouns import SamplingParams

PURPOSE = 0x5A3F  # keeps these random numbers apart from every other use of the same seed
WORD = (1 << 64) - 1
GREEDY_BELOW = 1e-6  # a temperature that no draw can tell from 0, and whose quotients may overflow
NUCLEI = (256, 4096)  # likeliest tokens that are tried for top-p before all are sorted


@dataclass(frozen=True)
class Draw:
    """One row to choose a token for: the `number` of its prompt and what stands before the token.

    `allowed` [V] bool, where given, are the only tokens that may come (a grammar's).
    """

    params: SamplingParams
    number: int
    prompt: Sequence[int]
    reply: Sequence[int]
    allowed: Tensor | None = None


class Choice(NamedTuple):
    """A token and the distribution it was drawn from: after bias, penalties, grammar, temperature and
    truncation. `logprob` is the token's log-prob there; `kept` of the vocabulary's tokens have a chance
    there, which are the likeliest ones after bias, penalties and grammar. Greedy is the distribution
    that keeps one."""

    token: int
    logprob: float = 0.0
    kept: int = 1


def choose(logits: Tensor, draws: Sequence[Draw], likeliest: Tensor | None = None) -> list[Choice]:
    """One token per row of logits [N, V] in fp32.

    A row's token depends on its own logits and draw only. Temperature 0 (or below `GREEDY_BELOW`) is
    greedy; else what `SamplingParams` says, in fp64. `likeliest` [N] are the rows' greatest, where they
    are known.
    """
    best = (logits.argmax(-1) if likeliest is None else likeliest).tolist()
    return [
        _choose_one(logits[row], draw)
        if draw.params.temperature >= GREEDY_BELOW or _adjusts(draw)
        else Choice(best[row])
        for row, draw in enumerate(draws)
    ]


def _adjusts(draw: Draw) -> bool:
    params = draw.params
    return (
        draw.allowed is not None
        or bool(params.logit_bias)
        or params.repetition_penalty != 1
        or params.presence_penalty != 0
        or params.frequency_penalty != 0
    )


def _choose_one(logits: Tensor, draw: Draw) -> Choice:
    scores = adjusted(logits.cpu().double(), draw)
    if draw.params.temperature < GREEDY_BELOW:
        return Choice(int(scores.argmax()))
    weights, ids = truncated(scores / draw.params.temperature, draw.params)
    total = weights.cumsum(-1)
    if not math.isfinite(float(total[-1])):  # of logits that are no numbers: an id all the same
        return Choice(int(scores.nan_to_num(float("-inf")).argmax()))
    drawn = uniform(draw.params.seed, draw.number, len(draw.reply)) * float(total[-1])
    # The first token whose cumulated weight exceeds the draw: one of weight 0 can never be it.
    at = int(torch.searchsorted(total, torch.tensor(drawn, dtype=torch.float64), right=True))
    at = min(at, int(torch.searchsorted(total, total[-1])))  # rounding may reach past the last one
    logprob = math.log(float(weights[at]) / float(total[-1]))
    return Choice(at if ids is None else int(ids[at]), logprob, int(torch.count_nonzero(weights)))


def adjusted(scores: Tensor, draw: Draw) -> Tensor:
    """Scores [V] after the bias, the penalties and the grammar; -inf is never drawn."""
    params = draw.params
    if not _adjusts(draw):
        return scores
    scores = scores.clone()
    for token, bias in params.logit_bias:
        if token < len(scores):
            scores[token] += bias
    if params.repetition_penalty != 1:
        seen = torch.tensor(sorted({*draw.prompt, *draw.reply}))
        before = scores[seen]
        factor = params.repetition_penalty
        scores[seen] = torch.where(before > 0, before / factor, before * factor)
    if draw.reply and (params.presence_penalty or params.frequency_penalty):
        counts = Counter(draw.reply)
        written = torch.tensor(list(counts))
        times = torch.tensor(list(counts.values()), dtype=scores.dtype)
        scores[written] -= params.presence_penalty + params.frequency_penalty * times
    if draw.allowed is not None:
        scores.masked_fill_(~draw.allowed, float("-inf"))
    return scores


def truncated(scores: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor | None]:
    """Weights [n] after top-k, top-p (arXiv 1904.09751: the smallest set of tokens that holds
    `top_p`) and min-p (arXiv 2407.01082), and their ids (None: weight i is token i). Those of top-k
    and top-p come likeliest first, equal ones in the order of their ids."""
    ids: Tensor | None = None
    top_k = min(params.top_k, len(scores))
    if top_k and top_k < len(scores):
        # topk leaves the order of equal scores open; a stable sort of the few that may count does not.
        least = scores.topk(top_k).values[-1]
        ids = (scores >= least).nonzero()[:, 0]
        scores = scores[ids]
    weights = (scores - scores.max()).exp()
    total = weights.sum()
    if ids is None and params.top_p < 1:
        ids = _nucleus(weights, params.top_p * total)
        weights = weights[ids]
    if ids is not None:
        weights, order = weights.sort(descending=True, stable=True)
        ids = ids[order]
        if top_k:
            weights, ids = weights[:top_k], ids[:top_k]
            total = weights.sum()
    if params.top_p < 1:
        before = torch.nn.functional.pad(weights.cumsum(-1)[:-1], (1, 0))
        beyond = before >= params.top_p * total
        beyond[0] = False  # the likeliest stays, however small top_p is
        weights = weights.masked_fill(beyond, 0)
    if params.min_p:
        weights = weights.masked_fill(weights < params.min_p * weights.max(), 0)
    return weights, ids


def _nucleus(weights: Tensor, wanted: Tensor) -> Tensor:
    """Ids, ascending, of the likeliest tokens that hold at least `wanted` of the weights, and maybe some
    more: to sort a vocabulary takes longer than a small model's step."""
    for count in NUCLEI:
        if count < len(weights):
            least = weights.topk(count).values[-1]
            ids = (weights >= least).nonzero()[:, 0]
            if weights[ids].sum() >= wanted:
                return ids
    return torch.arange(len(weights))


def uniform(seed: int, number: int, position: int) -> float:
    """A number in [0, 1) of its own for every (seed, number, position)."""
    key = np.array([seed & WORD, PURPOSE], dtype=np.uint64)
    counter = np.array([position, number & WORD, 0, 0], dtype=np.uint64)  # a list would pass through floats
    bits = np.random.Philox(key=key, counter=counter)
    return float(np.random.Generator(bits).random())
