"""Every kernel: its reference, the fast version, how far they may part, and inputs to compare them on.

One test walks this dictionary; a self-test of a device can too. To add a kernel, or a fast version
of one, name it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from whorl.kernels import attention, cross_entropy, elementwise, paged_attention
from whorl.kernels import linear as matmul
from whorl.kernels import quantise as packing
from whorl.kernels.spec import AttentionSpec

Make = Callable[[torch.dtype, torch.device], tuple[Any, ...]]


@dataclass(frozen=True)
class Kernel:
    """`tolerance` is the largest difference, of values and of gradients, as a share of the largest
    magnitude in the reference (or of 1, where that is smaller). `examples` make the arguments;
    `differentiable` are the places of those that have a gradient."""

    reference: Callable[..., Tensor]
    fast: Callable[..., Tensor]
    tolerance: Mapping[torch.dtype, float]
    differentiable: Sequence[int]
    examples: Mapping[str, Make] = field(repr=False)


def largest_difference(value: Tensor, wanted: Tensor) -> float:
    """In the unit of `Kernel.tolerance`; NaN where either has one."""
    if value.numel() == 0:
        return 0.0
    size = wanted.double().abs().max().clamp(min=1.0)
    return float(((value.double() - wanted.double()).abs().max() / size).item())


def compare(kernel: Kernel, arguments: Sequence[Any]) -> Iterator[tuple[str, float]]:
    """(what is compared, difference) for the value and every gradient of fast against reference.

    The gradient is of the value against fixed random numbers, so that no element's part cancels.
    """
    found: list[list[Tensor]] = []
    for function in (kernel.fast, kernel.reference):
        inputs = list(arguments)
        for place in kernel.differentiable:
            inputs[place] = arguments[place].detach().clone().requires_grad_()
        value = function(*inputs)
        grads: list[Tensor] = []
        if kernel.differentiable:
            generator = torch.Generator().manual_seed(1)
            upstream = torch.randn(value.shape, generator=generator).to(value)
            tensors = [inputs[place] for place in kernel.differentiable]
            grads = list(torch.autograd.grad(value, tensors, upstream))
        found.append([value, *grads])
    names = ["value", *(f"gradient of argument {place}" for place in kernel.differentiable)]
    for name, value, wanted in zip(names, *found, strict=True):
        yield name, largest_difference(value, wanted)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def _attention(
    lengths: Sequence[int], spec: AttentionSpec, *, heads: int = 4, kv_heads: int = 4, dim: int = 8
) -> Make:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(0)
        tokens = sum(lengths)
        shapes = ((tokens, heads, dim), (tokens, kv_heads, dim), (tokens, kv_heads, dim))
        q, k, v = (_normal(generator, *shape).to(device, dtype) for shape in shapes)
        ends = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32)
        return q, k, v, ends, spec

    return make


def _paged(
    lengths: Sequence[int], new: Sequence[int], spec: AttentionSpec, *, heads: int = 4, kv_heads: int = 2,
    dim: int = 16, slots: int = 8,
) -> Make:  # fmt: skip
    """`new` of each sequence's tokens are this step's; the pages lie in no order."""

    def make(dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(0)
        needed = [-(-length // slots) for length in lengths]
        order = torch.randperm(sum(needed) + 1, generator=generator)
        tables = torch.full((len(lengths), max(needed)), -1)
        for row, pages in zip(tables, order[: sum(needed)].split(needed), strict=True):
            row[: len(pages)] = pages
        q = _normal(generator, sum(new), heads, dim)
        k_pages, v_pages = _normal(generator, 2, len(order), kv_heads, slots, dim)
        ends = torch.tensor([0, *new]).cumsum(0)
        counts = (part.to(device, torch.int32) for part in (tables, ends, torch.tensor(lengths)))
        return *(part.to(device, dtype) for part in (q, k_pages, v_pages)), *counts, spec

    return make


def _cross_entropy(
    tokens: int, width: int, vocabulary: int, *, soft_cap: float = 0.0, weights: str = "mixed"
) -> Make:
    """`weights`: all "zero", or "mixed" zeros, ones and negative ones (as in policy gradients)."""

    def make(dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(0)
        hidden = _normal(generator, tokens, width).to(device, dtype)
        weight = _normal(generator, vocabulary, width).to(device)  # the master weights are fp32
        targets = torch.randint(vocabulary, (tokens,), generator=generator).to(device)
        mixed = torch.randint(-1, 2, (tokens,), generator=generator).float()
        return hidden, weight, targets, (mixed * (weights != "zero")).to(device), soft_cap

    return make


def _per_token(make: Make) -> Make:
    def without_weights(dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        hidden, weight, targets, _, soft_cap = make(dtype, device)
        return hidden, weight, targets, soft_cap

    return without_weights


def _linear(rows: int, inner: int, out: int, *, bias: bool = False) -> Make:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(0)
        shapes = ((rows, inner), (out, inner), *([(out,)] if bias else []))
        return tuple(_normal(generator, *shape).to(device, dtype) for shape in shapes)

    return make


def _quantised(rows: int, inner: int, out: int, bits: int, group: int = 0, *, bias: bool = False) -> Make:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        x, weight, *shift = _linear(rows, inner, out, bias=bias)(torch.float32, device)
        packed, scale = packing.quantise(weight, bits, group)
        return x.to(dtype), packed, scale, bits, *(part.to(dtype) for part in shift)

    return make


def _norm(rows: int, size: int, *, offset: float = 0.0, layer: bool = False, whole: bool = False) -> Make:
    """`whole`: the weights are fp32 whatever x is."""

    def make(dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(0)
        x = 3 * _normal(generator, rows, size) + 0.5
        weight, bias = _normal(generator, size), _normal(generator, size) if layer else None
        kept = torch.float32 if whole else dtype
        shift = None if bias is None else bias.to(device, kept)
        return x.to(device, dtype), weight.to(device, kept), shift, 1e-6, offset, layer

    return make


def _rotate(tokens: int, heads: int, dim: int) -> Make:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(0)
        angle = 9 * _normal(generator, tokens, dim // 2)
        x = _normal(generator, tokens, heads, dim)
        return x.to(device, dtype), angle.cos().to(device), angle.sin().to(device)

    return make


def _activate(name: str, *shape: int, gated: bool = True) -> Make:
    def make(dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(0)
        x, up = (4 * _normal(generator, 2, *shape)).to(device, dtype)
        return x, name, up if gated else None

    return make


def _spec(**axes: Any) -> AttentionSpec:
    return AttentionSpec(**{"scale": 0.35, **axes})


RAGGED = (5, 0, 1, 17, 16, 0, 2)
ATTENTION: dict[str, Make] = {
    "causal": _attention(RAGGED, _spec()),
    "equal lengths": _attention((8, 8, 8), _spec()),
    "apart": _attention((8, 3, 8, 3), _spec()),  # equal lengths that do not lie side by side
    "one token": _attention((1,), _spec()),
    "no token": _attention((0, 0), _spec()),
    "grouped queries": _attention(RAGGED, _spec(), kv_heads=2),
    "one key head": _attention(RAGGED, _spec(), kv_heads=1),
    "odd head": _attention(RAGGED, _spec(), heads=3, kv_heads=3, dim=5),
    "bidirectional": _attention(RAGGED, _spec(causal=False)),
    "bidirectional, grouped queries": _attention(RAGGED, _spec(causal=False), kv_heads=2),
    "window": _attention(RAGGED, _spec(window=4), kv_heads=2),
    "window of one": _attention(RAGGED, _spec(window=1)),
    "window wider than documents": _attention(RAGGED, _spec(window=64)),
    "soft cap": _attention(RAGGED, _spec(soft_cap=1.5), kv_heads=2),
    "soft cap and window": _attention(RAGGED, _spec(soft_cap=1.5, window=4)),
    "bidirectional, soft cap": _attention(RAGGED, _spec(soft_cap=1.5, causal=False)),
    "head of 32": _attention((33, *RAGGED, 70), _spec(scale=32**-0.5), dim=32),
    "head of 64, grouped queries": _attention((130, *RAGGED), _spec(scale=0.125), kv_heads=2, dim=64),
    "head of 32, bidirectional": _attention(RAGGED, _spec(scale=32**-0.5, causal=False), kv_heads=1, dim=32),
    "head of 32, no token": _attention((0, 0), _spec(), kv_heads=2, dim=32),
    "long and short": _attention((150, 3, 130), _spec(), dim=16),
}
PAGED: dict[str, Make] = {
    "decode": _paged((9, 1, 33, 8), (1, 1, 1, 1), _spec()),
    "prompts": _paged((9, 1, 33, 8), (9, 1, 33, 8), _spec()),
    "chunks": _paged((40, 21, 33), (17, 0, 12), _spec()),
    "long decode": _paged((1100, 513), (1, 2), _spec(), dim=32, slots=16),
    "window": _paged((40, 600, 33), (1, 12, 20), _spec(window=7)),
    "soft cap": _paged((40, 21, 33), (1, 2, 20), _spec(soft_cap=1.5)),
    "one key head": _paged((40, 21), (1, 21), _spec(), heads=7, kv_heads=1, dim=20),
    "no new token": _paged((8, 3), (0, 0), _spec()),
}
CROSS_ENTROPY: dict[str, Make] = {
    "small": _cross_entropy(37, 16, 50),
    "soft cap": _cross_entropy(37, 16, 50, soft_cap=3.0),
    "nothing learnt": _cross_entropy(9, 8, 20, weights="zero"),
    "one token": _cross_entropy(1, 8, 20),
    "no token": _cross_entropy(0, 8, 20),
    "blocks": _cross_entropy(40, 4, cross_entropy.BLOCK_ELEMENTS // 16 + 5),  # 16 tokens a block
}
LINEAR: dict[str, Make] = {
    "one row": _linear(1, 96, 64),
    "one row, bias": _linear(1, 96, 70, bias=True),
    "few rows": _linear(7, 64, 33, bias=True),
    "odd sizes": _linear(5, 77, 29),
    "three columns": _linear(2, 3, 1),
    "sixteen rows": _linear(16, 160, 48),
    "two strips": _linear(23, 64, 40, bias=True),
    "three strips": _linear(40, 128, 100),
    "many rows": _linear(70, 64, 48),
    "no row": _linear(0, 8, 5),
}
QUANTISED: dict[str, Make] = {
    "int8, one row": _quantised(1, 128, 64, 8),
    "int8, few rows": _quantised(7, 192, 33, 8, bias=True),
    "int8, odd sizes": _quantised(3, 77, 9, 8),
    "int8, many rows": _quantised(40, 64, 20, 8, bias=True),
    "int4, one row": _quantised(1, 256, 64, 4, 32),
    "int4, few rows": _quantised(7, 160, 33, 4, 32, bias=True),
    "int4, groups of 64": _quantised(4, 192, 7, 4, 64),
    "int4, groups of 128": _quantised(16, 256, 12, 4, 128),
    "int4, one group": _quantised(2, 32, 5, 4, 32),
    "int4, rows as groups": _quantised(2, 52, 5, 4),
    "int8, tiles": _quantised(20, 160, 33, 8, bias=True),
    "int4, tiles": _quantised(9, 192, 40, 4, 32),
    "int4, many rows": _quantised(40, 96, 20, 4, 32, bias=True),
    "no row": _quantised(0, 32, 5, 4, 32),
}
NORM: dict[str, Make] = {
    "one row": _norm(1, 64),
    "odd size": _norm(5, 77),
    "smaller than a vector": _norm(3, 5),
    "offset": _norm(4, 48, offset=1.0),
    "layer": _norm(4, 50, layer=True),
    "fp32 weights": _norm(4, 64, whole=True),
    "layer, fp32 weights, offset": _norm(3, 40, offset=1.0, layer=True, whole=True),
    "many rows": _norm(600, 64),
    "no row": _norm(0, 8),
}
ROTATE: dict[str, Make] = {
    "one token": _rotate(1, 4, 64),
    "odd head": _rotate(3, 5, 10),
    "many tokens": _rotate(300, 4, 32),
    "no token": _rotate(0, 2, 8),
}
ACTIVATE: dict[str, Make] = {
    **{f"{name}, gated": _activate(name, 5, 77) for name in elementwise.ACTIVATIONS},
    **{name: _activate(name, 3, 64, gated=False) for name in elementwise.ACTIVATIONS},
    "one row": _activate("silu", 1, 96),
    "many rows": _activate("gelu_tanh", 600, 64),
    "no row": _activate("relu", 0, 8),
}
FP32, HALF, BF16 = torch.float32, torch.float16, torch.bfloat16

KERNELS: dict[str, Kernel] = {
    "activate": Kernel(
        elementwise.activate_reference,
        elementwise.activate,
        {FP32: 1e-5, HALF: 4e-3, BF16: 1e-2},
        (),
        ACTIVATE,
    ),
    "attention": Kernel(
        attention.reference, attention.attention, {FP32: 1e-5, HALF: 4e-3, BF16: 2e-2}, (0, 1, 2), ATTENTION
    ),
    "linear": Kernel(matmul.reference, matmul.linear, {FP32: 1e-5, HALF: 4e-3, BF16: 1e-2}, (), LINEAR),
    # A gradient sums over the vocabulary: with 65,541 of them, on AVX2, torch's fp32 matmul was seen 5e-5
    # from fp64, on both sides.
    "linear_cross_entropy": Kernel(
        cross_entropy.reference,
        cross_entropy.linear_cross_entropy,
        {FP32: 5e-5, HALF: 4e-3, BF16: 2e-2},
        (0, 1),
        CROSS_ENTROPY,
    ),
    "norm": Kernel(
        elementwise.norm_reference, elementwise.norm, {FP32: 1e-5, HALF: 4e-3, BF16: 1e-2}, (), NORM
    ),
    "paged_attention": Kernel(
        paged_attention.reference,
        paged_attention.paged_attention,
        {FP32: 1e-5, HALF: 4e-3, BF16: 2e-2},
        (),
        PAGED,
    ),
    # x is rounded to 8 bits in groups of 32: half a step is 0.4 % of a group's largest, and errors add up
    # as their root.
    "quantised_linear": Kernel(
        packing.reference, packing.quantised_linear, {FP32: 1.5e-2, HALF: 1e-2, BF16: 2e-2}, (), QUANTISED
    ),
    "rotate": Kernel(
        elementwise.rotate_reference, elementwise.rotate, {FP32: 1e-5, HALF: 4e-3, BF16: 1e-2}, (), ROTATE
    ),
    "token_losses": Kernel(
        cross_entropy.token_reference,
        cross_entropy.token_losses,
        {FP32: 1e-5, HALF: 4e-3, BF16: 2e-2},
        (),
        {name: _per_token(make) for name, make in CROSS_ENTROPY.items()},
    ),
}
