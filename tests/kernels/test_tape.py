"""Recorded kernels: played again they are the function, on whatever lies in its inputs by then."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import Tensor

from whorl.kernels.device import compiler_available
from whorl.kernels.elementwise import activate, add, norm, rotate
from whorl.kernels.linear import linear, linears
from whorl.kernels.native_call import RECORDING
from whorl.kernels.tape import record

pytestmark = pytest.mark.skipif(compiler_available() is None, reason="no C++ compiler")
DTYPES = (torch.float32, torch.bfloat16)


class Layer:
    """Every kind of argument: pointers, sizes, numbers, flags, arrays and what is left out."""

    def __init__(self, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return (torch.randn(*shape, generator=generator) / shape[-1] ** 0.5).to(dtype)

        self.x, self.scale, self.gate, self.up, self.down = (
            draw(3, 64), draw(64), draw(96, 64), draw(96, 64), draw(64, 96),
        )  # fmt: skip
        self.wide, self.shift = self.scale.float(), torch.ones(64)
        self.bias, angle = draw(64), torch.rand(3, 16, generator=generator)
        self.cos, self.sin = angle.cos(), angle.sin()

    def __call__(self) -> Tensor:
        x = norm(self.x, self.scale, None, 0.125, 1.0, False)
        x = norm(x, self.wide, self.shift, 1e-6, 0.0, True)
        x = rotate(x.unflatten(-1, (2, 32)), self.cos, self.sin).flatten(-2)
        gate, up = linears(x, [self.gate, self.up], [None, None])
        return add(self.x, linear(activate(gate, "silu", up), self.down, self.bias))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.inference_mode()
def test_played_it_is_the_function(dtype: torch.dtype) -> None:
    layer = Layer(dtype)
    first, tape = record(layer)
    assert tape is not None
    assert torch.equal(first, layer())
    for seed in range(3):
        layer.x.copy_(torch.randn(3, 64, generator=torch.Generator().manual_seed(seed)))
        gc.collect()
        crowd = [torch.full((3, 96), 7.0, dtype=dtype) for _ in range(50)]  # takes what was freed
        assert torch.equal(tape.play(), layer())
        assert all(bool((one == 7).all()) for one in crowd), "the tape wrote where it may not"


@torch.inference_mode()
def test_torchs_own_ops_make_no_tape() -> None:
    layer = Layer(torch.float32)
    made, tape = record(lambda: layer() * 2)
    assert tape is None and torch.equal(made, layer() * 2)
    assert record(lambda: layer.x.view(-1))[1] is None  # nothing to play


@torch.inference_mode()
def test_an_error_ends_the_recording() -> None:
    with pytest.raises(ZeroDivisionError):
        record(lambda: Layer(torch.float32)() / (1 // 0))
    assert RECORDING.words is None


@torch.inference_mode()
def test_other_threads_are_not_recorded() -> None:
    layer, other = Layer(torch.float32), Layer(torch.float32)

    def with_neighbour() -> Tensor:
        made = layer()
        thread = threading.Thread(target=torch.inference_mode()(other))
        thread.start()
        thread.join()
        return made

    alone, beside = record(layer)[1], record(with_neighbour)[1]
    assert alone is not None and beside is not None
    assert len(alone._words) == len(beside._words)
