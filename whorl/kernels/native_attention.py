"""The C++ backward of packed attention, bound and tested."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

AttentionBackward = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor, Tensor]
]
"""(grad, q, k, v, out, lse, offsets, scale, causal) → (dq, dk, dv), all but lse and offsets in bf16."""


def bind(library: ctypes.CDLL) -> AttentionBackward:
    function = library.whorl_attention_backward
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [pointer] * 10 + [size] * 4 + [ctypes.c_float, ctypes.c_bool, ctypes.c_int]
    function.restype = None

    def backward(
        grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, offsets: Tensor,
        scale: float, causal: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        inputs = [x.contiguous() for x in (grad, q, k, v, out, lse)]
        grads = tuple(torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
        function(
            *(x.data_ptr() for x in inputs), *(x.data_ptr() for x in grads), offsets.data_ptr(),
            len(offsets) - 1, q.shape[1], k.shape[1], q.shape[2], scale, causal, torch.get_num_threads(),
        )  # fmt: skip
        return grads[0], grads[1], grads[2]

    return backward


def problem(kernel: AttentionBackward) -> str:
    """Compare with the formula on two ragged documents in fp32; "" when equal.

    Written without autograd: this may run inside an op's backward, where autograd is off.
    """
    generator = torch.Generator().manual_seed(0)
    lengths, heads, key_heads, d = (70, 9), 4, 2, 32
    total, scale, shared = sum(lengths), d**-0.5, heads // key_heads

    def draw(n: int) -> Tensor:
        return torch.randn(total, n, d, generator=generator).bfloat16()

    q, grad, k, v = draw(heads), draw(heads), draw(key_heads), draw(key_heads)
    out, lse = torch.empty(total, heads, d), torch.empty(total, heads)
    expected = [torch.empty(x.shape) for x in (q, k, v)]
    for rows in torch.arange(total).split(lengths):
        query, upstream, key, value = (x[rows].float().transpose(0, 1) for x in (q, grad, k, v))
        key, value = (x.repeat_interleave(shared, 0) for x in (key, value))
        scores = query @ key.transpose(1, 2) * scale
        scores = scores.masked_fill(torch.ones(len(rows), len(rows)).triu(1).bool(), float("-inf"))
        weights = scores.softmax(-1)
        made = weights @ value
        out[rows], lse[rows] = made.transpose(0, 1), scores.logsumexp(-1).T
        change = upstream @ value.transpose(1, 2) - (upstream * made).sum(-1, keepdim=True)
        grad_scores = weights * change * scale
        grads = (grad_scores @ key, grad_scores.transpose(1, 2) @ query, weights.transpose(1, 2) @ upstream)
        for target, value in zip(expected, grads, strict=True):
            folded = value.unflatten(0, (target.shape[1], -1)).sum(1)  # heads that share a key
            target[rows] = folded.transpose(0, 1)
    offsets = torch.tensor([0, lengths[0], total], dtype=torch.int32)
    given = kernel(grad, q, k, v, out.bfloat16(), lse, offsets, scale, True)
    worst = max(float((a.float() - b).abs().max()) for a, b in zip(given, expected, strict=True))
    return "" if worst < 0.1 else f"the attention gradient's self-test differs by {worst:.2g}"
