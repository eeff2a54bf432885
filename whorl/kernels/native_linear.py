"""The C++ matmuls for few rows, bound and tested."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Linear:
    """`multiply(x [..., in], weight [out, in], bias [out] | None)` → [..., out], all bf16 or all fp32 and
    weight contiguous; `tiles(in, out)` says whether a bf16 matrix of this shape goes through AMX."""

    multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    tiles: Callable[[int, int], bool]


def bind(library: ctypes.CDLL) -> Linear:
    functions = {torch.bfloat16: library.whorl_linear_bf16, torch.float32: library.whorl_linear_f32}
    for function in functions.values():
        function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 3 + [ctypes.c_int]
        function.restype = None

    library.whorl_linear_tiles.argtypes = [ctypes.c_int64] * 2
    library.whorl_linear_tiles.restype = ctypes.c_bool

    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = x.contiguous()
        bias = None if bias is None else bias.contiguous()
        out, inner = weight.shape
        y = x.new_empty((*x.shape[:-1], out))
        functions[x.dtype](
            x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr(),
            x.numel() // inner, inner, out, torch.get_num_threads(),
        )  # fmt: skip
        return y

    return Linear(multiply, library.whorl_linear_tiles)


def problem(kernel: Linear) -> str:
    """Compare with fp32 at sizes that fit the tiles, and at ones that fit nothing; "" when equal."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for rows, out, inner in ((1, 64, 96), (5, 43, 64), (18, 7, 77)):
        x, weight, bias = (
            torch.randn(shape, generator=generator) for shape in ((rows, inner), (out, inner), out)
        )
        for dtype, share in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
            given = [part.to(dtype) for part in (x, weight, bias)]
            wide = [part.double() for part in given]
            wanted = wide[0] @ wide[1].T + wide[2]
            difference = (kernel.multiply(*given).double() - wanted).abs().max() / wanted.abs().max()
            worst = max(worst, float(difference) / share)
    return "" if worst <= 1 else f"the matmul self-test is {worst:.2g} times its tolerance off"
