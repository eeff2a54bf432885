"""The C++ cross-entropy with its gradient, bound and tested."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

SoftmaxGradient = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [n, V] bf16, targets [n] int64, weights [n]) → weighted losses [n]; logits become the gradient."""


def bind(library: ctypes.CDLL) -> SoftmaxGradient:
    function = library.whorl_softmax_gradient
    function.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 2 + [ctypes.c_int]
    function.restype = None

    def gradient(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        assert logits.is_contiguous() and logits.dtype == torch.bfloat16
        targets, weights = targets.contiguous(), weights.contiguous()
        losses = torch.empty(len(targets))
        function(
            logits.data_ptr(), targets.data_ptr(), weights.data_ptr(), losses.data_ptr(), *logits.shape,
            torch.get_num_threads(),
        )  # fmt: skip
        return losses

    return gradient


def problem(kernel: SoftmaxGradient) -> str:
    """Compare with the formula in fp32; "" when equal."""
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(5, 33, generator=generator)).bfloat16()
    targets, weights = torch.tensor([0, 32, 7, 7, 1]), torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0])
    wide = logits.float()
    wanted = wide.softmax(-1)
    wanted[torch.arange(5), targets] -= 1
    losses = kernel(logits, targets, weights)
    known = weights * (wide.logsumexp(-1) - wide[torch.arange(5), targets])
    worst = max(
        float((logits.float() - weights[:, None] * wanted).abs().max()), float((losses - known).abs().max())
    )
    return "" if worst < 0.02 else f"the cross-entropy self-test differs by {worst:.2g}"
