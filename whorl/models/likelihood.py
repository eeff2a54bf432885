"""Log-probs of given tokens: how likely a model finds a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whorl.base.errors import InputError
from whorl.kernels.buckets import bucket
from whorl.kernels.cross_entropy import token_losses
from whorl.models.context import Packed
from whorl.models.decoder import Decoder, Projection
from whorl.models.windows import Window, windows

TOKEN_BUDGET = 8192  # tokens in one forward


def log_probs(
    model: Decoder,
    sequences: Sequence[Sequence[int] | NDArray[np.integer]],
    *,
    window: int | None = None,
    stride: int | None = None,
) -> list[NDArray[np.float32]]:
    """The log-prob in nats of each token but the first, given those before it: one array [n - 1] a sequence.

    A sequence longer than `window` (the model's context) is read in windows that move by `stride`
    (half a window), so that every token sees at least window - stride tokens before it, or all.
    """
    window = window or model.config.context
    stride = stride or max(1, window // 2)
    if not 1 <= stride <= window <= model.config.context:
        raise InputError(
            f"1 ≤ stride ≤ window ≤ context must hold: {stride}, {window}, {model.config.context}"
        )
    out = [np.zeros(max(0, len(ids) - 1), np.float32) for ids in sequences]
    with torch.inference_mode():
        for group in _groups(windows([len(ids) for ids in sequences], window, stride)):
            losses = _losses(model, [np.asarray(sequences[w.sequence][w.start : w.stop]) for w in group])
            at = 0
            for w in group:
                size = w.stop - w.start - 1
                first = max(w.scored, w.start + 1)
                out[w.sequence][first - 1 : w.stop - 1] = -losses[
                    at + first - w.start - 1 : at + size
                ].numpy()
                at += size
    return out


def _groups(windows: Iterator[Window]) -> Iterator[list[Window]]:
    group: list[Window] = []
    held = 0
    for w in windows:
        if group and held + w.stop - w.start > TOKEN_BUDGET:
            yield group
            group, held = [], 0
        group.append(w)
        held += w.stop - w.start
    if group:
        yield group


def _losses(model: Decoder, pieces: Sequence[NDArray[np.integer]]) -> Tensor:
    """Negative log-probs [Σ (n - 1)] of every piece's tokens but its first."""
    device = model.embed.weight.device
    count = sum(len(piece) - 1 for piece in pieces)
    spare = np.zeros(bucket(count) - count, np.int64)  # documents of one token fill up the bucket
    lengths = [*(len(piece) - 1 for piece in pieces), *np.ones_like(spare).tolist()]
    tokens, targets = (
        torch.from_numpy(np.concatenate([*(piece[part] for piece in pieces), spare]).astype(np.int64)).to(
            device
        )
        for part in (slice(None, -1), slice(1, None))
    )

    def head(hidden: Tensor, projection: Projection) -> Tensor:
        return token_losses(hidden, projection.weight, targets, projection.soft_cap)

    losses: Tensor = model(tokens, Packed(lengths, device), None, head)
    return losses[:count].float().cpu()
