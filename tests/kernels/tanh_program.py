"""The soft cap's tanh by itself, as a Triton program: imports triton."""

from __future__ import annotations

import triton
import triton.language as tl

from whorl.kernels.triton_paged_kernels import _tanh


@triton.jit
def tanh(x, out, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(out + at, _tanh(tl.load(x + at)))
