"""The C++ norms, rotations, gates and page writes, bound and tested."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from whorl.kernels.native_call import COUNT, FLAG, POINTER, REAL, SIZE, NativeCall, typed_calls


@dataclass(frozen=True)
class Elementwise:
    """All take contiguous bf16 or fp32.

    `norm(x [..., D], weight [D], bias | None, eps, offset, layer)`: weight and bias in x's type or fp32;
    `rotate(x [T, H, D], cos [T, D / 2], sin)`; `activate(x, kind, up | None)`, kind 0 silu, 1 gelu,
    2 gelu_tanh, 3 relu; `add(x, y)`; `store(k, v [T, K, D], k_pages, v_pages, slots int64 [T])`.
    """

    norm: Callable[[Tensor, Tensor, Tensor | None, float, float, bool], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    activate: Callable[[Tensor, int, Tensor | None], Tensor]
    add: Callable[[Tensor, Tensor], Tensor]
    store: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]


def bind(library: ctypes.CDLL) -> Elementwise:
    return Elementwise(_norm(library), _rotate(library), _activate(library), _add(library), _store(library))


def _norm(library: ctypes.CDLL) -> Callable[[Tensor, Tensor, Tensor | None, float, float, bool], Tensor]:
    arguments = [POINTER] * 4 + [SIZE] * 2 + [REAL] * 2 + [FLAG, COUNT]
    functions = typed_calls(library, "whorl_norm", arguments)
    mixed = NativeCall(library, "whorl_norm_bf16_f32", arguments)  # fp32 weights under a bf16 stream

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
    functions = typed_calls(library, "whorl_rotate", [POINTER] * 4 + [SIZE] * 3 + [COUNT])

    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = torch.empty_like(x)
        rows, heads, dim = x.shape
        functions[x.dtype](
            x.data_ptr(), cos.data_ptr(), sin.data_ptr(), y.data_ptr(), rows, heads, dim // 2,
            torch.get_num_threads(),
        )  # fmt: skip
        return y

    return rotate


def _activate(library: ctypes.CDLL) -> Callable[[Tensor, int, Tensor | None], Tensor]:
    functions = typed_calls(library, "whorl_activate", [POINTER] * 3 + [SIZE] * 2 + [COUNT] * 2)

    def activate(x: Tensor, kind: int, up: Tensor | None) -> Tensor:
        out, size = torch.empty_like(x), x.shape[-1]
        functions[x.dtype](
            x.data_ptr(), None if up is None else up.data_ptr(), out.data_ptr(), x.numel() // size, size,
            kind, torch.get_num_threads(),
        )  # fmt: skip
        return out

    return activate


def _add(library: ctypes.CDLL) -> Callable[[Tensor, Tensor], Tensor]:
    functions = typed_calls(library, "whorl_add", [POINTER] * 3 + [SIZE])

    def add(x: Tensor, y: Tensor) -> Tensor:
        out = torch.empty_like(x)
        functions[x.dtype](x.data_ptr(), y.data_ptr(), out.data_ptr(), x.numel())
        return out

    return add


def _store(library: ctypes.CDLL) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]:
    functions = typed_calls(library, "whorl_store", [POINTER] * 5 + [SIZE] * 4)

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
            (kernels.activate(x, 0, gate), F.silu(wide) * gate.float()),
            (kernels.activate(x, 1, None), F.gelu(wide)),
            (kernels.activate(x, 2, gate), F.gelu(wide, approximate="tanh") * gate.float()),
            (kernels.activate(x, 3, None), F.relu(wide)),
            (kernels.add(x, gate), wide + gate.float()),
        ]
        pages = torch.zeros(2, 2, 2, 4, 38, dtype=dtype)
        kernels.store(x, gate, pages[0], pages[1], torch.tensor([6, -1, 1]))
        pairs += [(pages[0, 1, :, 2], wide[0]), (pages[1, 0, :, 1], gate[2].float())]
        for made, wanted in pairs:
            worst = max(worst, float((made.float() - wanted).abs().max() / wanted.abs().max()) / share)
    return "" if worst <= 1 else f"the elementwise self-test is {worst:.2g} times its tolerance off"
