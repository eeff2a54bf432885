"""The C++ attention over paged keys and values, bound and tested."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from whorl.kernels.native_call import COUNT, POINTER, REAL, SIZE, typed_calls

PagedAttention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, float, int, float], Tensor | None]
"""(q, k_pages, v_pages, tables, offsets, lengths, scale, window, soft cap; 0 is none) → [T, H, D], or
None for what it does not take: other types than bf16 and fp32, pages that are not contiguous."""


def bind(library: ctypes.CDLL) -> PagedAttention:
    functions = typed_calls(library, "whorl_paged", [POINTER] * 7 + [SIZE] * 8 + [REAL] * 2 + [COUNT])

    def attend(
        q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, offsets: Tensor, lengths: Tensor,
        scale: float, window: int, soft_cap: float,
    ) -> Tensor | None:  # fmt: skip
        function = functions.get(q.dtype)
        same = k_pages.dtype == v_pages.dtype == q.dtype
        if function is None or not (same and k_pages.is_contiguous() and v_pages.is_contiguous()):
            return None
        heads, key_heads = q.shape[1], k_pages.shape[1]
        q = q.contiguous()
        tables, offsets, lengths = (x.to(torch.int32).contiguous() for x in (tables, offsets, lengths))
        out = torch.empty_like(q)
        function(
            q.data_ptr(), k_pages.data_ptr(), v_pages.data_ptr(), out.data_ptr(), tables.data_ptr(),
            offsets.data_ptr(), lengths.data_ptr(), len(q), len(lengths), tables.shape[1], heads, key_heads,
            k_pages.shape[2], q.shape[2], window, scale, soft_cap, torch.get_num_threads(),
        )  # fmt: skip
        return out

    return attend


def problem(kernel: PagedAttention) -> str:
    """Compare with the formula in fp32: a prompt, a decode step, a head that fits no tile, a window and a
    soft cap; "" when equal."""
    generator = torch.Generator().manual_seed(0)
    lengths, counts, slots, heads, key_heads = (70, 23), (45, 1), 8, 4, 2
    tables = torch.randperm(18, generator=generator)[:18].view(2, 9).to(torch.int32)
    offsets = torch.tensor([0, counts[0], sum(counts)], dtype=torch.int32)
    worst = 0.0
    for d, window, cap in ((32, 0, 0.0), (20, 9, 2.0)):
        pools = torch.randn(2, 18, key_heads, slots, d, generator=generator)
        q = torch.randn(sum(counts), heads, d, generator=generator)
        for dtype, share in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
            query, keys, values = q.to(dtype), pools[0].to(dtype), pools[1].to(dtype)
            given = kernel(
                query, keys, values, tables, offsets, torch.tensor(lengths, dtype=torch.int32), d**-0.5,
                window, cap,
            )  # fmt: skip
            assert given is not None
            wanted = torch.cat(
                [
                    formula(part, keys, values, table, length, d**-0.5, window, cap)
                    for part, table, length in zip(query.split(counts), tables, lengths, strict=True)
                ]
            )
            worst = max(worst, float((given.float() - wanted).abs().max()) / share)
    return "" if worst <= 1 else f"the paged attention's self-test is {worst:.2g} times its tolerance off"


def formula(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, table: Tensor, length: int, scale: float, window: int,
    cap: float,
) -> Tensor:  # fmt: skip
    """One sequence's new queries q [n, H, D] over its pages `table`, in fp32 on the host: what a fast
    version is compared with before it is used."""
    group = q.shape[1] // k_pages.shape[1]
    keys, values = (
        pool[table.long()].float().transpose(0, 1).flatten(1, 2)[:, :length].repeat_interleave(group, 0)
        for pool in (k_pages, v_pages)
    )
    scores = q.float().transpose(0, 1) @ keys.transpose(1, 2) * scale
    scores = cap * torch.tanh(scores / cap) if cap else scores
    distance = torch.arange(length - len(q), length)[:, None] - torch.arange(length)
    hidden = (distance < 0) | (distance >= (window or length))
    return (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ values).transpose(0, 1)
