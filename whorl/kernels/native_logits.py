"""The C++ look over rows of logits, bound and tested."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

Likeliest = Callable[[Tensor], tuple[Tensor, Tensor]]
"""logits [N, V] fp32, contiguous → (ids int64 [N], log Σ exp fp32 [N])"""


def bind(library: ctypes.CDLL) -> Likeliest:
    function = library.whorl_likeliest
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2 + [ctypes.c_int]
    function.restype = None

    def call(logits: Tensor) -> tuple[Tensor, Tensor]:
        rows, size = logits.shape
        best, lse = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
        function(logits.data_ptr(), best.data_ptr(), lse.data_ptr(), rows, size, torch.get_num_threads())
        return best, lse

    return call


def problem(kernel: Likeliest) -> str:
    """Compare with torch's own; "" when equal, and where a NaN shows."""
    logits = 5 * torch.randn(3, 20_001, generator=torch.Generator().manual_seed(0))
    logits[1, 7] = logits[1, 19_000] = 99.0
    best, lse = kernel(logits)
    known, wanted = logits.argmax(-1), torch.logsumexp(logits, -1)
    if not torch.equal(best, known) or float((lse - wanted).abs().max()) > 1e-5 * float(wanted.abs().max()):
        return "the likeliest token's self-test differs"
    for strange in (float("nan"), float("inf")):
        logits[2, 12_345] = strange
        if bool(torch.isfinite(kernel(logits)[1][2])):
            return "the likeliest token's self-test: a strange number does not show"
    return ""
