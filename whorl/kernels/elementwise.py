"""Norms, rotations and activations: what stands between a block's matmuls.

Where a compiler can fuse them, or a gradient is wanted, they are torch's ops. A decode step is neither:
there each op's call costs more than its work, and one C++ pass takes the place of five to eight.
A row's result is the same bits whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from whorl.kernels import native
from whorl.kernels.native_elementwise import Elementwise

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
KINDS = {name: number for number, name in enumerate(ACTIVATIONS)}  # as elementwise_cpu.cpp counts
SMALL = 1 << 17  # numbers that one thread adds


def norm_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, offset: float, layer: bool
) -> Tensor:
    """RMSNorm (arXiv 1910.07467) or, with `layer`, LayerNorm of x [..., D] in fp32, in x's dtype.

    The scale is weight + offset.
    """
    scale = weight.float() + offset if offset else weight.float()
    if layer:
        return F.layer_norm(x.float(), (x.shape[-1],), scale, None if bias is None else bias.float(), eps).to(
            x.dtype
        )
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * scale).to(x.dtype)


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, offset: float, layer: bool) -> Tensor:
    """As `norm_reference`, the fast way."""
    kernels = _kernels(x, weight)
    if kernels is None or (weight.dtype != x.dtype and weight.dtype != torch.float32):
        return norm_reference(x, weight, bias, eps, offset, layer)
    return kernels.norm(x, weight, bias, eps, offset, layer)


def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [T, H, D], whose halves hold the two coordinates of each frequency, by cos and sin
    [T, D / 2], in fp32 and returned in x's dtype."""
    cos, sin = cos[:, None, :], sin[:, None, :]
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As `rotate_reference`, the fast way."""
    kernels = _kernels(x, cos)
    return rotate_reference(x, cos, sin) if kernels is None else kernels.rotate(x, cos, sin)


def activate_reference(x: Tensor, name: str, up: Tensor | None = None) -> Tensor:
    """The activation of that name; times `up` in a gated MLP (arXiv 2002.05202)."""
    active = ACTIVATIONS[name](x)
    return active if up is None else active * up


def activate(x: Tensor, name: str, up: Tensor | None = None) -> Tensor:
    """As `activate_reference`, the fast way."""
    kernels = _kernels(x, x if up is None else up)
    if kernels is None:
        return activate_reference(x, name, up)
    return kernels.activate(x, KINDS[name], up)


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y of one shape: torch's, but for a small step, whose calls `tape` can then keep."""
    if x.numel() > SMALL or x.shape != y.shape or x.dtype != y.dtype:
        return x + y
    kernels = _kernels(x, y)
    return x + y if kernels is None else kernels.add(x, y)


def _kernels(x: Tensor, other: Tensor) -> Elementwise | None:
    """The C++ kernels where they may stand in for torch's ops."""
    if torch.compiler.is_compiling() or (
        torch.is_grad_enabled() and (x.requires_grad or other.requires_grad)
    ):
        return None
    if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float32) or not x.numel():
        return None
    return native.kernels().elementwise if x.is_contiguous() and other.is_contiguous() else None
