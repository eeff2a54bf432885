"""Attention over documents packed side by side in one flat sequence.

One registered op with explicit fake and backward, so that compiled models see it as one node whose
`offsets` are data: a new packing never recompiles. `reference` is the specification; the op groups
documents of like length and hands each group to the fastest kernel that honours the layer's spec.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from whorl.kernels import native
from whorl.kernels.spec import AttentionSpec
from whorl.kernels.wide import widened

GROUP_FILL = 0.8  # a document joins a group when it fills at least this share of the group's longest
FLASH_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def reference(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, spec: AttentionSpec) -> Tensor:
    """The specification: one dense mask over all of T, softmax in fp32.

    q is [T, H, D], k and v [T, K, D] with H a multiple of K; offsets [N + 1] int32 delimit the
    documents. Returns [T, H, D] in q's dtype.
    """
    tokens, heads, _ = q.shape
    group = heads // k.shape[1]
    index = torch.arange(tokens, device=q.device)
    document = torch.searchsorted(offsets.long().to(q.device), index, right=True)
    distance = index[:, None] - index[None, :]
    seen = document[:, None] == document[None, :]
    if spec.causal:
        seen &= distance >= 0
    if spec.window is not None:
        seen &= distance < spec.window
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float().repeat_interleave(group, dim=1)) * spec.scale
    if spec.soft_cap is not None:
        scores = spec.soft_cap * torch.tanh(scores / spec.soft_cap)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v.float().repeat_interleave(group, dim=1)).to(q.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, spec: AttentionSpec) -> Tensor:
    """Packed attention, the fast way; shapes and meaning as `reference`."""
    window, cap = spec.window or 0, spec.soft_cap or 0.0
    learning = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if learning or torch.compiler.is_compiling():
        return torch.ops.whorl.attention(q, k, v, offsets, spec.scale, spec.causal, window, cap)[0]
    # Not through the dispatcher, whose first call imports the compiler.
    return _forward(q, k, v, offsets, spec.scale, spec.causal, window, cap)[0]


class Group(NamedTuple):
    """Documents attended to in one call: a [B, L] block, padded at the end of each row."""

    size: int  # B
    length: int  # L
    start: int | None  # the block is tokens start … start + B·L when no padding or gather is needed
    gather: Tensor | None  # [B·L] flat index of each row's tokens (padding points at the row's first)
    valid: Tensor | None  # [n] which of the B·L are real
    lengths: tuple[int, ...]


@lru_cache(maxsize=64)
def _plan(offsets: tuple[int, ...], ragged: bool, device: torch.device) -> tuple[Group, ...]:
    """Group documents of like length; without `ragged` only equal lengths share a group."""
    documents = [(end - start, start) for start, end in pairwise(offsets) if end > start]
    documents.sort(key=lambda document: (-document[0], document[1]))
    groups: list[list[tuple[int, int]]] = []
    for length, start in documents:
        longest = groups[-1][0][0] if groups else 0
        if groups and (length == longest or (ragged and length >= GROUP_FILL * longest)):
            groups[-1].append((length, start))
        else:
            groups.append([(length, start)])
    return tuple(_group(members, device) for members in groups)


def _group(members: list[tuple[int, int]], device: torch.device) -> Group:
    members = sorted(members, key=lambda member: member[1])
    longest = max(length for length, _ in members)
    lengths = tuple(length for length, _ in members)
    starts = [start for _, start in members]
    if all(length == longest for length in lengths) and starts == list(
        range(starts[0], starts[0] + longest * len(starts), longest)
    ):
        return Group(len(members), longest, starts[0], None, None, lengths)
    row = torch.arange(longest)
    inside = row[None, :] < torch.tensor(lengths)[:, None]
    index = torch.tensor(starts)[:, None] + torch.where(inside, row[None, :], 0)
    return Group(
        len(members),
        longest,
        None,
        index.flatten().to(device),
        inside.flatten().nonzero()[:, 0].to(device),
        lengths,
    )


def _take(x: Tensor, group: Group) -> Tensor:
    """[T, H, D] → [B, H, L, D]."""
    span = group.size * group.length
    rows = x.narrow(0, group.start, span) if group.gather is None else x.index_select(0, group.gather)  # type: ignore[arg-type]
    return rows.view(group.size, group.length, *x.shape[1:]).transpose(1, 2)


def _take_lse(lse: Tensor, group: Group) -> Tensor:
    """[T, H] → [B, H, L], infinite on padding rows: their weights, and so their gradients, are then 0."""
    block = _take(lse[..., None], group)[..., 0]
    if group.valid is None:
        return block.contiguous()
    padding = torch.ones(group.size * group.length, dtype=torch.bool, device=lse.device)
    padding[group.valid] = False
    return block.masked_fill(padding.view(group.size, 1, group.length), float("inf"))


def _put(out: Tensor, block: Tensor, group: Group) -> None:
    """[B, H, L, …] → its rows of out [T, H, …]; padding rows are left out."""
    rows = block.transpose(1, 2).reshape(group.size * group.length, *out.shape[1:])
    if group.gather is None:
        out.narrow(0, group.start, rows.shape[0]).copy_(rows)  # type: ignore[arg-type]
    else:
        out.index_copy_(0, group.gather[group.valid], rows[group.valid])


def _takes_flash(q: Tensor, window: int, soft_cap: float, longest: int) -> bool:
    return q.device.type == "cpu" and soft_cap == 0.0 and (window == 0 or longest <= window)


def _takes_native(q: Tensor, window: int, soft_cap: float, offsets: list[int]) -> bool:
    """The C++ backward is for bf16 on the CPU, whole tiles of the head, nothing but causality."""
    longest = max((end - start for start, end in pairwise(offsets)), default=0)
    fits = q.dtype == torch.bfloat16 and q.shape[-1] % 32 == 0
    return fits and _takes_flash(q, window, soft_cap, longest)


def _scores(
    q: Tensor, k: Tensor, group: Group, scale: float, causal: bool, window: int
) -> tuple[Tensor, Tensor]:
    """Raw scores [B, H, L, L] in fp32 and what may be seen [B, 1, L, L]."""
    scores = torch.matmul(q.float(), k.float().transpose(-1, -2)) * scale
    row = torch.arange(group.length, device=q.device)
    distance = row[:, None] - row[None, :]
    seen = row[None, None, :] < torch.tensor(group.lengths, device=q.device)[:, None, None]
    if causal:
        seen = seen & (distance >= 0)
    if window:
        seen = seen & (distance < window)
    return scores, (seen | (distance == 0))[:, None]  # a padding row sees itself, so that no row is empty


def _forward_group(
    q: Tensor, k: Tensor, v: Tensor, group: Group, scale: float, causal: bool, window: int, soft_cap: float
) -> tuple[Tensor, Tensor]:
    if _takes_flash(q, window, soft_cap, group.length):
        return FLASH_FORWARD(q, k, v, 0.0, causal, attn_mask=None, scale=scale)
    scores, seen = _scores(q, k, group, scale, causal, window)
    if soft_cap:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    scores = scores.masked_fill(~seen, float("-inf"))
    lse = torch.logsumexp(scores, -1)
    return torch.matmul((scores - lse[..., None]).exp(), v.float()).to(q.dtype), lse


def _backward_group(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, group: Group,
    scale: float, causal: bool, window: int, soft_cap: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if _takes_flash(q, window, soft_cap, group.length):
        return FLASH_BACKWARD(grad, q, k, v, out, lse, 0.0, causal, attn_mask=None, scale=scale)
    scores, seen = _scores(q, k, group, scale, causal, window)
    squash = torch.tanh(scores / soft_cap) if soft_cap else None
    capped = soft_cap * squash if squash is not None else scores
    weights = (capped - lse[..., None]).exp().masked_fill(~seen, 0.0)
    grad32 = grad.float()
    grad_v = torch.matmul(weights.transpose(-1, -2), grad32)
    delta = (grad32 * out.float()).sum(-1, keepdim=True)
    grad_scores = weights * (torch.matmul(grad32, v.float().transpose(-1, -2)) - delta)
    if squash is not None:
        grad_scores = grad_scores * (1 - squash * squash)
    grad_q = torch.matmul(grad_scores, k.float()) * scale
    grad_k = torch.matmul(grad_scores.transpose(-1, -2), q.float()) * scale
    return grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype)


def _widen(x: Tensor, heads: int) -> Tensor:
    """Repeat key or value heads [T, K, D] for the query heads that share them."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, scale: float, causal: bool, window: int, soft_cap: float
) -> tuple[Tensor, Tensor]:
    dtype = q.dtype
    q, k, v = widened(q), _widen(widened(k), q.shape[1]), _widen(widened(v), q.shape[1])
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    for group in _plan(tuple(offsets.tolist()), causal, q.device):
        block, block_lse = _forward_group(
            _take(q, group), _take(k, group), _take(v, group), group, scale, causal, window, soft_cap
        )
        _put(out, block, group)
        _put(lse, block_lse, group)
    return out.to(dtype), lse


_attention = torch.library.custom_op("whorl::attention", _forward, mutates_args=())


@_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, scale: float, causal: bool, window: int, soft_cap: float
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


@torch.library.custom_op("whorl::attention_backward", mutates_args=())
def _attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, offsets: Tensor,
    scale: float, causal: bool, window: int, soft_cap: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    lengths = offsets.tolist()
    if _takes_native(q, window, soft_cap, lengths) and (
        native_backward := native.kernels().attention_backward
    ):
        return native_backward(grad, q, k, v, out, lse, offsets, scale, causal)
    dtype = q.dtype
    grad, q, k, v, out = (widened(x) for x in (grad, q, k, v, out))
    wide_k, wide_v = _widen(k, q.shape[1]), _widen(v, q.shape[1])
    grads = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, wide_k, wide_v))
    for group in _plan(tuple(lengths), causal, q.device):
        upstream, query, key, value, made = (_take(x, group) for x in (grad, q, wide_k, wide_v, out))
        blocks = _backward_group(
            upstream, query, key, value, made, _take_lse(lse, group), group, scale, causal, window, soft_cap
        )
        for target, block in zip(grads, blocks, strict=True):
            _put(target, block, group)
    grad_q, grad_k, grad_v = grads
    return grad_q.to(dtype), _narrow(grad_k, k).to(dtype), _narrow(grad_v, v).to(dtype)


def _narrow(grad: Tensor, like: Tensor) -> Tensor:
    """Sum the gradients of repeated heads back into [T, K, D]."""
    if grad.shape == like.shape:
        return grad
    tokens, heads, dim = like.shape
    return grad.view(tokens, heads, grad.shape[1] // heads, dim).sum(2, dtype=torch.float32).to(like.dtype)


@_attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, offsets: Tensor,
    scale: float, causal: bool, window: int, soft_cap: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, offsets, *ctx.spec = inputs
    ctx.save_for_backward(q, k, v, *output, offsets)


def _backward(ctx, grad: Tensor, _: Tensor):  # type: ignore[no-untyped-def]
    q, k, v, out, lse, offsets = ctx.saved_tensors
    grads = torch.ops.whorl.attention_backward(grad.contiguous(), q, k, v, out, lse, offsets, *ctx.spec)
    return (*grads, None, None, None, None, None)


_attention.register_autograd(_backward, setup_context=_setup_context)
