"""bf16 on CPUs that cannot multiply it.

Where neither AVX512 nor AMX (on Arm, BF16) is there, torch multiplies bf16 a number at a time: on an AVX2
machine its matmul was seen at 1/60 of fp32's rate. There the operands are widened, multiplied in fp32
and rounded once: the same result or a nearer one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_ELEMENTS = 1 << 24  # of a matrix, widened at a time: 64 MB


def multiplies_bfloat16() -> bool:
    """Whether this CPU has bf16 matmuls worth the name."""
    return _MULTIPLIES


def _ask() -> bool:
    """oneDNN's own answer, which is private to torch."""
    ask = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(ask()) if ask is not None else torch.backends.cpu.get_cpu_capability() != "DEFAULT"


# Asked here and once: torch.compile sees a constant. Of a cache it warns, and its own mark for a constant
# (assume_constant_result) imports the whole compiler: 1.5 s and 150 MB in every process.
_MULTIPLIES = _ask()


def widened(x: Tensor) -> Tensor:
    """x as it is to be multiplied: in fp32 where it is bf16 on a CPU that cannot, else x itself."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and not multiplies_bfloat16():
        return x.float()
    return x


def wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` in x's dtype, computed as `widened` says; the matrix is widened a block at a time where
    nobody asks for a gradient."""
    wide = widened(x)
    if wide is x:
        return F.linear(x, weight, bias)
    rows = max(1, BLOCK_ELEMENTS // max(weight.shape[1], 1))
    wide_bias = None if bias is None else bias.float()
    if weight.shape[0] <= rows or torch.is_grad_enabled():
        return F.linear(wide, weight.float(), wide_bias).to(x.dtype)
    y = x.new_empty((*x.shape[:-1], weight.shape[0]))
    for start in range(0, weight.shape[0], rows):
        part = slice(start, start + rows)
        y[..., part] = F.linear(wide, weight[part].float(), None if wide_bias is None else wide_bias[part])
    return y
