"""The C++ norms, rotations, gates and page writes, bound and tested."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Elementwise:
    """All take contiguous bf16 or fp32.

    `norm(x [..., D], weight [D], bias | None, eps, offset, layer)`: weight and bias in x's type or fp32;
    `rotate(x [T, H, D], cos [T, D / 2], sin)`; `silu_gate(gate, up)`: both of one shape;
    `store(k, v [T, K, D], k_pages, v_pages, slots int64 [T])`.
    """

    norm: Callable[[Tensor, Tensor, Tensor | None, float, float, bool], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    silu_gate: Callable[[Tensor, Tensor], Tensor]
    store: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]


POINTER, SIZE, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


def bind(library: ctypes.CDLL) -> Elementwise:
    return Elementwise(_norm(library), _rotate(library), _silu_gate(library), _store(library))


def _typed(
    library: ctypes.CDLL, name: str, arguments: list[Any]
) -> dict[torch.dtype, ctypes._NamedFuncPointer]:
    functions = {
        torch.bfloat16: getattr(library, f"whorl_{name}_bf16"),
        torch.float32: getattr(library, f"whorl_{name}_f32"),
    }
    for function in functions.values():
        function.argtypes, function.restype = arguments, None
    return functions


def _norm(library: ctypes.CDLL) -> Callable[[Tensor, Tensor, Tensor | None, float, float, bool], Tensor]:
    arguments: list[Any] = [POINTER] * 4 + [SIZE] * 2 + [REAL] * 2 + [ctypes.c_bool, ctypes.c_int]
    functions = _typed(library, "norm", arguments)
    mixed = library.whorl_norm_bf16_f32  # fp32 weights under a bf16 stream
    mixed.argtypes, mixed.restype = arguments, None

    def norm(
        x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, offset: float, layer: bool
    ) -> Tensor:
        y, size = torch.empty_like(x), x.shape[-1]
        function = functions[x.dtype] if weight.dtype == x.dtype else mixed
        function(
            x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr(),
            x.numel() // size, size, eps, offset, layer, torch.get_num_threads(),
        )  # fmt: skip
        return y

    return norm


def _rotate(library: ctypes.CDLL) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    functions = _typed(library, "rotate", [POINTER] * 4 + [SIZE] * 3 + [ctypes.c_int])

    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = torch.empty_like(x)
        rows, heads, dim = x.shape
        functions[x.dtype](
            x.data_ptr(), cos.data_ptr(), sin.data_ptr(), y.data_ptr(), rows, heads, dim // 2,
            torch.get_num_threads(),
        )  # fmt: skip
        return y

    return rotate


def _silu_gate(library: ctypes.CDLL) -> Callable[[Tensor, Tensor], Tensor]:
    functions = _typed(library, "silu_gate", [POINTER] * 3 + [SIZE] * 2 + [ctypes.c_int])

    def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
        out, size = torch.empty_like(gate), gate.shape[-1]
        functions[gate.dtype](
            gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel() // size, size,
            torch.get_num_threads(),
        )  # fmt: skip
        return out

    return silu_gate


def _store(library: ctypes.CDLL) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]:
    functions = _typed(library, "store", [POINTER] * 5 + [SIZE] * 4)

    def store(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
        tokens, heads, dim = k.shape
        functions[k.dtype](
            k.data_ptr(), v.data_ptr(), k_pages.data_ptr(), v_pages.data_ptr(), slots.data_ptr(), tokens,
            heads, k_pages.shape[2], dim,
        )  # fmt: skip

    return store


def problem(kernels: Elementwise) -> str:
    """Compare with torch's own ops in fp32 at sizes that fit no vector; "" when equal."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for dtype, share in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        x, gate = (torch.randn(3, 2, 38, generator=generator).to(dtype) for _ in range(2))
        weight, bias, cos, sin = (
            torch.randn(n, generator=generator) for n in ((38,), (38,), (3, 19), (3, 19))
        )
        wide = x.float()
        first, second = wide.chunk(2, -1)
        c, s = cos[:, None], sin[:, None]
        pairs = [
            (kernels.norm(x, weight, None, 1e-5, 0.0, False), F.rms_norm(wide, (38,), weight, 1e-5)),
            (kernels.norm(x, weight, bias, 1e-5, 0.0, True), F.layer_norm(wide, (38,), weight, bias, 1e-5)),
            (kernels.rotate(x, cos, sin), torch.cat([first * c - second * s, second * c + first * s], -1)),
            (kernels.silu_gate(x, gate), F.silu(wide) * gate.float()),
        ]
        pages = torch.zeros(2, 2, 2, 4, 38, dtype=dtype)
        kernels.store(x, gate, pages[0], pages[1], torch.tensor([6, -1, 1]))
        pairs += [(pages[0, 1, :, 2], wide[0]), (pages[1, 0, :, 1], gate[2].float())]
        for made, wanted in pairs:
            worst = max(worst, float((made.float() - wanted).abs().max() / wanted.abs().max()) / share)
    return "" if worst <= 1 else f"the elementwise self-test is {worst:.2g} times its tolerance off"
