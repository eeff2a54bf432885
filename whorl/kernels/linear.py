"""y = x Wᵀ + b for the few rows of a decode step, bound by reading W.

For one row torch's bf16 matmul was seen to read W at 40–60 % of the memory's rate, the C++ kernel at
75–87 % (bench/linear.py, two cores, not undisturbed). It takes
bf16 and fp32 on the CPU up to ROWS rows (TILED_ROWS where the CPU has AMX), and there a row's result is
bit for bit the same whatever stands beside it in the batch. Beyond, and wherever the kernel is not, it
is `F.linear` (`kernels.wide` on a CPU without bf16 matmuls), whose sums have another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from whorl.kernels import native
from whorl.kernels.wide import wide_linear

# Up to here the kernel wins, measured at 1024 × 3072 and its like, weights out of cache. Vectors at 16
# rows: 1.1–1.2× in bf16 on a CPU without AMX, 1.5–1.8× in fp32; at 64 rows 0.8–1.0×. Tiles (AMX) at 64
# rows: 1.0–1.6×. Constants and not a measurement at start-up, whose noise would move results from run
# to run.
ROWS, TILED_ROWS = 16, 64


def reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in], weight [out, in], bias [out] → [..., out] in x's dtype; computed in fp32."""
    return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `reference`, the fast way, in x's dtype.

    Gradients flow; what asks for one goes through `F.linear`.
    """
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    if _plain(x, weight, bias):
        return wide_linear(x, weight, bias)
    if torch.compiler.is_compiling():
        return torch.ops.whorl.linear(x, weight, bias)
    return _linear(x, weight, bias)


def linears(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> list[Tensor]:
    """`linear` of one x with several matrices; in a small step one call costs less than three."""
    alike = all(weight.dtype == x.dtype and weight.is_contiguous() for weight in weights)
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    if (
        alike and 0 < rows <= ROWS and not torch.compiler.is_compiling()
        and not any(_plain(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))
        and all(bias is None or bias.dtype == x.dtype for bias in biases)
        and (kernel := native.kernels().linear)
    ):  # fmt: skip
        return kernel.several(x, weights, biases)
    return [linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether it is torch's: a gradient is wanted, or x is not what the kernel takes."""
    if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float32):
        return True
    return torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    if 0 < rows <= TILED_ROWS and weight.is_contiguous() and (kernel := native.kernels().linear):
        tiled = rows > ROWS and x.dtype == torch.bfloat16 and kernel.tiles(weight.shape[1], weight.shape[0])
        if rows <= ROWS or tiled:
            return kernel.multiply(x, weight, bias)
    return wide_linear(x, weight, bias)


@torch.library.custom_op("whorl::linear", mutates_args=())
def _op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _linear(x, weight, bias)


@_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))
