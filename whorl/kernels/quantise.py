"""Weights in 8 or 4 bits, and y = x Wᵀ + b with them.

The packed form is compressed-tensors' "pack-quantized": q + 2^(bits − 1), unsigned, the first element in
the lowest bits of an int32, [out, ⌈in · bits / 32⌉]; a scale in bf16 for each output row (int8) or for
each group of 32, 64 or 128 elements of it (int4: 4.5 bits a weight at 32, as llama.cpp's Q4_0).
Symmetric: w = q · scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from whorl.kernels import native
from whorl.kernels.native_linear import Products
from whorl.kernels.wide import BLOCK_ELEMENTS, wide_linear, widened

GROUPS = (32, 64, 128)
BITS = {"int8": 8, "int4": 4}
# Which way, by the rows of x, measured at 1024 × 3072 and 3072 × 1024. Up to ROWS x is rounded to 8 bits and
# multiplied with VNNI: at 1 row 2–3× as fast as unpacking W. With AMX that is for VECTOR_ROWS, and up to
# ROUNDED_ROWS x is rounded alike and goes through tiles: 2.3–2.5× VNNI's speed at 16 rows. Up to TILED_ROWS,
# with AMX, W is unpacked a block of rows at a time in cache: at 64 rows 0.8× the time of F.linear on bf16
# weights. Beyond, oneDNN's matmul is worth unpacking W first.
ROWS, VECTOR_ROWS, ROUNDED_ROWS, TILED_ROWS = 16, 4, 32, 128
STRETCH = (1.0, 0.97, 0.94, 0.91, 0.88)  # shares of the whole range that are tried for int4's scale


def quantise(weight: Tensor, bits: int, group: int = 0) -> tuple[Tensor, Tensor]:
    """weight [out, in] → (packed int32 [out, ⌈in · bits / 32⌉], scale bf16 [out, groups]).

    `group` is a divisor of `in`; 0 is the whole row. An int8 scale is max|w| / 127. For int4 the
    one with the least squared error of a few from max|w| / 7 to max|w| / 8 is taken.
    """
    rows = max(1, BLOCK_ELEMENTS // max(weight.shape[1], 1))
    made = [_quantise(part, bits, group or weight.shape[1]) for part in weight.split(rows)]
    return torch.cat([packed for packed, _ in made]), torch.cat([scale for _, scale in made])


def _quantise(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    groups = weight.detach().float().unflatten(1, (-1, group))
    most = groups.abs().amax(2, keepdim=True)
    low, high = (-127, 127) if bits == 8 else (-8, 7)
    whole = most / (127 if bits == 8 else 7)
    best = torch.full_like(most, float("inf"))
    scale, codes = torch.empty_like(most), torch.empty_like(groups)
    for stretch in (1.0,) if bits == 8 else STRETCH:
        tried = (whole * stretch).bfloat16().float()
        q = torch.where(tried > 0, groups / tried, 0.0).round_().clamp_(low, high)
        error = (q * tried - groups).square().sum(2, keepdim=True)
        better = error < best
        best, scale = torch.where(better, error, best), torch.where(better, tried, scale)
        codes = torch.where(better, q, codes)
    return pack(codes.flatten(1).to(torch.int8), bits), scale[..., 0].bfloat16()


def pack(codes: Tensor, bits: int) -> Tensor:
    """codes int8 [out, in] → int32 [out, ⌈in · bits / 32⌉]; what is over at a row's end is 0."""
    unsigned = (codes.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    unsigned = F.pad(unsigned, (0, -codes.shape[1] % (32 // bits)))
    if bits == 4:
        unsigned = unsigned[:, ::2] | (unsigned[:, 1::2] << 4)
    return unsigned.contiguous().view(torch.int32)


def unpack(packed: Tensor, bits: int, inner: int) -> Tensor:
    """The inverse of `pack`: int8 [out, inner]."""
    unsigned = packed.contiguous().view(torch.uint8)
    if bits == 4:
        unsigned = torch.stack([unsigned & 15, unsigned >> 4], 2).flatten(1)
    return (unsigned[:, :inner].to(torch.int16) - (1 << (bits - 1))).to(torch.int8)


def dequantise(packed: Tensor, scale: Tensor, bits: int, inner: int, dtype: torch.dtype) -> Tensor:
    """→ [out, inner] in `dtype`, each the product of code and scale in fp32, rounded once."""
    groups = unpack(packed, bits, inner).unflatten(1, (scale.shape[1], -1))
    return (groups.float() * scale.float()[..., None]).flatten(1).to(dtype)


def reference(x: Tensor, packed: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None) -> Tensor:
    """x [..., in] → [..., out] in x's dtype: W dequantised and multiplied in fp32."""
    weight = dequantise(packed, scale, bits, x.shape[-1], torch.float32)
    return F.linear(x.float(), weight, None if bias is None else bias.float()).to(x.dtype)


def quantised_linear(
    x: Tensor, packed: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None
) -> Tensor:
    """As `reference`, the fast way; the gradient of x flows, packed weights have none.

    Up to ROWS rows on a CPU with VNNI or AVX2, ROUNDED_ROWS with AMX, each 32 elements of x are rounded to
    8 bits (as llama.cpp does). Else x stays as it is and W is dequantised to x's dtype, block by block. A
    row's result is the same bits in any batch that goes the same way.
    """
    bias = None if bias is None else bias.to(x.dtype)
    if torch.compiler.is_compiling():
        return torch.ops.whorl.quantised_linear(x, packed, scale, bits, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        return wide_linear(x, dequantise(packed, scale, bits, x.shape[-1], x.dtype), bias)
    return _quantised_linear(x, packed, scale, bits, bias)


def quantised_linears(
    x: Tensor, packed: Sequence[Tensor], scales: Sequence[Tensor], bits: int, biases: Sequence[Tensor | None]
) -> list[Tensor]:
    """`quantised_linear` of one x with several matrices packed alike; in a small step one call costs less
    than three."""
    plain = torch.compiler.is_compiling() or (torch.is_grad_enabled() and x.requires_grad)
    biases = [None if bias is None else bias.to(x.dtype) for bias in biases]
    alike = len({scale.shape[1] for scale in scales}) == 1
    rounded = None if plain or not alike else _rounded(x, packed, scales)
    if rounded is not None:
        return rounded(x, packed, scales, bits, biases)
    return [
        quantised_linear(x, one, scale, bits, bias)
        for one, scale, bias in zip(packed, scales, biases, strict=True)
    ]


def _fits(x: Tensor, scale: Tensor) -> bool:
    """Whether the C++ kernels take it; groups of 8-bit weights are rows (`quantise` makes no others)."""
    groups, inner = scale.shape[1], x.shape[-1]
    known = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float32) and x.numel() > 0
    return known and scale.dtype == torch.bfloat16 and (groups == 1 or inner // groups in GROUPS)


def _rounded(x: Tensor, packed: Sequence[Tensor], scales: Sequence[Tensor]) -> Products | None:
    """The kernel that rounds x to 8 bits, where that is the way for so many rows."""
    kernel = native.kernels().quantised
    rows, inner = x.numel() // max(x.shape[-1], 1), x.shape[-1]
    if kernel is None or rows > ROUNDED_ROWS or not all(_fits(x, scale) for scale in scales):
        return None
    shapes = [(inner, one.shape[0], scale.shape[1]) for one, scale in zip(packed, scales, strict=True)]
    if rows > VECTOR_ROWS and all(kernel.tiles(*shape) for shape in shapes):
        return kernel.tiled
    alone = rows <= VECTOR_ROWS or not any(kernel.tiles(*shape) for shape in shapes)
    return kernel.rounded if rows <= ROWS and alone else None


def _quantised_linear(x: Tensor, packed: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    rows, inner = x.numel() // max(x.shape[-1], 1), x.shape[-1]
    kernel = native.kernels()
    if not _fits(x, scale) or kernel.quantised is None or kernel.linear is None:
        return _portable(x, packed, scale, bits, bias)
    if (rounded := _rounded(x, [packed], [scale])) is not None:
        return rounded(x, [packed], [scale], bits, [bias])[0]
    if rows <= TILED_ROWS and x.dtype == torch.bfloat16 and kernel.linear.tiles(inner, packed.shape[0]):
        return kernel.quantised.unpacked(x, packed, scale, bits, bias)
    return _in_blocks(x, packed, scale, bits, bias, kernel.quantised.unpack)


def _portable(x: Tensor, packed: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    return _in_blocks(x, packed, scale, bits, bias, dequantise)


def _in_blocks(
    x: Tensor, packed: Tensor, scale: Tensor, bits: int, bias: Tensor | None,
    unpacked: Callable[[Tensor, Tensor, int, int, torch.dtype], Tensor],
) -> Tensor:  # fmt: skip
    y, wide = x.new_empty((*x.shape[:-1], packed.shape[0])), widened(x)
    rows = max(1, BLOCK_ELEMENTS // max(x.shape[-1], 1))
    for start in range(0, packed.shape[0], rows):
        part = slice(start, start + rows)
        weight = unpacked(packed[part], scale[part], bits, x.shape[-1], wide.dtype)
        y[..., part] = F.linear(wide, weight, None if bias is None else bias[part].to(wide.dtype))
    return y


@torch.library.custom_op("whorl::quantised_linear", mutates_args=())
def _op(x: Tensor, packed: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    return _quantised_linear(x, packed, scale, bits, bias)


@_op.register_fake
def _(x: Tensor, packed: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], packed.shape[0]))
