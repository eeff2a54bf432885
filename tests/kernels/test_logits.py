"""The likeliest tokens and the normalisers of rows of logits."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from whorl.kernels import native
from whorl.kernels.device import compiler_available
from whorl.kernels.logits import likeliest, reference


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 5), size=st.sampled_from([1, 2, 15, 100, 8191, 8192, 8193, 30_000]),
    spread=st.sampled_from([0.0, 1.0, 40.0]), shift=st.sampled_from([0.0, -300.0, 5e3]),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_they_are_torchs_own(rows: int, size: int, spread: float, shift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, size, generator=generator) + shift
    logits[0, size // 2 :] = logits.max() + 1  # equals: the first of them counts
    best, lse = likeliest(logits)
    assert torch.equal(best, logits.argmax(-1)) and int(best[0]) == size // 2
    torch.testing.assert_close(lse, reference(logits.double())[1].float(), rtol=1e-6, atol=2e-6)


@pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
def test_neighbours_and_threads_move_no_bit() -> None:
    assert native.kernels().likeliest is not None, native.status()
    logits = torch.randn(9, 40_000, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = likeliest(logits)[1]
        torch.set_num_threads(1)
        for row in range(9):
            assert torch.equal(likeliest(logits[row : row + 1].clone())[1], together[row : row + 1])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_shows_in_its_row_alone(value: float) -> None:
    logits = torch.zeros(3, 9000)
    logits[1, 8500] = value
    lse = likeliest(logits)[1]
    assert torch.isfinite(lse).tolist() == [True, False, True]


def test_what_is_forbidden_weighs_nothing() -> None:
    logits = torch.full((1, 50), float("-inf"))
    logits[0, 7] = 2.0
    best, lse = likeliest(logits)
    assert int(best) == 7 and float(lse) == 2.0
    assert reference(torch.zeros(0, 5))[0].shape == likeliest(torch.zeros(0, 5))[0].shape == (0,)
