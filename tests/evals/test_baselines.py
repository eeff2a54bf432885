"""The n-gram model against its definition written with dictionaries; compressors against themselves."""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.evals.baselines import NGram, xz_bits, zlib_bits

VOCABULARY = 5
DOCUMENTS = st.lists(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=6
)


class Slow:
    """Witten–Bell interpolation, token by token."""

    def __init__(self, documents: list[list[int]], order: int) -> None:
        self.order = order
        self.followers: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for ids in documents:
            for n in range(1, order + 1):
                for at in range(n - 1, len(ids)):
                    self.followers[tuple(ids[at - n + 1 : at])][ids[at]] += 1

    def probability(self, history: list[int], token: int) -> float:
        value = 1 / VOCABULARY
        for n in range(1, self.order + 1):
            if len(history) < n - 1:
                break
            seen = self.followers.get(tuple(history[len(history) - n + 1 :]))
            if seen:
                value = (seen[token] + len(seen) * value) / (seen.total() + len(seen))
        return value

    def bits(self, ids: list[int]) -> float:
        return -sum(math.log2(self.probability(ids[:at], ids[at])) for at in range(1, len(ids)))


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=10), st.integers(1, 4))
def test_the_n_gram_model_is_its_definition(documents: list[list[int]], text: list[int], order: int) -> None:
    model = NGram([np.array(ids) for ids in documents if len(ids) >= order] or [np.zeros(order, int)],
                  VOCABULARY, order)  # fmt: skip
    slow = Slow([ids for ids in documents if len(ids) >= order] or [[0] * order], order)
    assert model.bits(np.array(text)) == pytest.approx(slow.bits(text), abs=1e-9)


def test_probabilities_sum_to_one() -> None:
    model = NGram([np.array([1, 2, 3, 1, 2, 4, 1, 2, 3])], VOCABULARY, 3)
    for start in ([1, 2], [4, 4], [0, 1]):
        before = model.bits(np.array(start))
        total = sum(2 ** (before - model.bits(np.array([*start, token]))) for token in range(VOCABULARY))
        assert total == pytest.approx(1)


def test_compressors_count_bits() -> None:
    text = b"the same words " * 50
    assert zlib_bits(text) == 8 * len(zlib.compress(text, 9)) < 8 * len(text)
    assert xz_bits([text] * 40) < 2 * xz_bits([text]), "one stream sees what documents share"
