"""What a text costs without a neural model: zlib, xz and an n-gram model, in bits per byte."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbouring ids apart


def zlib_bits(text: bytes) -> int:
    """Bits of `zlib -9` of one document alone."""
    return 8 * len(zlib.compress(text, 9))


def xz_bits(texts: Iterable[bytes]) -> int:
    """Bits of `xz -9` of all documents in one stream, which may repeat one another."""
    return 8 * len(lzma.compress(b"".join(texts), preset=9))


@dataclass(frozen=True)
class _Order:
    """The counts of one order: contexts and their continuations, both sorted by hash."""

    contexts: Hashes
    totals: NDArray[np.float64]  # how often a context was seen
    kinds: NDArray[np.float64]  # how many different tokens followed it
    grams: Hashes
    counts: NDArray[np.float64]


class NGram:
    """An interpolated n-gram model over token ids with Witten–Bell smoothing (Witten and Bell, 1991).

    p_n(w | h) = (c(hw) + k(h) · p_{n-1}(w | h')) / (c(h) + k(h)), where k(h) counts the different
    tokens seen after h and p_0 is uniform. Contexts are 64-bit hashes.
    """

    def __init__(self, documents: Sequence[NDArray[np.integer]], vocab_size: int, order: int = 5) -> None:
        self.vocab_size, self.order = vocab_size, order
        self._orders = [self._count(documents, n) for n in range(1, order + 1)]

    def bits(self, document: NDArray[np.integer]) -> float:
        """−log2 of the probability of the document's tokens but the first."""
        ids = np.asarray(document)
        probability = np.full(len(ids), 1.0 / self.vocab_size)
        for n, counted in enumerate(self._orders, start=1):
            context, gram = _hashes(ids, n)
            at = slice(n - 1, None)
            total, kinds = _find(counted.contexts, context, counted.totals, counted.kinds)
            (count,) = _find(counted.grams, gram, counted.counts)
            weight = np.maximum(total + kinds, 1e-12)
            better = (count + kinds * probability[at]) / weight
            probability[at] = np.where(total > 0, better, probability[at])
        return float(-np.log2(probability[1:]).sum())

    @staticmethod
    def _count(documents: Sequence[NDArray[np.integer]], n: int) -> _Order:
        pairs = [_hashes(np.asarray(document), n) for document in documents if len(document) >= n]
        contexts = np.concatenate([context for context, _ in pairs])
        grams, first, counts = np.unique(
            np.concatenate([gram for _, gram in pairs]), return_index=True, return_counts=True
        )
        kept, totals = np.unique(contexts, return_counts=True)
        kinds = np.bincount(np.searchsorted(kept, contexts[first]), minlength=len(kept))
        return _Order(kept, totals.astype(float), kinds.astype(float), grams, counts.astype(float))


def _hashes(ids: NDArray[np.integer], n: int) -> tuple[Hashes, Hashes]:
    """For each place from n - 1 on: the hash of the n - 1 tokens before it, and of these with it."""
    count = max(0, len(ids) - n + 1)
    hashed = np.full(count, n, np.uint64)
    wide = ids.astype(np.uint64) + np.uint64(1)
    for back in range(n - 1, 0, -1):
        hashed = (hashed + wide[n - 1 - back : n - 1 - back + count]) * MULTIPLIER
        hashed ^= hashed >> np.uint64(29)
    gram = (hashed + wide[n - 1 : n - 1 + count]) * MULTIPLIER
    return hashed, gram ^ (gram >> np.uint64(29))


def _find(keys: Hashes, wanted: Hashes, *values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Each of `values` at the place of `wanted` in the sorted `keys`, 0 where it is not there."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found = keys[place] == wanted
    return [np.where(found, value[place], 0.0) for value in values]
