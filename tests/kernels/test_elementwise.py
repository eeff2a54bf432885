"""Norms, rotations and gates in C++: rows that know nothing of each other, gradients, strange numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from whorl.kernels import elementwise, native
from whorl.kernels.device import compiler_available

COMPILED = pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
DTYPES = (torch.float32, torch.bfloat16)
SIZE = 70  # no whole number of vectors


def calls(dtype: torch.dtype) -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions of rows [n, 2, SIZE], each row on its own."""
    generator = torch.Generator().manual_seed(0)
    weight, bias, *_ = torch.randn(2, SIZE, generator=generator)

    def turn(x: Tensor) -> Tensor:
        angle = torch.full((len(x), SIZE // 2), 0.7)
        return elementwise.rotate(x, angle.cos(), angle.sin())

    return {
        "rms": lambda x: elementwise.norm(x, weight, None, 1e-6, 1.0, False),
        "layer": lambda x: elementwise.norm(x, weight, bias, 1e-6, 0.0, True),
        "rotate": turn,
        "silu": lambda x: elementwise.activate(x, "silu", 2 * x),
        "gelu": lambda x: elementwise.activate(x, "gelu"),
        "gelu_tanh": lambda x: elementwise.activate(x, "gelu_tanh", x + 1),
        "relu": lambda x: elementwise.activate(x, "relu"),
        "add": lambda x: elementwise.add(x, x),
    }  # fmt: skip


@COMPILED
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", calls(torch.float32))
def test_neighbours_and_threads_move_no_bit(name: str, dtype: torch.dtype) -> None:
    assert native.kernels().elementwise is not None, native.status()
    call = calls(dtype)[name]
    rows = torch.randn(600, 2, SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = call(rows)
        torch.set_num_threads(1)
        for row in (0, 1, 299, 599):
            assert torch.equal(call(rows[row : row + 1]), together[row : row + 1])
        shifted = torch.empty(2 * SIZE + 3, dtype=dtype)[3:].view(1, 2, SIZE)  # another alignment
        shifted.copy_(rows[5:6])
        assert torch.equal(call(shifted), together[5:6])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", calls(torch.float32))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damage_comes_through(name: str, dtype: torch.dtype, value: float) -> None:
    """A row with a number that is none gives one, and its neighbour does not."""
    rows = torch.ones(2, 2, SIZE, dtype=dtype)
    rows[0, 0, 3] = value
    made = calls(dtype)[name](rows)
    assert not torch.isfinite(made[0]).all()
    assert torch.isfinite(made[1]).all()


@pytest.mark.parametrize("name", calls(torch.float32))
def test_gradients_are_autograds(name: str) -> None:
    call = calls(torch.float32)[name]
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 2, SIZE, dtype=torch.float64, generator=generator).requires_grad_()
    assert call(x.float()).requires_grad
    step = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    [grad] = torch.autograd.grad(call(x.float()).double().sum(), x)
    with torch.no_grad():
        ahead, behind = (call((x + sign * 1e-3 * step).float()).double().sum() for sign in (1, -1))
    assert float((grad * step).sum()) == pytest.approx(float((ahead - behind) / 2e-3), rel=2e-2, abs=2e-2)


def test_views_and_other_types_take_torchs_ops() -> None:
    x = torch.randn(4, 6, 8)
    weight = torch.randn(6)
    turned = x.transpose(1, 2)
    wanted = elementwise.norm_reference(turned, weight, None, 1e-6, 0.0, False)
    assert torch.equal(elementwise.norm(turned, weight, None, 1e-6, 0.0, False), wanted)
    half = x.half()
    assert elementwise.activate(half, "silu", half).dtype == torch.float16
